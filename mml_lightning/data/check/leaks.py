"""Videos that are the same: files equal byte by byte, folders of images, and videos whose frames look alike."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mml_lightning.data.check.findings import Finding
from mml_lightning.data.check.hashes import near_pairs
from mml_lightning.data.check.inspection import file_bytes
from mml_lightning.data.records.records import Dataset, extent
from mml_lightning.data.video.media import Media, location_key, to_plain
from mml_lightning.utils.files import file_hash, write_atomically

Member = tuple[str, str]  # split, id
_Part = tuple[Member, tuple[float, float] | None, Media | None]


@dataclass(frozen=True)
class Near:
    """Two videos of different splits whose frames differ by `bits` of 64 on average."""

    one: Member
    other: Member
    bits: float


@dataclass(frozen=True)
class Leaks:
    """Args:
    across: groups of records of several splits whose files are equal byte by byte, or whose images are the same ones.
        Parts of one video that have nothing in common are no such group.
    within: such groups inside one split; parts of one file are no such group.
    near: pairs across splits that look alike.
    complete: whether all candidates were compared.
    parts: parts of one video in several splits that have nothing in common.
    """

    across: list[list[Member]]
    within: list[list[Member]]
    near: list[Near]
    complete: bool = True
    parts: list[list[Member]] = field(default_factory=list)


def find_leaks(dataset: Dataset, findings: Sequence[Finding]) -> Leaks:
    """Same and near-identical videos of `dataset`; the latter by the hashes of `findings`.

    A test split that is the val split again, as where a dataset publishes one of them only, is not taken for a leak.
    """
    if measured_twice(dataset):
        dataset = dataclasses.replace(dataset, splits={s: r for s, r in dataset.splits.items() if s != "test"})
        findings = [f for f in findings if f.split != "test"]
    across, within, parts = duplicates(dataset)
    same = {member: number for number, group in enumerate((*across, *parts)) for member in group}
    seen = [f for f in findings if f.source == "frames" and f.usable and f.hashes]
    pairs, complete = near_pairs([f.hashes for f in seen], [_number(f.split) for f in seen])
    near = []
    for a, b, bits in pairs:
        one, other = (seen[a].split, seen[a].id), (seen[b].split, seen[b].id)
        if seen[a].path != seen[b].path and (one not in same or same[one] != same.get(other)):
            near.append(Near(one, other, bits))
    return Leaks(across, within, near, complete, parts)


def measured_twice(dataset: Dataset) -> bool:
    """Whether the val and test splits are the same videos."""
    val, test = ({record.id: record.media for record in dataset.splits.get(split, ())} for split in ("val", "test"))
    return bool(val) and val == test


def _number(split: str) -> int:
    return int.from_bytes(split.encode()[:6], "little")


def duplicates(dataset: Dataset) -> tuple[list[list[Member]], list[list[Member]], list[list[Member]]]:
    """Groups of (split, id) that are the same video: those of several splits, those inside one, and parts of one video
    in several splits that have nothing in common.

    Video files are the same where they are equal byte by byte, images where they lie in one folder under one template.
    """
    files: dict[Path, list[_Part]] = defaultdict(list)
    folders: dict[object, list[_Part]] = defaultdict(list)
    for split, records in dataset.splits.items():
        for record in records:
            media = record.media.get("frames", record.media.get("flow"))
            part = ((split, record.id), record.span, media)
            if isinstance(media, Path):
                files[media].append(part)
            elif media is not None:
                folders[location_key(to_plain(media))].append(part)
    across: list[list[Member]] = []
    within: list[list[Member]] = []
    apart: list[list[Member]] = []
    equal = [[part for path in paths for part in files[path]] for paths in _equal_files(list(files))]
    for group in (*folders.values(), *equal):
        if len(group) == 1:
            continue
        shared = 0
        for same in _having_in_common(group):
            members = [member for member, *_ in same]
            if len({split for split, _ in members}) > 1:
                across.append(members)
                shared += 1
            elif len({media for *_, media in same}) > 1 and isinstance(same[0][2], Path):
                within.append(members)
        if not shared and len({split for (split, _), *_ in group}) > 1:
            apart.append([member for member, *_ in group])
    return across, within, apart


def _equal_files(paths: Sequence[Path]) -> list[list[Path]]:
    """`paths` in groups of equal content; files of different size are not read at all."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        by_size[file_bytes(path)].append(path)
    by_content: dict[str, list[Path]] = defaultdict(list)
    for size, same in by_size.items():
        for path in same if size else ():
            by_content[str(path) if len(same) == 1 else file_hash(path)].append(path)
    return list(by_content.values())


def _having_in_common(group: Sequence[_Part]) -> Iterator[list[_Part]]:
    """Parts of one video, those together that have something in common, be it by way of others."""
    together: list[_Part] = []
    latest = -math.inf
    for part in sorted(group, key=lambda part: extent(part[1])[0]):
        start, end = extent(part[1])
        if together and start >= latest:
            yield together
            together = []
        together.append(part)
        latest = max(latest, end)
    yield together


def write_leaks(leaks: Leaks, file: Path) -> None:
    """All of them as CSV, a line per video: kind, number of the group, bits of difference, split, id."""
    groups: list[tuple[str, float, Sequence[Member]]] = [
        *(("identical across splits", 0.0, group) for group in leaks.across),
        *(("identical in a split", 0.0, group) for group in leaks.within),
        *(("parts in several splits", 0.0, group) for group in leaks.parts),
        *(("near-identical", near.bits, (near.one, near.other)) for near in leaks.near),
    ]
    with write_atomically(file, newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["kind", "group", "bits", "split", "id"])
        for number, (kind, bits, group) in enumerate(groups, 1):
            writer.writerows([kind, number, f"{bits:g}", *member] for member in group)
