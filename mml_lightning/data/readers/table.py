"""A table of your own videos: one line each."""

from __future__ import annotations

import csv
import math
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
_Row = tuple[int, dict[str, str | None]]


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
    cells = [table.labels(row, label_separator) for row in table.rows]
    classes = sorted({label for cell in cells for label in cell}, key=natural)
    if len(classes) < 2:
        raise UserError(
            f"{table.path}: column {table.columns['label']!r} holds {len(classes)} class; at least two are needed"
        )
    number = {label: i for i, label in enumerate(classes)}
    splits: dict[str, list[Record]] = {split: [] for split in SPLITS}
    for row, cell in zip(table.rows, cells, strict=True):
        indices = tuple(sorted({number[label] for label in cell}))
        file, span = table.cell(row, "path"), table.span(row)
        part = f"_{span[0]:g}_{span[1]:g}" if span else ""
        record = Record(
            id=table.cell(row, "id") if "id" in table.columns else Path(file).with_suffix("").as_posix() + part,
            media={"frames": below(base, file, f"{table.path}, line {row[0]}")},
            target={"label": indices if label_separator else indices[0]},
            span=span,
        )
        splits[table.split(row)].append(record)
    if not splits["val"]:
        splits["train"], splits["val"] = held_out(splits["train"])
    return Dataset(name, splits, {"label": Head(tuple(classes), multi_label=bool(label_separator))})


class _Table:
    """A CSV file: `rows` are (line number, cells), `columns` the names behind the roles of :data:`COLUMNS`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open(newline="", encoding="utf-8-sig") as handle:
                delimiter = max(",;\t", key=handle.readline().count)
                handle.seek(0)
                reader = csv.DictReader(handle, delimiter=delimiter)
                self.rows: list[_Row] = [(reader.line_num, row) for row in reader]
        except UnicodeDecodeError:
            raise UserError(f"data.index={path} is not UTF-8 text; save it as CSV in UTF-8") from None
        except (OSError, csv.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"can't read data.index={path}: {reason}; give the path of your CSV") from None
        if not self.rows:
            raise UserError(f"{path}: no line below the header; each line needs path, label, split")
        header = {key.strip().lower(): key for key in reader.fieldnames or () if key}
        self.columns = {
            role: header[known] for role, names in COLUMNS.items() for known in reversed(names) if known in header
        }
        for role in ("path", "label", "split"):
            if role not in self.columns:
                raise UserError(
                    f"{path}: no {role} column (found {list(header)}); name one of them {COLUMNS[role][0]!r}"
                )

    def cell(self, row: _Row, role: str) -> str:
        line, cells = row
        value = (cells.get(self.columns[role]) or "").strip()
        if not value:
            raise UserError(
                f"{self.path}, line {line}: column {self.columns[role]!r} is empty; fill it or remove the line"
            )
        return value

    def labels(self, row: _Row, separator: str | None) -> tuple[str, ...]:
        if separator is None:
            return (self.cell(row, "label"),)
        parts = (row[1].get(self.columns["label"]) or "").split(separator)
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
        line, cells = row
        given = [(cells.get(self.columns[role]) or "").strip() for role in ("start", "end")]
        if given == ["", ""]:
            return None
        try:
            start, end = map(float, given)
        except ValueError:
            raise UserError(f"{self.path}, line {line}: start and end must both be seconds, or both empty") from None
        if not 0 <= start < end < math.inf:
            raise UserError(f"{self.path}, line {line}: start {start:g} must lie before end {end:g}, from 0 on")
        return start, end
