"""What a dataset is before anything is decoded: records joined by id."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mml_lightning.errors import UserError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Record:
    """One video.

    Args:
        id: unique in its split; joins sources, scores and submissions.
        media: path per source ("frames", "flow", ...). Sources that are computed from others are absent.
        target: per head, a class index, or a tuple of indices for a multi-label head.
        span: optional (start, end) in seconds: the part of the video that carries the label.
        decoder: the one reader that is right for this video, where `mml check` found the usual one wrong.
    """

    id: str
    media: Mapping[str, Path]
    target: Mapping[str, int | tuple[int, ...]]
    span: tuple[float, float] | None = None
    decoder: str | None = None


@dataclass(frozen=True)
class Head:
    """One classification head: its class names, and whether a video may have several of them."""

    classes: tuple[str, ...]
    multi_label: bool = False


@dataclass(frozen=True)
class Dataset:
    """Records per split and the heads they are labelled for.

    Args:
        mirrored: class index -> class index after a horizontal flip, per head (classes not listed stay).
    """

    name: str
    splits: Mapping[str, Sequence[Record]]
    heads: Mapping[str, Head]
    mirrored: Mapping[str, Mapping[int, int]] = field(default_factory=dict)

    @property
    def num_classes(self) -> dict[str, int]:
        return {name: len(head.classes) for name, head in self.heads.items()}

    def fingerprint(self) -> str:
        """Hash of ids, labels, spans, file sizes and special readers: the same wherever the data lie."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for record in self.splits.get(split, ()):
                sizes = [path.stat().st_size if path.is_file() else -1 for _, path in sorted(record.media.items())]
                digest.update(repr((split, record.id, sorted(record.target.items()), record.span, sizes)).encode())
                digest.update(f"|{record.decoder}".encode() if record.decoder else b"")
        for name, head in sorted(self.heads.items()):
            digest.update(repr((name, head.classes, head.multi_label)).encode())
        return digest.hexdigest()[:16]


def validate(dataset: Dataset, needed: Iterable[str] = SPLITS) -> Dataset:
    """Check what can be checked without decoding, all at once and up front.

    Raises:
        UserError: an empty split, a repeated id, or missing files (the first is named, all are counted).
    """
    needed = tuple(needed)
    for split in needed:
        records = dataset.splits.get(split, ())
        if not records:
            have = ", ".join(f"{name} {len(rows)}" for name, rows in dataset.splits.items())
            mend = "check its list, or set test=false" if split == "test" else "check its list"
            raise UserError(f"data={dataset.name}: the {split} split is empty (videos: {have}); {mend}")
        identity, times = Counter(record.id for record in records).most_common(1)[0]
        if times > 1:
            raise UserError(
                f"data={dataset.name}: id {identity!r} stands {times} times in the {split} split; ids must be unique"
            )
    records_of = [(split, record) for split in needed for record in dataset.splits[split]]
    missing = [(s, r, path) for s, r in records_of for path in r.media.values() if not path.is_file()]
    if missing:
        split, record, path = missing[0]
        raise UserError(
            f"data={dataset.name}: {len(missing)} of {len(records_of)} videos are missing, first: {path} "
            f"(id {record.id}, {split}); check data.root or remove the lines"
        )
    return dataset
