"""What a dataset is before anything is decoded: records joined by id."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import os
import time
from abc import abstractmethod
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mml_lightning.data.video import file_sizes
from mml_lightning.data.video.media import (
    Media,
    PlainMedia,
    content_key,
    files,
    files_that_identify,
    missing_file,
    to_plain,
)
from mml_lightning.utils.errors import UserError

SPLITS = ("train", "val", "test")
NO_INTERVALS: dict[str, tuple[tuple[int, float, float], ...]] = {}  # one for all records that have none


class FrameSpan(NamedTuple):
    """A part of a video told by its frames, from 0, both included."""

    first: int
    last: int


def extent(span: tuple[float, float] | None) -> tuple[float, float]:
    """(start, end) of a part, in frames or in seconds, the end excluded; without one all of the video. Parts of one
    video have something in common where each starts before the other ends."""
    if span is None:
        return -math.inf, math.inf
    return (span.first, span.last + 1) if isinstance(span, FrameSpan) else span


@dataclass(frozen=True, slots=True)
class Record:
    """One video.

    Args:
        id: unique in its split; joins sources, scores and submissions.
        media: video file or images per source ("frames", "flow", ...); sources computed from others are absent.
        target: per head, a class index, or a tuple of indices for a multi-label head; heads whose label is unknown
            (published test splits) are absent.
        span: optional (start, end) in seconds from the first frame shown, or a :class:`FrameSpan`: the part of the
            video that carries the label.
        decoder: the one reader that is right for this video, where `mml check` found the usual one wrong.
        intervals: per head, (class, start, end) in seconds, for labels that hold in a part of the video only.
        length: seconds that the annotation says the video lasts; only `mml check` looks at it.
    """

    id: str
    media: Mapping[str, Media]
    target: Mapping[str, int | tuple[int, ...]]
    span: tuple[float, float] | None = None
    decoder: str | None = None
    intervals: Mapping[str, tuple[tuple[int, float, float], ...]] = field(default_factory=lambda: NO_INTERVALS)
    length: float | None = None


class RecordRow(NamedTuple):
    """The fields of a :class:`Record`, its media as plain values, for what looks at all of them."""

    id: str
    media: Mapping[str, PlainMedia]
    target: Mapping[str, int | tuple[int, ...]]
    span: tuple[float, float] | None = None
    decoder: str | None = None
    intervals: Mapping[str, tuple[tuple[int, float, float], ...]] = NO_INTERVALS
    length: float | None = None


class Rows(Sequence[Record]):
    """Records that are kept in another form, and told faster as rows."""

    @abstractmethod
    def rows(self) -> Iterator[RecordRow]: ...


def rows(records: Iterable[Record]) -> Iterator[RecordRow]:
    return records.rows() if isinstance(records, Rows) else map(plain_row, records)


def plain_row(record: Record) -> RecordRow:
    plain = {source: to_plain(one) for source, one in record.media.items()}
    return RecordRow(record.id, plain, record.target, record.span, record.decoder, record.intervals, record.length)


@dataclass(frozen=True)
class Head:
    """One classification head: its class names, and whether a video may have several of them."""

    classes: tuple[str, ...]
    multi_label: bool = False


@dataclass(frozen=True)
class Seen:
    """The files of a split when its fingerprint was taken.

    Args:
        sizes: of all files, in order.
        ends: where those of each record end; 0 before the first.
        at: when, in seconds since the epoch.
    """

    sizes: array[int]
    ends: array[int]
    at: float

    def changes(self, index: int, record: Record) -> tuple[str | None, str | None]:
        """What has become of the files of a record: (how one has another size, the name of one that was written since
        and has the size of before); None for neither."""
        names = itertools.chain.from_iterable(files_that_identify(to_plain(one)) for one in record.media.values())
        written = None
        for name, size in zip(names, self.sizes[self.ends[index] : self.ends[index + 1]], strict=False):
            try:
                now = os.stat(name)
            except OSError:  # whoever reads it says so
                continue
            if size >= 0 and now.st_size != size:
                return (
                    f"{name}: it had {size} bytes when the run started and has {now.st_size} now: it was replaced",
                    None,
                )
            if now.st_mtime > self.at:
                written = name
        return None, written


@dataclass(frozen=True)
class Dataset:
    """Records per split and the heads they are labelled for.

    Args:
        mirrored: class index -> class index after a horizontal flip, per head (classes not listed stay).
        left_out: id -> reason of the training records that `mml check` found unusable; they are in no split.
        told: what the reader took for what, and what it left out, in a few words each.
    """

    name: str
    splits: Mapping[str, Sequence[Record]]
    heads: Mapping[str, Head]
    mirrored: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    told: Sequence[str] = ()

    @property
    def num_classes(self) -> dict[str, int]:
        return {name: len(head.classes) for name, head in self.heads.items()}

    def look(self, split: str) -> array[int]:
        """Sizes of the files that tell whether the media of a split are there and the same (-1: no file), in order.

        The one look at each file that a start takes: the fingerprint is of what is found here.
        """
        media = (one for row in rows(self.splits.get(split, ())) for one in row.media.values())
        files = itertools.chain.from_iterable(map(files_that_identify, media))
        self._looked[split] = time.time()
        self._sizes[split] = file_sizes.sizes(files, f"the files of the {split} split")
        return self._sizes[split]

    @functools.cached_property
    def _sizes(self) -> dict[str, array[int]]:
        return {}

    @functools.cached_property
    def _looked(self) -> dict[str, float]:
        return {}

    @functools.cached_property
    def _seen(self) -> dict[str, Seen]:
        return {}

    def seen(self, split: str) -> Seen | None:
        """What the fingerprint saw of the files of a split; None of one that is no part of it, without any label."""
        self.fingerprint()
        return self._seen.get(split)

    def fingerprint(self) -> str:
        """Hash of ids, labels, spans, intervals, file sizes and special readers: the same wherever the data lie."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for split in SPLITS:
            if not any(row.target for row in rows(self.splits.get(split, ()))):
                continue  # without a label it changes no weight and no number
            found = self._sizes.get(split) or self.look(split)
            sizes, ends = iter(found), array("Q", [0])
            self._seen[split] = Seen(found, ends, self._looked[split])
            for video, media, target, span, decoder, intervals, _ in rows(self.splits[split]):
                seen = [content_key(one, sizes) for one in media.values()]
                ends.append(ends[-1] + sum(map(files, media.values())))
                if len(seen) > 1:
                    seen = [one for _, one in sorted(zip(media, seen, strict=True))]
                if not target:
                    continue
                digest.update(f"({split!r}, {video!r}, {_told_labels(target)}, {span!r}, {seen!r})".encode())
                if decoder:
                    digest.update(f"|{decoder}".encode())
                if intervals:
                    digest.update(repr(sorted(intervals.items())).encode())
        for name, head in sorted(self.heads.items()):
            digest.update(repr((name, head.classes, head.multi_label)).encode())
        return digest.hexdigest()[:16]


def _told_labels(target: Mapping[str, int | tuple[int, ...]]) -> str:
    """`repr(sorted(target.items()))`, faster of a single label."""
    labels = list(target.items())
    if len(labels) == 1 and type(labels[0][1]) is int:
        return f"[({labels[0][0]!r}, {labels[0][1]})]"
    return repr(sorted(labels))


def validate(dataset: Dataset, needed: Iterable[str] = SPLITS, labelled: bool = True) -> Dataset:
    """Check what can be checked without decoding, all at once and up front.

    Args:
        labelled: every video of the needed splits must have a label for each head.

    Raises:
        UserError: an empty split, a label that is not known, a repeated id, or missing files (the first is named, all
            are counted).
    """
    needed = tuple(needed)
    for split in needed:
        records = dataset.splits.get(split, ())
        if not records:
            have = ", ".join(f"{name} {len(rows)}" for name, rows in dataset.splits.items())
            fix = "check its list, or set test=false" if split == "test" else "check its list"
            raise UserError(f"data={dataset.name}: the {split} split is empty (videos: {have}); {fix}")
        heads, ids, unknown = dataset.heads.keys(), [], 0
        for row in rows(records):
            ids.append(row.id)
            unknown += not heads <= row.target.keys()
        if unknown and labelled:
            raise UserError(
                f"data={dataset.name}: {unknown} of {len(records)} videos of the {split} split have no label; set "
                "test=false, and predict them with eval.py afterwards"
            )
        if len(set(ids)) < len(ids):
            identity, times = Counter(ids).most_common(1)[0]
            raise UserError(
                f"data={dataset.name}: id {identity!r} appears {times} times in the {split} split; ids must be unique: "
                "rename or remove one"
            )
    missing = [(split, *one) for split in needed for one in _missing(dataset, split)]
    if missing:
        split, identity, path = missing[0]
        raise UserError(
            f"data={dataset.name}: {len(missing)} of {sum(len(dataset.splits[name]) for name in needed)} videos are "
            f"missing, first: {path} (id {identity}, {split}); check data.root or remove the lines"
        )
    return dataset


def _missing(dataset: Dataset, split: str) -> list[tuple[str, Path]]:
    """(id, file) of the videos of a split that are not there."""
    found = dataset.look(split)
    if min(found, default=0) >= 0:
        return []
    sizes, missing = iter(found), []
    for video, media, *_ in rows(dataset.splits[split]):
        lost = [path for one in media.values() if (path := missing_file(one, sizes))]
        missing += [(video, path) for path in lost[:1]]
    return missing
