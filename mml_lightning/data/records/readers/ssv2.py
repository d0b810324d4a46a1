"""Something-Something V2 as published, with the splits of Something-Else."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mml_lightning.data.records.readers.cells import rows_of
from mml_lightning.data.records.readers.files import check_name, find, read_json
from mml_lightning.data.records.readers.mirrored import mirrored_classes
from mml_lightning.data.records.record_store import RecordStore
from mml_lightning.data.records.records import SPLITS, Dataset, Head, RecordRow
from mml_lightning.utils.errors import UserError, check_choice

PREFIX = "something-something-v2-"
ANNOTATIONS = ("annotations", "labels", "")
VIDEOS = ("videos", "20bn-something-something-v2")
FORM = "data.root must hold annotations/ (or labels/) and videos/"


def read_ssv2(
    name: str,
    root: str,
    splits: Mapping[str, str | None] | None = None,
    labels: str | None = None,
    mirrored: Mapping[int, int] | None = None,
    prepare: Callable[[Path], Any] | None = None,
    extensions: Sequence[str] = ("webm", "mp4"),
) -> Dataset:
    """Something-Something V2: {labels,train,validation}.json and `videos/<id>.webm`.

    The files stand in `annotations/`, in `labels/` or at the root, with or without `something-something-v2-` before
    their names. Test labels come from `test-answers.csv` (`id;template`) where present;
    without them the videos of `test.json` have no label: eval.py scores them for a submission.

    Args:
        splits: split -> JSON file of ids that replaces the official one, as Something-Else (Materzynska et al., CVPR
            2020) has them: a list of ids, a list of {"id": ...} or an object by id. An entry may bring its template.
        labels: another file of classes, for splits that hold a part of them (few-shot).
        mirrored: class index -> class index under a horizontal flip; told by the class names where None.
        prepare: called with the root first (the demo generates its files here).

    Raises:
        UserError: a missing annotation file, a label that the classes don't have, or an id without label.
    """
    folder = Path(root).expanduser()
    if prepare is not None:
        prepare(folder)
    release = _Release(folder, labels, extensions)
    if splits is None:
        records = {"train": release.records("train"), "val": release.records("validation"), "test": release.answers()}
    else:
        for split in splits:
            check_choice("data.splits", split, SPLITS)
        official = (*release.records("train"), *release.records("validation"), *release.answers())
        known = {one[0]: one for one in official if one[2]}
        chosen = {split: splits.get(split) for split in SPLITS}
        records = {s: release.replaced(find(folder, f, FORM), known) if f else [] for s, f in chosen.items()}
    stores = {split: RecordStore(rows) for split, rows in records.items()}
    classes = tuple(sorted(release.number, key=release.number.__getitem__))
    partners = mirrored_classes(classes) if mirrored is None else dict(mirrored)
    return Dataset(name, stores, {"label": Head(classes)}, {"label": partners})


class _Release:
    """The files of the release below `root`; `number` gives the index of a class name."""

    def __init__(self, root: Path, labels: str | None, extensions: Sequence[str]) -> None:
        self.root = root
        self.labels = find(root, labels, FORM) if labels else self._annotation("labels.json")
        self.number = _classes(self.labels)
        folder = next((root / name for name in VIDEOS if (root / name).is_dir()), root / VIDEOS[0])
        self.missing = f"{folder}/{{}}.{extensions[0]}"
        start = str(folder / "_")[:-1]
        self.videos = {stem: start + name for stem, name in _stems(folder, extensions)}
        self.partial = labels is not None

    def records(self, file: str) -> list[RecordRow]:
        """The records of an official split; with other classes those that have one of them."""
        source = self._annotation(f"{file}.json")
        entries = read_json(source)
        try:
            rows = [(str(row["id"]), _plain(row["template"])) for row in entries]
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{source}: each entry needs an id and a template, as in Something-Something V2") from None
        return self._labelled(rows, source)

    def answers(self) -> list[RecordRow]:
        """The test split; its videos have no label where the answers are not there."""
        try:
            path = self._annotation("test-answers.csv")
        except UserError:
            return self._unlabelled()
        with path.open(newline="", encoding="utf-8-sig") as handle:
            rows = [row for _, row in rows_of(path, handle, ";")]
        if any(len(row) != 2 for row in rows):
            raise UserError(f"{path}: each line must be id;template")
        return self._labelled([(video.strip(), _plain(template.strip())) for video, template in rows], path)

    def replaced(self, source: Path, known: Mapping[str, RecordRow]) -> list[RecordRow]:
        """The records of a list of ids, labelled by the official files unless an entry has a template."""
        content = read_json(source)
        items = content.items() if isinstance(content, dict) else [_entry(item, source) for item in content]
        records = []
        for video, entry in items:
            if isinstance(entry, dict) and isinstance(entry.get("template"), str):
                records.append(self.record(str(video), _plain(entry["template"]), source))
            elif str(video) in known:
                records.append(known[str(video)])
            else:
                raise UserError(
                    f"{source}: id {video} has no label in the official train and validation files; is it a list of "
                    "Something-Something V2 ids, and do the classes of data.classes hold it?"
                )
        return records

    def record(self, video: str, label: str, source: Path) -> RecordRow:
        if label not in self.number:
            raise UserError(
                f"{source}: id {video} has label {label!r}, which {self.labels.name} does not list; fix either file"
            )
        return self._row(video, {"label": self.number[label]})

    def _unlabelled(self) -> list[RecordRow]:
        """The videos of test.json; none where it is not there."""
        try:
            source = self._annotation("test.json")
        except UserError:
            return []
        ids = [_entry(item, source)[0] for item in read_json(source)]
        return [self._row(video, {}) for video in ids]

    def _row(self, video: str, target: dict[str, int | tuple[int, ...]]) -> RecordRow:
        path = self.videos.get(video) or str(Path(self.missing.format(video)))
        return RecordRow(video, {"frames": path}, target)

    def _labelled(self, rows: Sequence[tuple[str, str]], source: Path) -> list[RecordRow]:
        return [self.record(v, label, source) for v, label in rows if not self.partial or label in self.number]

    def _annotation(self, name: str) -> Path:
        names = [f"{folder}/{start}{name}".lstrip("/") for folder in ANNOTATIONS for start in ("", PREFIX)]
        found = next((self.root / n for n in names if (self.root / n).is_file()), None)
        if found is None:
            raise UserError(f"{self.root / names[0]} is missing; {FORM}")
        return found


def _entry(item: object, source: Path) -> tuple[str, object]:
    if isinstance(item, dict) and "id" in item:
        return str(item["id"]), item
    if isinstance(item, str | int):
        return str(item), None
    raise UserError(f"{source}: each entry must be an id, or an object with an id")


def _stems(folder: Path, extensions: Sequence[str]) -> list[tuple[str, str]]:
    """(id, file name) of the videos of a folder, those of a later name last."""
    try:
        with os.scandir(folder) as entries:
            parts = sorted(entry.name.rpartition(".") for entry in entries)
    except OSError:
        return []
    return [(check_name(stem), f"{stem}.{end}") for stem, _, end in parts if end.lower() in extensions]


def _plain(template: str) -> str:
    return template.replace("[", "").replace("]", "")


def _classes(path: Path) -> dict[str, int]:
    """{class name: index} of labels.json."""
    content = read_json(path)
    try:
        number = {_plain(label): int(index) for label, index in content.items()}
    except (AttributeError, TypeError, ValueError):
        raise UserError(f'{path} must map class names to numbers: {{"class name": "0", ...}}') from None
    if sorted(number.values()) != list(range(len(content))) or len(number) < 2:
        raise UserError(f"{path}: the {len(content)} classes must be numbered 0 to {len(content) - 1}, two or more")
    return number
