"""Where the images of one source of one video lie: a video file, a folder of images, or a place in a pack.

Media have two forms: objects, and plain values, of which a million are made, looked at and kept in seconds.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args

from mml_lightning.data.video import file_sizes

MOST_IMAGES = 10**7  # of one video: four days at 30 per second
Layout = Literal["rgb", "flow_pair", "flow_packed"]
PACKED_LAYOUTS, STREAM = {"frames": "rgb", "flow": "flow_stacked"}, "stream"  # of sources in packs, of others


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
        if self.count > MOST_IMAGES:  # lists are foreign: who looks for so many does nothing else
            raise ValueError(f"{self.count} images in {self.folder}: more than {MOST_IMAGES}")

    def paths(self, index: int) -> tuple[Path, ...]:
        """The image of item `index` (from 0), or its x and its y image."""
        return tuple(self.folder / name for name in self.names(index))

    def names(self, index: int) -> tuple[str, ...]:
        """As :meth:`paths`, without the folder."""
        return _names(self.template, self.layout, self.first + index)

    def __str__(self) -> str:
        return str(self.folder / self.template)


@functools.lru_cache(maxsize=4096)  # a million folders have their first and last numbers in common
def _names(template: str, layout: str, number: int) -> tuple[str, ...]:
    if layout == "flow_pair":
        return template.format(number, axis="x"), template.format(number, axis="y")
    return (template.format(number, axis="x"),)


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
        times: at a variable rate, where the times of its items stand in the shard, and their check sum.
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
    times: tuple[int, int] | None = None

    @property
    def layout(self) -> str:
        return PACKED_LAYOUTS.get(self.source, STREAM)

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


def media_absent(media: Media) -> Path | None:
    """The file that shows that `media` is not there: the video, or a first image; None if it is."""
    plain = to_plain(media)
    return missing_file(plain, map(file_sizes.size, files_that_identify(plain)))


def media_identity(media: Media) -> object:
    """What tells `media` from another without reading it, equal wherever it lies."""
    plain = to_plain(media)
    return content_key(plain, map(file_sizes.size, files_that_identify(plain)))


# ---------------------------------------------------------------------------------------------- as plain values

PlainMedia = str | tuple[Any, ...]
"""A video by its name; of others the kind and then the fields, the path as a name: paths and objects of a million would
take seconds to make and again whenever they are looked at."""

_VALUES = {kind: attrgetter(*(one.name for one in fields(kind))) for kind in (ImageSequence, PackedFrames)}


def to_plain(media: Media) -> PlainMedia:
    if isinstance(media, Path):
        return str(media)
    path, *rest = _VALUES[type(media)](media)
    return type(media), str(path), *rest


def media_of(plain: PlainMedia) -> Media:
    """What :func:`told` has told."""
    if isinstance(plain, str):
        return Path(plain)
    kind, path, *rest = plain
    made: Media = kind(Path(path), *rest)
    return made


def told_images(plain: PlainMedia | None) -> TypeGuard[tuple[Any, ...]]:
    return isinstance(plain, tuple) and plain[0] is ImageSequence


def files_that_identify(plain: PlainMedia) -> tuple[str, ...]:
    """The files whose sizes tell whether media are there and the same; images by the first and the last."""
    if isinstance(plain, str):
        return (plain,)
    if plain[0] is PackedFrames:
        return (plain[1],)
    _, folder, template, count, _, first, layout = plain
    names = *_names(template, layout, first), *_names(template, layout, first + count - 1)
    return tuple(f"{folder}/{name}" for name in names)


def files(plain: PlainMedia) -> int:
    """How many :func:`telling` tells."""
    return 1 if isinstance(plain, str) or plain[0] is PackedFrames else 4 if plain[-1] == "flow_pair" else 2


def content_key(plain: PlainMedia, sizes: Iterator[int]) -> object:
    """As :func:`media_identity`, of files whose sizes are the next of `sizes`."""
    if isinstance(plain, str):
        return next(sizes)
    if plain[0] is PackedFrames:
        next(sizes)
        _, _, _, source, count, fps, _, _, crc32, _, _, problem, _, times = plain
        return PACKED_LAYOUTS.get(source, STREAM), count, fps, crc32, problem, *([times[1]] if times else [])
    _, _, _, count, fps, _, layout = plain
    return layout, count, fps, list(itertools.islice(sizes, 4 if layout == "flow_pair" else 2))


def missing_file(plain: PlainMedia, sizes: Iterator[int]) -> Path | None:
    """As :func:`media_absent`, of files whose sizes are the next of `sizes`."""
    files = files_that_identify(plain)
    seen = list(itertools.islice(sizes, len(files)))
    if told_images(plain):
        seen = seen[: len(seen) // 2]  # those of the first item
    return next((Path(path) for path, size in zip(files, seen, strict=False) if size < 0), None)


def location_key(plain: PlainMedia) -> object:
    """What two records have in common that show the same video: the file, the folder and its template, or the place in
    a pack."""
    return plain if isinstance(plain, str) else plain[1:3]
