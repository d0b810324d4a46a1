"""A table of your own videos: one line each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path

from mml_lightning.data.records.readers.cells import check_width, delimiter_of, has_marks, rows_of
from mml_lightning.data.records.readers.columns import NEEDED, Columns
from mml_lightning.data.records.readers.files import HELD_OUT, Root, check_spelling, held_out, natural, without_ending
from mml_lightning.data.records.record_store import RecordStore
from mml_lightning.data.records.records import SPLITS, Dataset, FrameSpan, Head, RecordRow
from mml_lightning.utils.errors import UserError

SPLIT_NAMES = {
    "training": "train",
    "validation": "val",
    "valid": "val",
    "dev": "val",
    "testing": "test",
    "eval": "test",
}


def read_csv(
    name: str, index: str | None, root: str | None = None, label_separator: str | None = None, first_frame: int = 0
) -> Dataset:
    """Your own videos: one CSV line each with path, label and split; id, start and end (seconds) are optional.

    Column names may be any of :data:`mml_lightning.data.records.readers.columns.COLUMNS`; paths are relative to `root`
    (default: the folder of the CSV). A column sound names a sound file beside each video; where its cell is empty, the
    sound is that of the video. Labels may be names or numbers. With `label_separator` a cell holds several labels
    and the head is multi-label. Without a val split, every fifth training video (by id order) validates. Without an id
    column, the path (and the start and end of a part of a video) is the id. Parts may be told in other forms, see
    :func:`mml_lightning.data.records.readers.times.find_times`; start_frame and end_frame count from `first_frame`.

    Raises:
        UserError: no index, unreadable file, a missing column or cell, cells too many or too few, stray quotation
            marks, an unknown split, one class in several spellings, or fewer than two classes.
    """
    if not index:
        raise UserError("data=csv needs data.index=<file.csv> with the columns path, label and split")
    if isinstance(first_frame, bool) or not isinstance(first_frame, int) or first_frame < 0:
        raise UserError(f"data.first_frame={first_frame} must be a whole number from 0")
    table = Table(Path(index).expanduser())
    base = Path(root).expanduser() if root else table.path.parent
    classes = table.classes(label_separator)
    if len(classes) < 2:
        raise UserError(
            f"{table.path}: column {table.names['label']!r} holds {len(classes)} class; at least two are needed"
        )
    heads = {"label": Head(tuple(classes), multi_label=bool(label_separator))}
    targets = _Targets(classes, label_separator)
    splits = {split: RecordStore() for split in SPLITS}
    folder, named, spans = Root(base), "id" in table.names, table.columns.times
    roles = ("path", "label", "split", "id", "sound", "start", "other")
    for line, (file, label, split, identity, sound, *times) in table.rows(*roles):
        if not file:
            raise table.empty(line, "path")
        span = spans.span(times, first_frame, f"{table.path}, line {line}") if spans and any(times) else None
        if named and not identity:
            raise table.empty(line, "id")
        path = folder.below(file, table.path, line)
        if not named:
            identity = without_ending(file) + (part_name(span, first_frame) if span else "")
        if split not in splits:
            split = table.split(line, split)
        media = {"frames": path, "audio": folder.below(sound, table.path, line)} if sound else {"frames": path}
        splits[split].append(RecordRow(identity, media, targets[label], span))
    told = list(table.columns.told)
    if not splits["val"]:
        splits["train"], splits["val"] = held_out(splits["train"])
        told.append(HELD_OUT)
    return Dataset(name, splits, heads, told=tuple(told))


def part_name(span: tuple[float, float], first_frame: int) -> str:
    """What tells the id of a part from that of another."""
    if isinstance(span, FrameSpan):
        return f"_f{span.first + first_frame}_f{span.last + first_frame}"
    return f"_{_exact(span[0])}_{_exact(span[1])}"


def _exact(seconds: float) -> str:
    short = f"{seconds:g}"
    return short if float(short) == seconds else repr(seconds)


class _Targets(dict[str, dict[str, int | tuple[int, ...]]]):
    """What the cell of a label means: one object for all videos that have the same."""

    def __init__(self, classes: Sequence[str], separator: str | None) -> None:
        super().__init__()
        self.number = {label: i for i, label in enumerate(classes)}
        self.separator = separator

    def __missing__(self, cell: str) -> dict[str, int | tuple[int, ...]]:
        indices = tuple(sorted({self.number[label] for label in _labels(cell, self.separator)}))
        self[cell] = {"label": indices if self.separator else indices[0]}
        return self[cell]


def _labels(cell: str, separator: str | None) -> list[str]:
    return [cell] if separator is None else [part.strip() for part in cell.split(separator) if part.strip()]


class Table:
    """A CSV file, read anew for every pass; `names` are what its columns are called.

    Args:
        needed: roles that it must have a column for.
        key: what stands before its path in messages.
    """

    def __init__(self, path: Path, needed: Sequence[str] = NEEDED, key: str = "data.index=") -> None:
        self.path, self.key, self.marks = path, key, True
        lines = self._lines()
        header = next(lines, (0, []))[1]
        if next(lines, None) is None:
            raise UserError(f"{path}: no line below the header; each line needs {', '.join(needed)}")
        self.marks = has_marks(path)
        self.columns = Columns.of(path, header, needed)
        self.names = self.columns.names

    def rows(self, *roles: str) -> Iterator[tuple[int, list[str]]]:
        """(line number, cells of the roles) of all lines but the header and empty ones; "" for what the table lacks."""
        take = itemgetter(*(self.columns.places.get(role, -1) for role in roles))
        for line, cells in self._body():
            cells.append("")  # the last one
            yield line, list(map(str.strip, take(cells)))

    def _body(self) -> Iterator[tuple[int, list[str]]]:
        width = self.columns.width
        for line, cells in itertools.islice(self._lines(), 1, None):
            if len(cells) != width:
                check_width(self.path, line, cells, width)
            yield line, cells

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """(line number, cells)."""
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as handle:
                delimiter = delimiter_of(next(filter(str.strip, handle), ""))
                handle.seek(0)
                yield from rows_of(self.path, handle, delimiter, self.marks)
        except UnicodeDecodeError:
            raise UserError(f"{self.key}{self.path} is not UTF-8 text; save it as CSV in UTF-8") from None
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"can't read {self.key}{self.path}: {reason}; give the path of your CSV") from None

    def classes(self, separator: str | None) -> list[str]:
        """In order."""
        place = self.columns.places["label"]
        cells = set(map(str.strip, {cells[place] for _, cells in self._body()}))
        if separator is None and "" in cells:
            raise self.empty(next(line for line, (label, _) in self.rows("label", "path") if not label), "label")
        classes = sorted({label for cell in cells for label in _labels(cell, separator)}, key=natural)
        check_spelling(classes, lambda label: f"{self.path}, line {self._first(label, separator)}")
        return classes

    def _first(self, label: str, separator: str | None) -> int:
        """The first line that has a label."""
        rows = self.rows("label", "path")
        return next(line for line, (cell, _) in rows if label in _labels(cell, separator))

    def empty(self, line: int, role: str) -> UserError:
        return UserError(f"{self.path}, line {line}: column {self.names[role]!r} is empty; fill it or remove the line")

    def split(self, line: int, cell: str) -> str:
        if not cell:
            raise self.empty(line, "split")
        split = SPLIT_NAMES.get(cell.lower(), cell.lower())
        if split not in SPLITS:
            raise UserError(f"{self.path}, line {line}: split {cell!r} is unknown; use train, val or test")
        return split
