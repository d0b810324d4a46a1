"""Videos that are named one by one: files, folders, patterns, tables and lists, none of which needs a label."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mml_lightning.data.records.readers.files import Root, check_name, natural, without_ending
from mml_lightning.data.records.readers.folders import VIDEOS
from mml_lightning.data.records.readers.table import Table, part_name
from mml_lightning.data.records.records import Record
from mml_lightning.utils.errors import UserError

STANDARD_INPUT = "-"
ENDINGS = tuple(f".{ending}" for ending in VIDEOS)
PATTERN = "*?["


@dataclass
class Named:
    """Videos in the order they were named, each once.

    Args:
        records: without labels; the id is what the video is called in results.
        told: what was taken for what, and what was left out, in a few words each.
    """

    records: list[Record] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


def read_named(
    sources: Sequence[str],
    lines: Iterable[str] = (),
    split: str | None = None,
    root: str | None = None,
    first_frame: int = 0,
) -> Named:
    """The videos of all `sources`: a video file, a folder (all videos below it, links to folders not followed), a
    pattern (`*.mp4`, `**` for any folders), a CSV with a column of paths (id, and start and end of a part, as
    :func:`mml_lightning.data.records.readers.read_csv` has them, labels not needed), or "-" for a list.

    A file in a folder, a list or a pattern may turn out to be no video; that one is missing is told of files that are
    sources themselves only. A video is called by its path as it was named, one of a CSV by its id or its path without
    ending, as `data=csv` calls it.

    Args:
        lines: of the list that "-" stands for, a path each; empty ones are passed over.
        split: of CSV files: only lines of this split.
        root: folder that paths in CSV files are relative to; their own by default.
        first_frame: the number that CSV files give to the first frame, where they tell parts by frames.

    Raises:
        UserError: nothing there, nothing in it, a damaged table, or two videos of one name.
    """
    found = Named()
    known: dict[str, Record] = {}
    doubled = 0
    for source in sources:
        table = _Lines(split, root, first_frame, found.told)
        for record in _records(source, lines, table):
            before = known.setdefault(check_name(record.id), record)
            if before is record:
                found.records.append(record)
            elif (before.media, before.span) == (record.media, record.span):
                doubled += 1
            else:
                raise UserError(f"{source}: {record.id!r} is the name of two videos; rename one")
    if doubled:
        found.told.append(f"named twice, taken once: {doubled}")
    if not found.records:
        raise UserError(f"{', '.join(sources)}: no video is named there")
    return found


def _records(source: str, lines: Iterable[str], table: _Lines) -> Iterator[Record]:
    path = Path(source).expanduser()
    if source == STANDARD_INPUT:
        yield from (_record(text) for line in lines if (text := line.strip()))
    elif path.is_dir():
        yield from map(_record, _below(path))
    elif path.suffix.lower() == ".csv":
        yield from table.records(path)
    elif path.exists():
        yield _record(source)
    elif any(sign in source for sign in PATTERN):
        yield from map(_record, _matching(source))
    else:
        raise UserError(f"{source}: no such file or folder")


def _record(name: str) -> Record:
    if "\0" in name:
        raise UserError(f"{name[:40]!r} can't name a file; fix the list")
    return Record(name, {"frames": Path(name).expanduser()}, {})


def _below(folder: Path) -> list[str]:
    found = [
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(ENDINGS) and not name.startswith(".")
    ]
    if not found:
        raise UserError(f"{folder}: no video in this folder ({', '.join(VIDEOS)})")
    return sorted(found, key=natural)


def _matching(pattern: str) -> list[str]:
    found = [name for name in glob.glob(os.path.expanduser(pattern), recursive=True) if os.path.isfile(name)]
    if not found:
        raise UserError(f"{pattern}: no file fits this pattern")
    return sorted(found, key=natural)


@dataclass(frozen=True)
class _Lines:
    """How the lines of a CSV become videos."""

    split: str | None
    root: str | None
    first_frame: int
    told: list[str]

    def records(self, path: Path) -> Iterator[Record]:
        table, split = Table(path, ("path",), ""), self.split
        base = Root(Path(self.root).expanduser() if self.root else path.parent)
        spans = table.columns.times
        if split is not None and "split" not in table.names:
            raise UserError(f"{path}: it has no column of splits to choose --split {split} from; leave it out")
        taken = 0
        for line, (file, own, identity, *times) in table.rows("path", "split", "id", "start", "other"):
            if not file:
                raise table.empty(line, "path")
            if split is not None and table.split(line, own) != split:
                continue
            if "id" in table.names and not identity:
                raise table.empty(line, "id")
            span = spans.span(times, self.first_frame, f"{path}, line {line}") if spans and any(times) else None
            taken += 1
            name = identity or without_ending(file) + (part_name(span, self.first_frame) if span else "")
            yield Record(name, {"frames": Path(base.below(file, path, line))}, {}, span)
        kept = "" if split is None else f" of the split {split}"
        self.told.append(f"{path}: {taken} lines{kept}, {', '.join(table.columns.told)}")
