"""The manifest of a pack: what was packed and how, and the records, so that the pack needs nothing beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mml_lightning.data.records.record_store import RecordStore
from mml_lightning.data.records.records import NO_INTERVALS, SPLITS, Dataset, FrameSpan, Head, Record, RecordRow
from mml_lightning.data.video.media import PlainMedia
from mml_lightning.data.video.pack_format import (
    FORMAT,
    MANIFEST,
    READABLE,
    RECORDS,
    VERSION,
    line_of,
    lines_name,
    read_lines,
    shard_name,
    told_packed,
)
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import file_hash, write_atomically
from mml_lightning.utils.foreign import read_json

AGAIN = "copy the pack again"
PIECE = 2**17  # bytes of lines whose objects are alive together, near the processor
KINDS = {"complete": bool, "plan": dict, "shards": int, "heads": dict, "left_out": dict}


@dataclass(frozen=True)
class Item:
    """What is packed once: the media of one record, or of several that are parts of one video."""

    number: int
    record: Record


def items_of(dataset: Dataset) -> tuple[list[Item], list[dict[str, Any]]]:
    """The videos of `dataset`, and its records as plain values that name their video by number."""
    numbers: dict[object, Item] = {}
    told = []
    for split in SPLITS:
        for record in dataset.splits.get(split, ()):
            key = (tuple(sorted(record.media.items(), key=lambda pair: pair[0])), record.decoder)
            item = numbers.setdefault(key, Item(len(numbers), record))
            told.append(_plain_record(split, record, item.number))
    return list(numbers.values()), told


def _plain_record(split: str, record: Record, item: int) -> dict[str, Any]:
    plain: dict[str, Any] = {"split": split, "id": record.id, "item": item, "target": dict(record.target)}
    if record.span is not None:
        part = list(record.span)
        plain["span"] = {"frames": part} if isinstance(record.span, FrameSpan) else part
    if record.intervals:
        plain["intervals"] = {head: [list(interval) for interval in rows] for head, rows in record.intervals.items()}
    return plain


def _row(plain: Mapping[str, Any], media: Mapping[str, PlainMedia]) -> RecordRow:
    target = plain["target"]
    if type(plain["id"]) is not str or set(map(type, target.values())) != {int}:  # usually it has one label per head
        target = {head: tuple(label) if type(label) is list else label for head, label in target.items()}
        labels = [label for value in target.values() for label in (value if type(value) is tuple else (value,))]
        if type(plain["id"]) is not str or not set(map(type, labels)) <= {int}:
            raise ValueError(f"a record has the id {plain['id']!r} and the labels {labels}")
    span = _span(plain["span"]) if "span" in plain else None
    timed = plain.get("intervals")
    intervals = (
        {head: tuple((label, start, end) for label, start, end in rows) for head, rows in timed.items()}
        if timed
        else NO_INTERVALS
    )
    return RecordRow(plain["id"], media, target, span, intervals=intervals)


def _span(plain: Any) -> tuple[float, float]:
    if isinstance(plain, dict):
        first, last = plain["frames"]
        return FrameSpan(int(first), int(last))
    return float(plain[0]), float(plain[1])


def plain_heads(dataset: Dataset) -> dict[str, Any]:
    return {
        name: {
            "classes": list(head.classes),
            "multi_label": head.multi_label,
            "mirrored": [list(pair) for pair in dataset.mirrored.get(name, {}).items()],
        }
        for name, head in dataset.heads.items()
    }


def lists(shards: int) -> list[str]:
    """The files whose sums the manifest holds."""
    return [RECORDS, *map(lines_name, range(shards))]


def write_records(folder: Path, records: Iterable[Mapping[str, Any]]) -> None:
    with write_atomically(folder / RECORDS, "wb") as handle:
        handle.writelines(map(line_of, records))


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    fields = {"format": FORMAT, "version": VERSION, **manifest}
    fields["checksum"] = _checksum(fields)
    with write_atomically(folder / MANIFEST) as handle:
        handle.write(json.dumps(fields, indent=1, ensure_ascii=True) + "\n")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of the pack at `folder`; None where there is none.

    Raises:
        UserError: it is damaged, or of a later version.
    """
    path = folder / MANIFEST
    try:
        fields = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror or error}") from None
    except ValueError:
        raise UserError(f"{path} is damaged; {AGAIN}") from None
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise UserError(f"{path} is not the manifest of a pack; give a folder made by mml pack")
    if fields.get("version") not in READABLE:
        known = f"{READABLE[0]} to {READABLE[-1]}"
        raise UserError(f"{path} is of version {fields.get('version')}, this program reads {known}; update it")
    if fields.pop("checksum", None) != _checksum(fields):
        raise UserError(f"{path} is damaged: checksum mismatch; {AGAIN}")
    wrong = next((key for key, kind in KINDS.items() if type(fields.get(key)) is not kind), None)
    if wrong:
        raise UserError(f"{path}: its field {wrong!r} is missing or wrong; give a folder made by mml pack")
    return fields


def _checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read_dataset(name: str, folder: Path) -> Dataset:
    """The dataset of a finished pack.

    Raises:
        UserError: there is no pack, it is not finished, a file is missing, damaged or cut off.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder} holds no pack; make one with mml pack <data> --out {folder}")
    if not manifest["complete"]:
        raise UserError(f"{folder}: the pack is incomplete; run the same mml pack command again to continue")
    sums = manifest.get("sha256")
    if not isinstance(sums, dict):
        raise UserError(f"{folder / MANIFEST}: its field 'sha256' is missing or wrong; {AGAIN}")
    if len(sums) != manifest["shards"] + 1:  # before so many are looked for
        raise UserError(
            f"{folder / MANIFEST}: it names {len(sums)} files, {manifest['shards']} shards need more; {AGAIN}"
        )
    for file in lists(manifest["shards"]):
        path = folder / file
        if not path.is_file():
            raise UserError(f"{path} is missing; {AGAIN}")
        if file_hash(path) != sums.get(file):
            raise UserError(f"{path} is damaged: its checksum differs from the manifest; {AGAIN}")
    splits = {split: RecordStore() for split in SPLITS}
    media = _Media(folder, manifest["shards"])
    try:
        for plain in _records(folder / RECORDS):
            splits[plain["split"]].append(_row(plain, media[plain["item"]]))
        media.finish()
        heads = {name: Head(tuple(head["classes"]), head["multi_label"]) for name, head in manifest["heads"].items()}
        pairs = {name: head["mirrored"] for name, head in manifest["heads"].items() if head["mirrored"]}
        mirrored = {name: {int(one): int(other) for one, other in rows} for name, rows in pairs.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder}: its records are invalid ({error!r}); {AGAIN}") from None
    return Dataset(name, splits, heads, mirrored, manifest["left_out"])


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """The lines, some at a time."""
    with path.open("rb") as handle:
        while piece := handle.read(PIECE):
            yield from read_lines(piece + handle.readline())[0]


class _Media(dict[int, dict[str, PlainMedia]]):
    """The sources of items, read shard by shard as records ask for them in order; all are kept only where one comes
    back to an item of an earlier shard. Making room for a million would take as long as reading them."""

    def __init__(self, folder: Path, shards: int) -> None:
        self.folder, self.shards, self.left = folder, shards, iter(range(shards))

    def __missing__(self, item: int) -> dict[str, PlainMedia]:
        for number in self.left:
            self.clear()
            self.update(_media(self.folder, number))
            if item in self:
                return self[item]
        for number in range(self.shards):
            self.update(_media(self.folder, number))
        if item not in self:
            raise KeyError(item)
        return self[item]

    def finish(self) -> None:
        """See to the shards that no record has asked for."""
        for number in self.left:
            _media(self.folder, number)


def _media(folder: Path, number: int) -> dict[int, dict[str, PlainMedia]]:
    """item -> its sources, of one shard.

    Raises:
        UserError: the shard is missing or cut off, or a line names a file outside of the pack.
    """
    shard = folder / shard_name(number)
    name = str(shard)
    lines, _ = read_lines((folder / lines_name(number)).read_bytes())
    size = shard.stat().st_size if shard.is_file() else -1
    if size < 0:
        raise UserError(f"{shard} is missing; {AGAIN}")
    if not lines or lines[-1].get("closed") != size:
        whole = lines[-1].get("closed") if lines else None
        raise UserError(f"{shard} has {size} bytes, expected {whole}: it is truncated; {AGAIN}")
    try:
        return {
            line["item"]: {
                source: told_packed(name, line["folder"], source, told) for source, told in line["sources"].items()
            }
            for line in lines[:-1]
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{folder / lines_name(number)} is not a list of packed videos ({error}); {AGAIN}") from None


def failures(lines: Iterable[Mapping[str, Any]], items: Sequence[Item]) -> list[dict[str, str]]:
    """Id, source and reason of what could not be packed."""
    return [
        {"id": items[line["item"]].record.id, "source": source, "reason": told["problem"]}
        for line in lines
        for source, told in line["sources"].items()
        if "problem" in told
    ]
