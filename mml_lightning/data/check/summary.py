"""The findings of a check as one report: remarks on what is wrong, spreads, classes per split, speed."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mml_lightning.data.check import labels, lengths
from mml_lightning.data.check.findings import Finding
from mml_lightning.data.check.leaks import Leaks, measured_twice
from mml_lightning.data.check.remarks import Remark, all_shown, remark
from mml_lightning.data.records.records import Dataset
from mml_lightning.data.video.decode import DECODERS, installed


@dataclass(frozen=True)
class Wanted:
    """What a run would ask of the data: steps of a clip, their number `frames` in a row, the share it bears."""

    frames: int = 1
    max_bad_share: float = 0.0
    leave_out: bool = True


@dataclass(frozen=True)
class Speed:
    """How fast this machine makes training samples.

    Args:
        videos, frames: per second, frames as the networks see them.
        timed: videos that were timed.
        epoch: seconds that loading a training epoch takes.
    """

    videos: float
    frames: float
    timed: int
    workers: int
    epoch: float


@dataclass(frozen=True)
class Report:
    """Args:
    videos: records per split.
    total: videos, those of a test split that is val counted once.
    spreads: name -> [(value, videos)] of what videos have: sizes, frames, rates.
    balance: per head, class -> videos per split.
    """

    name: str
    videos: Mapping[str, int]
    total: int
    readable: int
    remarks: Sequence[Remark]
    spreads: Mapping[str, Sequence[tuple[str, int]]]
    overview: Sequence[str]
    balance: Mapping[str, Mapping[str, Mapping[str, int]]]
    leaks: Leaks
    speed: Speed | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def usable(self) -> bool:
        """Whether nothing was found that would stop or falsify a run."""
        return all(remark.level == "note" for remark in self.remarks)


def summarise(dataset: Dataset, findings: Sequence[Finding], leaks: Leaks, wanted: Wanted) -> Report:
    """What is to be said about `dataset`."""
    twice = measured_twice(dataset)
    once = {split: records for split, records in dataset.splits.items() if not (twice and split == "test")}
    findings = [f for f in findings if f.split in once]
    good = [f for f in findings if f.source == "frames" and f.usable]
    remarks = [
        *labels.of_lists(dataset),
        *_unusable(dataset, findings, wanted),
        *lengths.of_media(findings, dataset, wanted.frames),
        *_leaks(dataset, leaks),
        *labels.of_classes(dataset),
        *_damaged(good),
        *_readers(good),
    ]
    bad = {(f.split, f.id) for f in findings if not f.usable}
    total = sum(map(len, once.values()))
    same = ["test and val are the same videos"] if twice else []
    missing = [decoder for decoder in DECODERS if not installed(decoder)]
    return Report(
        name=dataset.name,
        videos={split: len(records) for split, records in dataset.splits.items() if records},
        total=total,
        readable=total - len(bad),
        remarks=sorted(remarks, key=lambda remark: remark.order),
        spreads=_spreads(good),
        overview=_overview(good),
        balance=labels.balance(dataset),
        leaks=leaks,
        notes=[*dataset.told, *same, *(f"{decoder} is not installed: nothing was compared" for decoder in missing)],
    )


def _unusable(dataset: Dataset, findings: Sequence[Finding], wanted: Wanted) -> list[Remark]:
    """What can't be read. A few training videos may be: runs leave them out."""
    found = []
    unusable = Counter(split for split, _ in {(f.split, f.id) for f in findings if not f.usable})
    for missing, what in ((True, "missing"), (False, "unreadable")):
        for split, records in dataset.splits.items():
            bad = {f.id: f for f in findings if f.split == split and not f.usable and bool(f.state) is not missing}
            if not bad:
                continue
            borne = split == "train" and wanted.leave_out and unusable[split] <= wanted.max_bad_share * len(records)
            if borne:
                level, advice = "note", "training leaves them out; repair them to use them"
            elif split == "train":
                share = f"more than data.max_bad_share={wanted.max_bad_share:g}" if wanted.leave_out else "not left out"
                level, advice = "stops", f"{share}: repair them, or remove their lines"
            elif missing:
                level, advice = "stops", "check data.root, or remove their lines"
            else:
                level, advice = "falsifies", "they can't be evaluated: repair them, or remove their lines"
            found.append(remark(level, f"{what} in {split}", advice, all_shown(bad.values())))
    return found


def _leaks(dataset: Dataset, leaks: Leaks) -> list[Remark]:
    targets = {(split, r.id): r.target for split, records in dataset.splits.items() for r in records}
    across = [" = ".join(map("/".join, group)) for group in leaks.across]
    twice = [" = ".join(map("/".join, group)) for group in leaks.within]
    apart = [" = ".join(map("/".join, group)) for group in leaks.parts]
    spans = {(split, r.id) for split, records in dataset.splits.items() for r in records if r.span}
    disagree = [
        " = ".join(map("/".join, group))
        for group in (*leaks.across, *leaks.within)
        if not spans & set(group) and any(targets[member] != targets[group[0]] for member in group)
    ]
    near = [f"{'/'.join(n.one)} ~ {'/'.join(n.other)} ({n.bits:g} bits of 64)" for n in leaks.near]
    more = "" if leaks.complete else "; too many similar videos to compare all pairs"
    return [
        *remark("falsifies", "identical videos in several splits", "keep each in one", across).some(),
        *remark("falsifies", "identical videos with different labels", "keep the right one", disagree).some(),
        *remark("note", "identical videos in one split", "they count several times", twice).some(),
        *remark("note", "parts of one video in several splits", "they don't overlap but look alike", apart).some(),
        *remark("note", "near-identical videos in several splits", f"inspect them{more}", near).some(),
    ]


def _damaged(good: Sequence[Finding]) -> list[Remark]:
    damaged = [f for f in good if f.listed is None and f.problem and not f.decoder]
    return remark("note", "damaged", "runs use the part that decodes; get them again", all_shown(damaged)).some()


def _readers(good: Sequence[Finding]) -> list[Remark]:
    special = [f for f in good if f.decoder]
    return remark("note", "only one reader is exact", "runs on this data use it from now on", all_shown(special)).some()


def _overview(good: Sequence[Finding]) -> list[str]:
    """Size, frames and rate in a line each."""
    if not good:
        return []
    sizes = Counter(f"{f.width}x{f.height}" for f in good).most_common(3)
    frames = [f.frames for f in good]
    lines = [
        "size     " + ", ".join(f"{size} ({n})" for size, n in sizes),
        f"frames   {min(frames)} to {max(frames)}, median {statistics.median(frames):g}",
    ]
    rates = [f.fps for f in good if f.fps > 0]
    if rates:
        lines.append(f"fps      {min(rates):g} to {max(rates):g}, median {statistics.median(rates):g}")
    unknown = len(good) - len(rates)
    return [*lines, f"fps      unknown of {unknown} videos"] if unknown else lines


def _spreads(good: Sequence[Finding]) -> dict[str, list[tuple[str, int]]]:
    if not good:
        return {}
    sizes = Counter(f"{f.width}x{f.height}" for f in good)
    rates = Counter(f"{f.fps:g}" if f.fps > 0 else "unknown" for f in good)
    return {
        "size": _most(sizes),
        "frames": _histogram([f.frames for f in good]),
        "frames per second": _most(rates),
    }


def _most(counts: Counter[str], shown: int = 12) -> list[tuple[str, int]]:
    rows = counts.most_common(shown)
    rest = sum(counts.values()) - sum(n for _, n in rows)
    return [*rows, ("others", rest)] if rest else rows


def _histogram(values: Sequence[int], bins: int = 12) -> list[tuple[str, int]]:
    """Counts of whole numbers in equal bins, named by their ends."""
    low, high = min(values), max(values)
    width = max(1, -(-(high - low + 1) // bins))
    counts = Counter((value - low) // width for value in values)
    rows = []
    for number in range((high - low) // width + 1):
        first = low + number * width
        last = min(high, first + width - 1)
        rows.append((f"{first}" if first == last else f"{first} to {last}", counts[number]))
    return rows
