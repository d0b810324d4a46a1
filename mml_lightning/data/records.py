"""What a dataset is before anything is decoded: records joined by id."""

from __future__ import annotations

import functools
import hashlib
import itertools
from abc import abstractmethod
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from mml_lightning.data import file_sizes
from mml_lightning.errors import UserError

SPLITS = ("train", "val", "test")
Layout = Literal["rgb", "flow_pair", "flow_packed"]
AXES = ("x", "y")
NO_INTERVALS: dict[str, tuple[tuple[int, float, float], ...]] = {}  # one for all records that have none


@functools.lru_cache(maxsize=64)  # data sets have hundreds of thousands of sequences and a handful of templates
def _check_template(template: str, layout: str) -> None:
    """Raises:
    ValueError: see :class:`ImageSequence`.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"layout {layout!r} is unknown; use one of {list(get_args(Layout))}")
    if ("{axis}" in template) != (layout == "flow_pair"):
        raise ValueError(f"template {template!r}: {{axis}} stands in templates of layout flow_pair, only there")
    try:
        names = {template.format(number, axis="x") for number in (1, 2)}
    except (IndexError, KeyError, ValueError):
        names = set()
    if len(names) < 2:
        raise ValueError(f"template {template!r} needs one field for the number, such as {{:05d}}")


@dataclass(frozen=True)
class ImageSequence:
    """A folder of numbered images that is one video, or its flow.

    Args:
        template: file name in `str.format` form: the field `{:05d}` takes the number, `{axis}` takes x or y.
        count: items: frames, or pairs of flow images.
        fps: items per second; 0 where unknown.
        first: number of the first image.
        layout: "rgb", frames; "flow_pair", grey images of x and of y; "flow_packed", one image, red = x, green = y.

    Raises:
        ValueError: unknown layout, or a template that does not fit it.
    """

    folder: Path
    template: str
    count: int
    fps: float = 0.0
    first: int = 1
    layout: Layout = "rgb"

    def __post_init__(self) -> None:
        _check_template(self.template, self.layout)

    def paths(self, index: int) -> tuple[Path, ...]:
        """The image of item `index` (from 0), or its x and its y image."""
        return tuple(self.folder / name for name in self.names(index))

    def names(self, index: int) -> tuple[str, ...]:
        """As :meth:`paths`, without the folder."""
        number = self.first + index
        axes = AXES if self.layout == "flow_pair" else AXES[:1]
        return tuple(self.template.format(number, axis=axis) for axis in axes)

    def __str__(self) -> str:
        return str(self.folder / self.template)


@dataclass(frozen=True, slots=True)
class PackedFrames:
    """One source of one video inside a shard of a pack: see docs/pack.md.

    Args:
        folder, source: begin the names of its images in the shard: "000012_v12/frames_00001.jpg".
        count, fps: as in :class:`ImageSequence`; size: (W, H) of an item.
        table, crc32: where the table of its images stands in the shard, and the table's check sum.
        bytes: of all images.
        problem: why there is none, where it could not be read when the pack was made.
        start: of sound, seconds after the first frame.
    """

    shard: Path
    folder: str
    source: str
    count: int = 0
    fps: float = 0.0
    size: tuple[int, int] = (0, 0)
    table: int = 0
    crc32: int = 0
    bytes: int = 0
    coding: str = "jpg"
    problem: str = ""
    start: float = 0.0

    @property
    def layout(self) -> str:
        return {"frames": "rgb", "flow": "flow_stacked"}.get(self.source, "stream")

    def __str__(self) -> str:
        return f"{self.shard}: {self.folder}/{self.source}"


Media = Path | ImageSequence | PackedFrames


def media_files(media: Media) -> Iterator[Path]:
    """Every file of `media`, in order: one video, all images, or the shard of a pack."""
    if isinstance(media, Path | PackedFrames):
        yield media if isinstance(media, Path) else media.shard
    else:
        for index in range(media.count):
            yield from media.paths(index)


def media_absent(media: Media | str) -> Path | None:
    """The file that shows that `media` is not there: the video, or a first image; None if it is."""
    told = str(media) if isinstance(media, Path) else media
    return _absent(told, map(file_sizes.size, _telling(told)))


def media_bytes(media: Media) -> int:
    """Size of all files of `media`, or of its images in a pack, in bytes; missing files count 0."""
    if isinstance(media, PackedFrames):
        return media.bytes
    return sum(path.stat().st_size for path in media_files(media) if path.is_file())


def media_identity(media: Media) -> object:
    """What tells `media` from another without reading it, equal wherever it lies."""
    told = str(media) if isinstance(media, Path) else media
    return _identity(told, map(file_sizes.size, _telling(told)))


def _telling(media: Told) -> tuple[str, ...]:
    """The files whose sizes tell whether `media` is there and the same; images by the first and the last."""
    if isinstance(media, str):
        return (media,)
    if isinstance(media, PackedFrames):
        return (str(media.shard),)
    return tuple(f"{media.folder}/{name}" for index in (0, media.count - 1) for name in media.names(index))


def _looks(media: Told) -> int:
    """How many files :func:`_telling` names."""
    return (4 if media.layout == "flow_pair" else 2) if isinstance(media, ImageSequence) else 1


def _identity(media: Told, sizes: Iterator[int]) -> object:
    """As :func:`media_identity`, of files whose sizes are known."""
    if isinstance(media, str):
        return next(sizes)
    seen = list(itertools.islice(sizes, _looks(media)))
    if isinstance(media, PackedFrames):
        return media.layout, media.count, media.fps, media.crc32, media.problem
    return media.layout, media.count, media.fps, seen


def _absent(media: Told, sizes: Iterator[int]) -> Path | None:
    """As :func:`media_absent`, of files whose sizes are known."""
    seen = list(itertools.islice(sizes, _looks(media)))
    if isinstance(media, ImageSequence):
        seen = seen[: len(seen) // 2]  # those of the first item
    return next((Path(path) for path, size in zip(_telling(media), seen, strict=False) if size < 0), None)


@dataclass(frozen=True, slots=True)
class Record:
    """One video.

    Args:
        id: unique in its split; joins sources, scores and submissions.
        media: video file or images per source ("frames", "flow", ...); sources computed from others are absent.
        target: per head, a class index, or a tuple of indices for a multi-label head; heads whose label is unknown
            (published test splits) are absent.
        span: optional (start, end) in seconds: the part of the video that carries the label.
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


Told = str | ImageSequence | PackedFrames  # media whose video is a name: a path of each takes seconds for a million
Row = tuple[
    str,
    Mapping[str, Told],
    Mapping[str, int | tuple[int, ...]],
    tuple[float, float] | None,
    str | None,
    Mapping[str, tuple[tuple[int, float, float], ...]],
    float | None,
]
"""The fields of a :class:`Record`, for what looks at all of them."""


def row_of(
    identity: str,
    media: Mapping[str, Told],
    target: Mapping[str, int | tuple[int, ...]],
    span: tuple[float, float] | None = None,
) -> Row:
    return identity, media, target, span, None, NO_INTERVALS, None


class Rows(Sequence[Record]):
    """Records that are kept in another form, and told faster as rows."""

    @abstractmethod
    def rows(self) -> Iterator[Row]: ...


def rows(records: Iterable[Record]) -> Iterator[Row]:
    return records.rows() if isinstance(records, Rows) else map(_row, records)


def _row(record: Record) -> Row:
    media = {source: str(one) if isinstance(one, Path) else one for source, one in record.media.items()}
    return record.id, media, record.target, record.span, record.decoder, record.intervals, record.length


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
        left_out: id -> reason of the training records that `mml check` found unusable; they are in no split.
    """

    name: str
    splits: Mapping[str, Sequence[Record]]
    heads: Mapping[str, Head]
    mirrored: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_classes(self) -> dict[str, int]:
        return {name: len(head.classes) for name, head in self.heads.items()}

    def look(self, split: str) -> array[int]:
        """Sizes of the files that tell whether the media of a split are there and the same (-1: no file), in order.

        The one look at each file that a start takes: the fingerprint is of what is found here.
        """
        media = (one for row in rows(self.splits.get(split, ())) for one in row[1].values())
        files = itertools.chain.from_iterable(map(_telling, media))
        self._sizes[split] = file_sizes.sizes(files, f"the files of the {split} split")
        return self._sizes[split]

    @functools.cached_property
    def _sizes(self) -> dict[str, array[int]]:
        return {}

    def fingerprint(self) -> str:
        """Hash of ids, labels, spans, intervals, file sizes and special readers: the same wherever the data lie."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for split in SPLITS:
            if not any(row[2] for row in rows(self.splits.get(split, ()))):
                continue  # without a label it changes no weight and no number
            sizes = iter(self._sizes.get(split) or self.look(split))
            for identity, media, target, span, decoder, intervals, _ in rows(self.splits[split]):
                seen = [_identity(one, sizes) for one in media.values()]
                if len(seen) > 1:
                    seen = [one for _, one in sorted(zip(media, seen, strict=True))]
                if not target:
                    continue
                digest.update(repr((split, identity, sorted(target.items()), span, seen)).encode())
                if decoder:
                    digest.update(f"|{decoder}".encode())
                if intervals:
                    digest.update(repr(sorted(intervals.items())).encode())
        for name, head in sorted(self.heads.items()):
            digest.update(repr((name, head.classes, head.multi_label)).encode())
        return digest.hexdigest()[:16]


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
            mend = "check its list, or set test=false" if split == "test" else "check its list"
            raise UserError(f"data={dataset.name}: the {split} split is empty (videos: {have}); {mend}")
        heads, ids, unknown = dataset.heads.keys(), [], 0
        for row in rows(records):
            ids.append(row[0])
            unknown += not heads <= row[2].keys()
        if unknown and labelled:
            raise UserError(
                f"data={dataset.name}: {unknown} of {len(records)} videos of the {split} split have no label; set "
                "test=false, and write their predictions with eval.py afterwards"
            )
        if len(set(ids)) < len(ids):
            identity, times = Counter(ids).most_common(1)[0]
            raise UserError(
                f"data={dataset.name}: id {identity!r} stands {times} times in the {split} split; ids must be unique: "
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
    for identity, media, *_ in rows(dataset.splits[split]):
        absent = [path for one in media.values() if (path := _absent(one, sizes))]
        missing += [(identity, path) for path in absent[:1]]
    return missing
