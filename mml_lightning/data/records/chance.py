"""What knowing nothing scores, so that a result can be told from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from mml_lightning.data.records.records import Dataset, Head, rows


@dataclass(frozen=True)
class Chance:
    """Of a head with one label per video.

    Args:
        classes: how many there are.
        majority: the most frequent class of the training split.
        shares: {split: percent of its labelled videos that are of `majority`}, training first.
    """

    classes: int
    majority: str
    shares: dict[str, float]

    @property
    def guessing(self) -> float:
        """Top-1 in percent of a guess with equal probabilities."""
        return 100 / self.classes


def chances(data: Dataset) -> dict[str, Chance]:
    """For each head with one label per video."""
    counts: dict[str, dict[str, Counter[int]]] = {head: {} for head, told in data.heads.items() if not told.multi_label}
    for split, records in data.splits.items():
        for row in rows(records):
            for head, found in counts.items():
                if isinstance(label := row.target.get(head), int):
                    found.setdefault(split, Counter())[label] += 1
    return {head: _chance(data.heads[head], found) for head, found in counts.items() if found.get("train")}


def _chance(head: Head, counts: dict[str, Counter[int]]) -> Chance:
    most = max(counts["train"].values())
    majority = min(label for label, count in counts["train"].items() if count == most)
    shares = {split: 100 * count[majority] / count.total() for split, count in counts.items()}
    return Chance(len(head.classes), head.classes[majority], shares)


def describe(data: Dataset) -> str:
    """One line for the plan; "" where every head has several labels per video."""
    found = chances(data)
    return "; ".join((f"{head}: " if len(found) > 1 else "") + _words(chance) for head, chance in found.items())


def _words(chance: Chance) -> str:
    told = ", ".join(f"{split} {share:.1f}%" for split, share in chance.shares.items())
    return f"{chance.guessing:.1f}% by guessing; always {chance.majority!r}, the majority class of train: {told}"
