"""Lines of comma-separated text to cells, exactly or not at all: what a quotation mark or a comma too many would drop,
cut or swallow is one line that names the place."""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mml_lightning.utils.errors import UserError

MEND = "fix its quotation marks: they enclose whole cells and are doubled inside them"
DELIMITERS = ",;\t"


def has_marks(path: Path) -> bool:
    """Whether a quotation mark stands anywhere in a file: without one every line is a row and needs no look."""
    with path.open("rb") as handle:
        return any(b'"' in piece for piece in iter(lambda: handle.read(2**20), b""))


def rows_of(
    path: Path, lines: Iterable[str], delimiter: str = ",", marks: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, cells) of every row that says something. A quoted cell may hold line breaks.

    Args:
        marks: see :func:`has_marks`.

    Raises:
        UserError: a quotation mark that is not closed, or that stands inside of a cell or outside of one; a cell that
            holds line breaks and as many delimiters as a whole row: two stray marks have swallowed rows.
    """
    text: list[str] = []  # of the row that is read

    def kept() -> Iterator[str]:
        for line in lines:
            text.append(line)
            yield line

    reader = csv.reader(kept() if marks else lines, delimiter=delimiter, strict=True)
    first, width = 1, 0
    try:
        for cells in reader:
            if len(text) > 1 or (text and '"' in text[0]):
                _check_marks(path, first, "".join(text), cells, delimiter, width or len(cells))
            if any(cells):
                width = width or len(cells)
                yield first, cells
            first = reader.line_num + 1
            text.clear()
    except csv.Error as error:
        raise UserError(f"{path}, line {first}: {error}; {MEND}") from None


def cells_of(path: Path, line: int, text: str, delimiter: str) -> list[str]:
    """The cells of a single line.

    Raises:
        UserError: as :func:`rows_of`.
    """
    try:
        cells = next(csv.reader([text], delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: {error}; {MEND}") from None
    _check_marks(path, line, text, cells, delimiter, len(cells))
    return cells


def delimiter_of(header: str) -> str:
    """The one of :data:`DELIMITERS` that stands most often in a header, outside of quotation marks."""
    return max(DELIMITERS, key=re.sub(r'"[^"]*"', "", header).count)


def check_header(path: Path, names: Iterable[str]) -> None:
    """Raises:
    UserError: two columns have one name, whatever its case.
    """
    seen: dict[str, int] = {}
    for place, name in enumerate(names, 1):
        key = name.strip().casefold()
        if key and key in seen:
            raise UserError(f"{path}: columns {seen[key]} and {place} are both called {name.strip()!r}; rename one")
        seen[key] = place


def check_width(path: Path, line: int, cells: list[str], width: int) -> None:
    """Raises:
    UserError: a row has fewer cells than the header, or more that are not empty.
    """
    if len(cells) < width or any(cell.strip() for cell in cells[width:]):
        have = f"{len(cells)} cell{'' if len(cells) == 1 else 's'}"
        raise UserError(
            f"{path}, line {line}: {have} where the header has {width}; fix the line: a cell that holds a delimiter "
            "needs quotation marks"
        )


@functools.cache
def _row(delimiter: str) -> re.Pattern[str]:
    """A row whose quotation marks enclose whole cells."""
    cell = rf'(?:"(?:[^"]|"")*"|[^"{re.escape(delimiter)}]*)'
    return re.compile(rf"{cell}(?:{re.escape(delimiter)}{cell})*")


def _check_marks(path: Path, line: int, text: str, cells: list[str], delimiter: str, width: int) -> None:
    if not _row(delimiter).fullmatch(text.rstrip("\r\n")):
        raise UserError(f"{path}, line {line}: stray quotation mark inside a cell; {MEND}")
    for cell in cells:
        if ("\n" in cell or "\r" in cell) and cell.count(delimiter) >= max(1, width - 1):
            last = line + len(re.findall(r"\r\n|\r|\n", text.rstrip("\r\n")))
            raise UserError(
                f"{path}, line {line}: a quotation mark opens a cell that spans whole lines, up to line {last}; {MEND}"
            )
