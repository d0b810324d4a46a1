"""A table of your own videos: one line each."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

from mml_lightning.data.readers.files import below, held_out, natural
from mml_lightning.data.records import SPLITS, Dataset, Head, Record
from mml_lightning.errors import UserError

COLUMNS = {
    "path": ("path", "video", "video_path", "file", "filename", "filepath", "file_path"),
    "label": ("label", "labels", "class", "class_name", "category", "action", "target", "template", "y"),
    "split": ("split", "set", "subset", "partition", "fold"),
    "id": ("id", "video_id", "clip_id"),
    "start": ("start", "t_start", "start_time", "time_start"),
    "end": ("end", "t_end", "end_time", "time_end"),
}
SPLIT_NAMES = {
    "training": "train",
    "validation": "val",
    "valid": "val",
    "dev": "val",
    "testing": "test",
    "eval": "test",
}
_Row = tuple[int, list[str]]


def read_csv(name: str, index: str | None, root: str | None = None, label_separator: str | None = None) -> Dataset:
    """Your own videos: one CSV line each with path, label and split; id, start and end (seconds) are optional.

    Column names may be any of :data:`COLUMNS`; paths are relative to `root` (default: the folder of the CSV). Labels
    may be names or numbers. With `label_separator` a cell holds several labels and the head is multi-label. Without a
    val split, every fifth training video (by id order) validates. Without an id column, the path (and the start and end
    of a part of a video) is the id.

    Raises:
        UserError: no index, unreadable file, a missing column or cell, an unknown split, or fewer than two classes.
    """
    if not index:
        raise UserError("data=csv needs data.index=<file.csv> with the columns path, label and split")
    table = _Table(Path(index).expanduser())
    base = Path(root).expanduser() if root else table.path.parent
    classes = sorted({label for row in table.rows() for label in table.labels(row, label_separator)}, key=natural)
    if len(classes) < 2:
        raise UserError(
            f"{table.path}: column {table.names['label']!r} holds {len(classes)} class; at least two are needed"
        )
    number = {label: i for i, label in enumerate(classes)}
    targets: dict[tuple[str, ...], dict[str, int | tuple[int, ...]]] = {}  # one for all videos that have the same
    splits: dict[str, list[Record]] = {split: [] for split in SPLITS}
    for row in table.rows():
        labels = table.labels(row, label_separator)
        if labels not in targets:
            indices = tuple(sorted({number[label] for label in labels}))
            targets[labels] = {"label": indices if label_separator else indices[0]}
        file, span = table.cell(row, "path"), table.span(row)
        part = f"_{span[0]:g}_{span[1]:g}" if span else ""
        record = Record(
            id=table.cell(row, "id") if "id" in table.columns else Path(file).with_suffix("").as_posix() + part,
            media={"frames": below(base, file, f"{table.path}, line {row[0]}")},
            target=targets[labels],
            span=span,
        )
        splits[table.split(row)].append(record)
    if not splits["val"]:
        splits["train"], splits["val"] = held_out(splits["train"])
    return Dataset(name, splits, {"label": Head(tuple(classes), multi_label=bool(label_separator))})


class _Table:
    """A CSV file, read anew for every pass: `columns` are the places of the roles of :data:`COLUMNS` in a row and
    `names` what they are called."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = self._lines()
        header = {key.strip().lower(): (place, key) for place, key in enumerate(next(lines, (0, []))[1]) if key}
        if next(lines, None) is None:
            raise UserError(f"{path}: no line below the header; each line needs path, label, split")
        found = {role: header[known] for role, names in COLUMNS.items() for known in reversed(names) if known in header}
        self.columns = {role: place for role, (place, _) in found.items()}
        self.names = {role: name for role, (_, name) in found.items()}
        for role in ("path", "label", "split"):
            if role not in self.columns:
                have = [key for _, key in header.values()]
                raise UserError(f"{path}: no {role} column (found {have}); name one of them {COLUMNS[role][0]!r}")

    def rows(self) -> Iterator[_Row]:
        """All but the header and empty lines."""
        return itertools.islice(self._lines(), 1, None)

    def _lines(self) -> Iterator[_Row]:
        """(line number, cells)."""
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as handle:
                delimiter = max(",;\t", key=handle.readline().count)
                handle.seek(0)
                reader = csv.reader(handle, delimiter=delimiter)
                for cells in reader:
                    if cells:
                        yield reader.line_num, cells
        except UnicodeDecodeError:
            raise UserError(f"data.index={self.path} is not UTF-8 text; save it as CSV in UTF-8") from None
        except (OSError, csv.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"can't read data.index={self.path}: {reason}; give the path of your CSV") from None

    def cell(self, row: _Row, role: str) -> str:
        value = self._text(row, role)
        if not value:
            raise UserError(
                f"{self.path}, line {row[0]}: column {self.names[role]!r} is empty; fill it or remove the line"
            )
        return value

    def _text(self, row: _Row, role: str) -> str:
        """Of a cell; "" in a line that is too short for it."""
        cells, place = row[1], self.columns[role]
        return cells[place].strip() if place < len(cells) else ""

    def labels(self, row: _Row, separator: str | None) -> tuple[str, ...]:
        if separator is None:
            return (self.cell(row, "label"),)
        parts = self._text(row, "label").split(separator)
        return tuple(part.strip() for part in parts if part.strip())

    def split(self, row: _Row) -> str:
        value = self.cell(row, "split")
        split = SPLIT_NAMES.get(value.lower(), value.lower())
        if split not in SPLITS:
            raise UserError(f"{self.path}, line {row[0]}: split {value!r} is unknown; use train, val or test")
        return split

    def span(self, row: _Row) -> tuple[float, float] | None:
        if "start" not in self.columns or "end" not in self.columns:
            return None
        line, given = row[0], [self._text(row, role) for role in ("start", "end")]
        if given == ["", ""]:
            return None
        try:
            start, end = map(float, given)
        except ValueError:
            raise UserError(f"{self.path}, line {line}: start and end must both be seconds, or both empty") from None
        if not 0 <= start < end < math.inf:
            raise UserError(f"{self.path}, line {line}: start {start:g} must lie before end {end:g}, from 0 on")
        return start, end
