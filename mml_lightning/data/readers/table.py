"""A table of your own videos: one line each."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path

from mml_lightning.data.readers.files import Root, held_out, natural, without_ending
from mml_lightning.data.records import SPLITS, Dataset, Head, row_of
from mml_lightning.data.store import RecordStore
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
    classes = table.classes(label_separator)
    if len(classes) < 2:
        raise UserError(
            f"{table.path}: column {table.names['label']!r} holds {len(classes)} class; at least two are needed"
        )
    heads = {"label": Head(tuple(classes), multi_label=bool(label_separator))}
    targets = _Targets(classes, label_separator)
    splits = {split: RecordStore() for split in SPLITS}
    folder, named = Root(base), "id" in table.columns
    for line, (file, label, split, identity, *times) in table.rows("path", "label", "split", "id", "start", "end"):
        if not file:
            raise table.empty(line, "path")
        span = table.span(line, times) if any(times) else None
        if named and not identity:
            raise table.empty(line, "id")
        path = folder.below(file, table.path, line)
        if not named:
            identity = without_ending(file) + (f"_{span[0]:g}_{span[1]:g}" if span else "")
        if split not in splits:
            split = table.split(line, split)
        splits[split].append(row_of(identity, {"frames": path}, targets[label], span))
    if not splits["val"]:
        splits["train"], splits["val"] = held_out(splits["train"])
    return Dataset(name, splits, heads)


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

    def rows(self, *roles: str) -> Iterator[tuple[int, list[str]]]:
        """(line number, cells of the roles) of all lines but the header and empty ones; "" for what a line or the
        whole table lacks."""
        take = itemgetter(*(self.columns.get(role, -1) for role in roles))
        lacking = [""] * (1 + max(self.columns.values()))
        for line, cells in itertools.islice(self._lines(), 1, None):
            cells.append("")  # the last one
            try:
                texts = take(cells)
            except IndexError:
                texts = take(cells + lacking)
            yield line, list(map(str.strip, texts))

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
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

    def classes(self, separator: str | None) -> list[str]:
        """In order."""
        place = self.columns["label"]
        found = {cells[place] if place < len(cells) else "" for _, cells in itertools.islice(self._lines(), 1, None)}
        cells = set(map(str.strip, found))
        if separator is None and "" in cells:
            raise self.empty(next(line for line, (label, _) in self.rows("label", "path") if not label), "label")
        return sorted({label for cell in cells for label in _labels(cell, separator)}, key=natural)

    def empty(self, line: int, role: str) -> UserError:
        return UserError(f"{self.path}, line {line}: column {self.names[role]!r} is empty; fill it or remove the line")

    def split(self, line: int, cell: str) -> str:
        if not cell:
            raise self.empty(line, "split")
        split = SPLIT_NAMES.get(cell.lower(), cell.lower())
        if split not in SPLITS:
            raise UserError(f"{self.path}, line {line}: split {cell!r} is unknown; use train, val or test")
        return split

    def span(self, line: int, cells: Sequence[str]) -> tuple[float, float] | None:
        if "start" not in self.columns or "end" not in self.columns:
            return None
        try:
            start, end = map(float, cells)
        except ValueError:
            raise UserError(f"{self.path}, line {line}: start and end must both be seconds, or both empty") from None
        if not 0 <= start < end < math.inf:
            raise UserError(f"{self.path}, line {line}: start {start:g} must lie before end {end:g}, from 0 on")
        return start, end
