"""Dataset readers: annotation files to :class:`Dataset`, joined by id. Each is one function bound in conf/data/."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mml_lightning.data.records import SPLITS, Dataset, Head, Record
from mml_lightning.errors import UserError

COLUMNS = {
    "path": ("path", "video", "video_path", "file", "filename", "filepath", "file_path"),
    "label": ("label", "labels", "class", "class_name", "category", "action", "target", "template", "y"),
    "split": ("split", "set", "subset", "partition", "fold"),
    "id": ("id", "video_id", "clip_id", "name"),
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

    Column names may be any of :data:`COLUMNS`; paths are relative to `root` (default: the folder of the CSV). Labels may be
    names or numbers. With `label_separator` a cell holds several labels and the head is multi-label. Without a val split,
    every fifth training video (by id order) validates.

    Raises:
        UserError: no index, unreadable file, a missing column or cell, an unknown split, or fewer than two classes.
    """
    if not index:
        raise UserError("data=csv needs data.index=<file.csv> with the columns path, label and split")
    path = Path(index).expanduser()
    rows = _rows(path)
    columns = _columns(rows[0], path)
    base = Path(root).expanduser() if root else path.parent
    labels = [_labels(row, columns["label"], label_separator, path, n) for n, row in enumerate(rows, start=2)]
    classes = sorted({label for cell in labels for label in cell}, key=_number_or_name)
    if len(classes) < 2:
        raise UserError(f"{path}: column {columns['label']!r} holds {len(classes)} class; at least two are needed")
    number = {label: i for i, label in enumerate(classes)}
    splits: dict[str, list[Record]] = {split: [] for split in SPLITS}
    for line, (row, cell) in enumerate(zip(rows, labels, strict=True), start=2):
        indices = tuple(sorted(number[label] for label in cell))
        file = base / _cell(row, columns["path"], path, line)
        record = Record(
            id=row[columns["id"]] if "id" in columns else Path(row[columns["path"]]).with_suffix("").as_posix(),
            media={"frames": file},
            target={"label": indices if label_separator else indices[0]},
            span=_span(row, columns, path, line),
        )
        splits[_split(_cell(row, columns["split"], path, line), path, line)].append(record)
    if not splits["val"]:
        held_out = sorted(splits["train"], key=lambda record: record.id)[::5]
        taken = {record.id for record in held_out}
        splits |= {"val": held_out, "train": [r for r in splits["train"] if r.id not in taken]}
    return Dataset(name, splits, {"label": Head(tuple(classes), multi_label=bool(label_separator))})


def read_ssv2(
    name: str,
    root: str,
    mirrored: dict[int, int] | None = None,
    prepare: Callable[[Path], Any] | None = None,
    extensions: Sequence[str] = ("webm", "mp4"),
) -> Dataset:
    """Something-Something V2 as published: `annotations/{labels,train,validation,test}.json` and `videos/<id>.webm`.

    Test labels come from `annotations/test-answers.csv` (`id;template`) where present; without them test is empty.

    Args:
        prepare: called with the root first (the demo generates its files here).
        mirrored: class index -> class index under a horizontal flip.

    Raises:
        UserError: a missing annotation file, or a label that labels.json does not know.
    """
    folder = Path(root).expanduser()
    if prepare is not None:
        prepare(folder)
    annotations = folder / "annotations"
    classes_by_name = {k: int(v) for k, v in _json(annotations / "labels.json").items()}
    files = {p.stem: p for p in sorted((folder / "videos").glob("*")) if p.suffix.lstrip(".") in extensions}

    def record(video: str, template: str, source: Path) -> Record:
        label = template.replace("[", "").replace("]", "")
        if label not in classes_by_name:
            raise UserError(
                f"{source}: id {video} has label {label!r}, which labels.json does not list; fix either file"
            )
        media = files.get(video, folder / "videos" / f"{video}.{extensions[0]}")
        return Record(video, {"frames": media}, {"label": classes_by_name[label]})

    splits = {}
    for split, file in (("train", "train.json"), ("val", "validation.json")):
        source = annotations / file
        splits[split] = [record(str(row["id"]), row["template"], source) for row in _json(source)]
    answers = annotations / "test-answers.csv"
    splits["test"] = []
    if answers.is_file():
        with answers.open(newline="", encoding="utf-8") as handle:
            splits["test"] = [record(row[0], row[1], answers) for row in csv.reader(handle, delimiter=";") if row]
    classes = tuple(sorted(classes_by_name, key=classes_by_name.__getitem__))
    return Dataset(name, splits, {"label": Head(classes)}, {"label": dict(mirrored or {})})


def read_demo(name: str, root: str, **sizes: Any) -> Dataset:
    """The embedded demo: generated at `root` on first use, then read like Something-Something V2."""
    from mml_lightning.data.demo import LEFT_RIGHT, prepare_demo

    return read_ssv2(name, root, mirrored=LEFT_RIGHT, prepare=lambda folder: prepare_demo(folder, **sizes))


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            sample = handle.read(4096)
            handle.seek(0)
            delimiter = max(",;\t", key=sample.split("\n", 1)[0].count)
            rows = list(csv.DictReader(handle, delimiter=delimiter))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"can't read data.index={path}: {error}") from None
    if not rows:
        raise UserError(f"{path}: no line below the header; each line needs path, label, split")
    return rows


def _columns(row: dict[str, str], path: Path) -> dict[str, str]:
    header = {key.strip().lower(): key for key in row if key is not None}
    found = {role: header[name] for role, names in COLUMNS.items() for name in reversed(names) if name in header}
    for role in ("path", "label", "split"):
        if role not in found:
            raise UserError(f"{path}: no {role} column (found {list(header)}); name one of them {COLUMNS[role][0]!r}")
    return found


def _cell(row: dict[str, str], column: str, path: Path, line: int) -> str:
    value = (row.get(column) or "").strip()
    if not value:
        raise UserError(f"{path}, line {line}: column {column!r} is empty")
    return value


def _labels(row: dict[str, str], column: str, separator: str | None, path: Path, line: int) -> tuple[str, ...]:
    if separator is None:
        return (_cell(row, column, path, line),)
    return tuple(part.strip() for part in (row.get(column) or "").split(separator) if part.strip())


def _split(value: str, path: Path, line: int) -> str:
    split = SPLIT_NAMES.get(value.lower(), value.lower())
    if split not in SPLITS:
        raise UserError(f"{path}, line {line}: split {value!r} is unknown; use train, val or test")
    return split


def _span(row: dict[str, str], columns: dict[str, str], path: Path, line: int) -> tuple[float, float] | None:
    if "start" not in columns or "end" not in columns:
        return None
    try:
        start, end = float(row[columns["start"]]), float(row[columns["end"]])
    except (TypeError, ValueError):
        raise UserError(f"{path}, line {line}: start and end must be seconds") from None
    if not 0 <= start < end:
        raise UserError(f"{path}, line {line}: start {start} must lie before end {end}")
    return start, end


def _number_or_name(label: str) -> tuple[int, float, str]:
    return (0, float(label), "") if label.lstrip("-").isdigit() else (1, 0.0, label)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; data.root must hold annotations/ and videos/") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
