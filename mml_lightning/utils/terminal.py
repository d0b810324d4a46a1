"""What people read on a terminal, by rich: tables that fit it, colour where it helps, bars that leave nothing behind.

Colour and control characters go to a terminal only; NO_COLOR turns colour off. rich is imported when something is
shown, so that `--help` is instant.
"""

from __future__ import annotations

import io
import itertools
import logging
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TextIO

from mml_lightning.utils.plain_text import VisibleFormatter, VisibleStream, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

WIDTH = 80  # where nobody tells
NARROW = 16  # a column of words is not made narrower than this, or than its longest cell
GAP = 3  # between columns
MISSING = ("–", "-", "")
NUMBER = re.compile(r"[-+±]?\d[\d.,:e+-]*( ?[%x])?( ± [\d.]+)?( \(\d+\))?|[–-]?")
MEASURED = re.compile(r"\d\.\d")
STYLES = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31"}  # yellow, red


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody looks at it; Python has None for one that was closed before it started."""
    return stream is not None and stream.isatty()


def coloured(stream: TextIO | None) -> bool:
    """Whether escape sequences of colour go to it."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def console(stream: TextIO | None) -> Console:
    """Where rich draws: `stream`, past what would make our own escape sequences visible."""
    from rich.console import Console

    shown = is_terminal(stream)
    return Console(
        file=stream.below if isinstance(stream, VisibleStream) else stream,  # type: ignore[arg-type]
        force_terminal=shown,
        color_system="auto" if coloured(stream) else None,
        width=None if shown else _width(),
        **{"highlight": False, "markup": False, "emoji": False},  # type: ignore[arg-type]
    )


def _width() -> int:
    """Of what is no terminal: COLUMNS, or 80."""
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdigit() and int(columns) else WIDTH


def show(page: str) -> None:
    """Print a page, as wide as the terminal.

    Args:
        page: markdown: lines of text, headings, lists and pipe tables.
    """
    if is_terminal(sys.stdout):
        _draw(page, console(sys.stdout))
    else:
        print(plain(page), end="")


def plain(page: str, width: int | None = None) -> str:
    """The text of :func:`show` for a log: no escape sequences, and no table wider than `width`, by default that of the
    terminal."""
    from rich.console import Console

    buffer = io.StringIO()
    width = width or console(sys.stdout).width
    _draw(page, Console(file=buffer, width=width, color_system=None, force_terminal=False))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _draw(page: str, to: Console) -> None:
    for is_table, lines in itertools.groupby(page.strip("\n").split("\n"), lambda line: line.startswith("|")):
        if is_table:
            head, _, *rows = map(_split, lines)
            TextTable(head, rows).draw(to)
            continue
        for line in lines:
            _print(line, to)


def _print(line: str, to: Console) -> None:
    """A line of text, of a list or a heading; only a word may be longer than the width, so that it can be copied."""
    from rich.text import Text

    head, mark, words = re.match(r"(#* *)(- )?(.*)", line).groups(default="")  # type: ignore[union-attr]
    indent = head if head.isspace() else ""
    wide = textwrap.TextWrapper(
        to.width,
        initial_indent=indent + mark,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    told = "\n".join(wide.wrap(visible(words))) if len(line) > to.width else visible(indent + mark + words)
    to.print(Text(told, "bold" if head.startswith("#") else ""), soft_wrap=True)


def _split(line: str) -> list[str]:
    """The cells of a line of a pipe table."""
    cells = re.findall(r"((?:[^|\\]|\\.)*)\|", line.strip()[1:])
    return [re.sub(r"\\([\\|])", r"\1", cell).strip() for cell in cells]


@dataclass(frozen=True)
class TextTable:
    """A table for people. A column with one value in all rows leaves it, and is named above it; columns that do not fit
    side by side stand below each other, the first column with each. A column of measured numbers, which have a
    decimal point, stays."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def draw(self, to: Console) -> None:
        constant = dict(self._constant(to.width))
        if told := ", ".join(f"{self.columns[n]} {text}" for n, text in constant.items() if text not in MISSING):
            _print(f"all rows: {told}" if len(self.rows) > 1 else told, to)
        shown = [n for n in range(len(self.columns)) if n not in constant]
        for number, part in enumerate(self._side_by_side(shown, to.width)):
            if number:
                to.print()
            to.print(self._table(part, to.width))

    def _constant(self, width: int) -> list[tuple[int, str]]:
        """Columns that leave, with their value."""
        everything = range(len(self.columns))
        whole = sum(max(len(row[n]) for row in (self.columns, *self.rows)) + GAP for n in everything) - GAP
        if not self.rows or (len(self.rows) == 1 and whole <= width):
            return []
        columns = [(n, [row[n] for row in self.rows]) for n in everything]
        return [(n, c[0]) for n, c in columns if n and len(set(c)) == 1 and not MEASURED.search(c[0])]

    def _cells(self, column: int) -> list[str]:
        return [visible(row[column]).replace("\n", " ") for row in self.rows]

    def _is_number(self, column: int) -> bool:
        return all(NUMBER.fullmatch(cell) for cell in self._cells(column))

    def _least(self, column: int, width: int) -> int:
        """Columns of the terminal that a column of the table takes at least; numbers are not broken."""
        head = max(map(len, self.columns[column].split()), default=1)
        longest = max(map(len, self._cells(column)), default=0)
        cells = longest if self._is_number(column) else min(longest, NARROW if column else 2 * NARROW)
        return min(max(head, cells), (width - GAP) // 2)

    def _side_by_side(self, columns: Sequence[int], width: int) -> list[list[int]]:
        """Columns that fit into the width, part by part; the first column heads each part."""
        first, *others = columns
        parts, used = [[first]], self._least(first, width)
        for column in others:
            least = self._least(column, width)
            if used + GAP + least > width and len(parts[-1]) > 1:
                parts.append([first])
                used = self._least(first, width)
            parts[-1].append(column)
            used += GAP + least
        return parts

    def _widths(self, columns: Sequence[int], width: int) -> list[int]:
        """Of columns side by side: what each takes at least, and what is left to the first that take more."""
        widths = [self._least(n, width) for n in columns]
        left = width - sum(widths) - GAP * (len(widths) - 1)
        for place, n in enumerate(columns):
            whole = max(map(len, (self.columns[n], *self._cells(n))))
            more = max(0, min(left, whole - widths[place]))
            widths[place] += more
            left -= more
        return widths

    def _table(self, columns: Sequence[int], width: int) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), header_style="bold")
        for n, own in zip(columns, self._widths(columns, width), strict=True):
            justify: Literal["right", "left"] = "right" if self._is_number(n) else "left"
            table.add_column(Text(visible(self.columns[n])), justify=justify, width=own, overflow="fold")
        for cells in zip(*map(self._cells, columns), strict=True):
            table.add_row(*map(Text, cells))
        return table


def bar(stream: TextIO | None) -> Progress:
    """A display of progress, not started. It is drawn when it is told to, by no thread of its own: a process that is
    forked meanwhile would inherit its locks. It leaves no line behind, and what others print stands above it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    shown = console(stream)
    shown.show_cursor = lambda show=True: False  # type: ignore[method-assign]  # a killed process would leave none
    return Progress(
        *(TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[more]}")),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=shown,
        transient=True,
        auto_refresh=False,
    )


def colour(text: str, level: int, stream: TextIO | None) -> str:
    """A message of the log in the colour of its level, where colours are shown."""
    style = STYLES.get(level)
    return f"\x1b[{style}m{text}\x1b[0m" if style and coloured(stream) else text


class LogHandler(logging.StreamHandler):
    """The log on the standard output or error of the moment: while a bar is drawn, lines stand above it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._where = "stdout" if stream is not None and stream is sys.stdout else "stderr"
        super().__init__(stream)

    @property  # type: ignore[override]
    def stream(self) -> Any:
        return getattr(sys, self._where)

    @stream.setter
    def stream(self, stream: Any) -> None:
        """The one of the moment is taken."""

    def format(self, record: logging.LogRecord) -> str:
        return colour(super().format(record), record.levelno, self.stream)


def log_visibly(level: int = logging.INFO) -> None:
    """What is logged goes to stderr, made visible, unless somebody has set up logging already."""
    handler = LogHandler()
    handler.setFormatter(VisibleFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=level)


def say_error(text: str) -> None:
    """A mistake or a failure in a line of standard error."""
    print(colour(text, logging.ERROR, sys.stderr), file=sys.stderr)
