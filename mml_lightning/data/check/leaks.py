"""Videos that are the same: files equal byte by byte, folders of images, and videos whose frames look alike."""

from __future__ import annotations

import csv
import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mml_lightning.data.check.findings import Finding
from mml_lightning.data.check.hashes import near_pairs
from mml_lightning.data.check.inspection import file_bytes
from mml_lightning.data.media import place, told
from mml_lightning.data.records import Dataset
from mml_lightning.files import file_hash, write_atomically

Member = tuple[str, str]  # split, id


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
    within: such groups inside one split; parts of one file are no such group.
    near: pairs across splits that look alike.
    complete: whether all candidates were compared.
    """

    across: list[list[Member]]
    within: list[list[Member]]
    near: list[Near]
    complete: bool = True


def find_leaks(dataset: Dataset, findings: Sequence[Finding]) -> Leaks:
    """Same and near-identical videos of `dataset`; the latter by the hashes of `findings`.

    A test split that is the val split again, as where a dataset publishes one of them only, is not taken for a leak.
    """
    if measured_twice(dataset):
        dataset = dataclasses.replace(dataset, splits={s: r for s, r in dataset.splits.items() if s != "test"})
        findings = [f for f in findings if f.split != "test"]
    across, within = duplicates(dataset)
    same = {member: number for number, group in enumerate(across) for member in group}
    seen = [f for f in findings if f.source == "frames" and f.usable and f.hashes]
    pairs, complete = near_pairs([f.hashes for f in seen], [_number(f.split) for f in seen])
    near = []
    for a, b, bits in pairs:
        one, other = (seen[a].split, seen[a].id), (seen[b].split, seen[b].id)
        if seen[a].path != seen[b].path and (one not in same or same[one] != same.get(other)):
            near.append(Near(one, other, bits))
    return Leaks(across, within, near, complete)


def measured_twice(dataset: Dataset) -> bool:
    """Whether the val and test splits are the same videos."""
    val, test = ({record.id: record.media for record in dataset.splits.get(split, ())} for split in ("val", "test"))
    return bool(val) and val == test


def _number(split: str) -> int:
    return int.from_bytes(split.encode()[:6], "little")


def duplicates(dataset: Dataset) -> tuple[list[list[Member]], list[list[Member]]]:
    """Groups of (split, id) that are the same video: those of several splits, those inside one.

    Video files are the same where they are equal byte by byte, images where they lie in one folder under one template.
    """
    members: dict[Path, list[Member]] = defaultdict(list)
    folders: dict[object, list[Member]] = defaultdict(list)
    for split, records in dataset.splits.items():
        for record in records:
            media = record.media.get("frames", record.media.get("flow"))
            if isinstance(media, Path):
                members[media].append((split, record.id))
            elif media is not None:
                folders[place(told(media))].append((split, record.id))
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in members:
        by_size[file_bytes(path)].append(path)
    by_content: dict[str, list[Path]] = defaultdict(list)
    for size, paths in by_size.items():
        for path in paths if size else ():
            alone = len(paths) == 1  # files of different size are not read at all
            by_content[str(path) if alone else file_hash(path)].append(path)
    across = [group for group in folders.values() if len({split for split, _ in group}) > 1]
    within = []
    for paths in by_content.values():
        group = [member for path in paths for member in members[path]]
        if len({split for split, _ in group}) > 1:
            across.append(group)
        elif len(paths) > 1:
            within.append(group)
    return across, within


def write_leaks(leaks: Leaks, file: Path) -> None:
    """All of them as CSV, a line per video: kind, number of the group, bits of difference, split, id."""
    groups: list[tuple[str, float, Sequence[Member]]] = [
        *(("identical across splits", 0.0, group) for group in leaks.across),
        *(("identical in a split", 0.0, group) for group in leaks.within),
        *(("near-identical", near.bits, (near.one, near.other)) for near in leaks.near),
    ]
    with write_atomically(file, newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["kind", "group", "bits", "split", "id"])
        for number, (kind, bits, group) in enumerate(groups, 1):
            writer.writerows([kind, number, f"{bits:g}", *member] for member in group)
