"""What lists and labels say by themselves, without a look at any video."""

from __future__ import annotations

from collections import Counter, defaultdict

from mml_lightning.data.check.remarks import Remark, remark
from mml_lightning.data.records.records import SPLITS, Dataset


def of_lists(dataset: Dataset) -> list[Remark]:
    """Empty splits and ids that stand twice."""
    empty = [split for split in SPLITS if not dataset.splits.get(split)]
    needed = [split for split in empty if split != "test"]
    twice = [
        f"{split}/{name} ({times} times)"
        for split, records in dataset.splits.items()
        for name, times in Counter(record.id for record in records).items()
        if times > 1
    ]
    return [
        *remark("stops", "empty splits", "check their lists", needed).some(),
        *remark("stops", "ids that are not unique in their split", "rename or remove one of each", twice).some(),
        *remark("note", "no test split", "set test=false", [s for s in empty if s == "test"]).some(),
    ]


def balance(dataset: Dataset) -> dict[str, dict[str, dict[str, int]]]:
    """Videos per head, class and split."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for name, head in dataset.heads.items():
        per_split = {}
        for split, records in dataset.splits.items():
            if records:
                labels = (record.target[name] for record in records if name in record.target)
                per_split[split] = Counter(k for v in labels for k in (v if isinstance(v, tuple) else (v,)))
        counts[name] = {
            f"{label}": {split: count[k] for split, count in per_split.items()} for k, label in enumerate(head.classes)
        }
    return counts


def of_classes(dataset: Dataset) -> list[Remark]:
    """Classes that can't be learnt or told apart, and videos without a label."""
    unlearnt: list[str] = []
    unused: list[str] = []
    alike: list[str] = []
    for name, classes in balance(dataset).items():
        prefix = f"{name}/" if len(dataset.heads) > 1 else ""
        for label, per_split in classes.items():
            if per_split.get("train", 0) == 0:
                (unlearnt if sum(per_split.values()) else unused).append(f"{prefix}{label}")
        spelt: dict[str, list[str]] = defaultdict(list)
        for label in classes:
            spelt[" ".join(label.replace("_", " ").split()).casefold()].append(label)
        alike += [prefix + " = ".join(map(repr, same)) for same in spelt.values() if len(same) > 1]
    unlabelled = [
        f"{split}/{record.id}"
        for split, records in dataset.splits.items()
        for record in records
        if split != "test" and all(label == () for label in record.target.values())
    ]
    return [
        *remark("falsifies", "measured classes without a training video", "add some, or drop them", unlearnt).some(),
        *remark("falsifies", "class names that differ in spelling only", "use one spelling", alike).some(),
        *remark("note", "classes without any video", "networks still have an output for each", unused).some(),
        *remark("note", "videos without a label", "they count as negatives of all classes", unlabelled).some(),
    ]
