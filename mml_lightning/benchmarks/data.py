"""Ways to keep training data side by side: what a clip costs from a pack, from loose JPEG files and from a video.

Legend: H height, W width. A clip is 8 frames and 8 windows of 5 pairs of flow, as an RGB and a flow network with 8
segments look at it, or one of both. *Read* ends with arrays, uint8 [8, H, W, 3] and [40, H, W, 2], from packs cut to
the crop, which is drawn before; a *sample* is also cropped and resized to 224x224, on the CPU as in a run; PIL's way
does that image by image, as TSN does.
Times are of the processor (all threads), with the files in the page cache: a cold disk is not in them.
"""

from __future__ import annotations

import functools
import importlib.util
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mml_lightning.benchmarks.data_files import (
    FLOW,
    FRAMES,
    SIZE,
    SOURCES,
    Clip,
    kinds_of_packs,
    make_clips,
    measured_bytes,
)
from mml_lightning.data.loading.images import fitted, read_part
from mml_lightning.data.video.decode import DECODERS, installed, open_video
from mml_lightning.data.video.images import open_media
from mml_lightning.data.video.media import ImageSequence
from mml_lightning.data.video.pack_reader import PackReader
from mml_lightning.transforms import Crop, TrainGeometry, apply_views, bounding_box
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.threads import one_thread

SEGMENTS, WINDOW, OUTPUT = 8, 5, 224
BASE, PLAIN = "PIL, loose JPEG", "OpenCV, loose JPEG"
MOST = 4096  # pixels of a side


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Args:
        videos, frames, size: of the synthetic data; repeats: rounds, of which the least time counts.
        sources: "frames", "flow", or both.

    Raises:
        UserError: a number is out of range, or a source is unknown.
    """

    videos: int = 16
    frames: int = 45
    repeats: int = 5
    size: tuple[int, int] = SIZE
    sources: tuple[str, ...] = SOURCES

    def __post_init__(self) -> None:
        least = {"videos": 1, "frames": SEGMENTS + WINDOW, "repeats": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UserError(f"--{name} {getattr(self, name)} must be {value} or more")
        if not OUTPUT <= min(self.size) <= max(self.size) <= MOST or any(side % 2 for side in self.size[1:]):
            told = "x".join(map(str, self.size))
            raise UserError(f"--size {told} must be from {OUTPUT} to {MOST} each, and the height even")
        if not self.sources or set(self.sources) - set(SOURCES):
            raise UserError(f"--sources {','.join(self.sources)}: use frames, flow or frames,flow")


@dataclass(frozen=True)
class Row:
    """One way: clips per second of one core, files and bytes of a video on the disk, and by how many of 256 levels its
    cropped frames differ on average from those that OpenCV reads whole; None without frames."""

    way: str
    read: float
    sample: float
    files: float
    bytes: float
    levels: float | None


@dataclass(frozen=True)
class Way:
    """`read` gives the items of a source of a clip, as much of them as the way can't help for a crop; `crop` makes
    a tensor [n, c, 224, 224] of them."""

    read: Callable[[Clip, str, Sequence[int], Crop], Any]
    crop: Callable[[Any, Crop], torch.Tensor]
    kinds: Sequence[str]  # of files it needs


class Draw(NamedTuple):
    """What every way reads of a clip."""

    clip: Clip
    wanted: Mapping[str, Sequence[int]]  # items per source
    crop: Crop


def compare(
    settings: Settings, folder: Path | None = None, advance: Callable[[str], object] = lambda way: None
) -> Iterator[tuple[int, list[Row]]]:
    """One row per way that this machine has the libraries for; PIL's is left out where Pillow is not installed. Given
    after each round with the number of these.

    Raises:
        UserError: the files can't be written.
    """
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            clips = make_clips(place, settings.videos, settings.frames, settings.size, settings.sources)
        except OSError as error:
            raise UserError(f"can't write {place} ({error.strerror}); choose another --folder") from None
        made = ways(settings.sources)
        best = {(name, kind): float("inf") for name in made for kind in ("read", "sample")}
        stack.enter_context(one_thread())
        for repeat in range(settings.repeats):
            drawn = list(_draws(clips, settings, repeat))
            for name, way in made.items():
                for kind, seconds in _round(way, drawn).items():
                    best[name, kind] = min(best[name, kind], seconds)
                advance(name)
            rows, whole = [], repeat + 1 == settings.repeats
            for name, way in made.items():
                files, size = measured_bytes(clips, way.kinds)
                read, sample = (len(clips) / best[name, kind] for kind in ("read", "sample"))
                differs = _difference(way, made[PLAIN], drawn) if whole else None
                rows.append(Row(name, read, sample, files, size, differs))
            yield repeat + 1, rows


def _draws(clips: Sequence[Clip], settings: Settings, seed: int) -> Iterator[Draw]:
    rng, geometry = np.random.default_rng(seed), TrainGeometry(output=OUTPUT)
    for number, clip in enumerate(clips):
        at = np.sort(rng.choice(settings.frames - WINDOW, SEGMENTS, replace=False))
        pairs = np.unique(at[:, None] + np.arange(WINDOW))
        wanted = {FRAMES: at.tolist(), FLOW: pairs.tolist()}
        crop = geometry.draw(*clip.size, random.Random(1000 * seed + number))
        yield Draw(clip, {source: wanted[source] for source in settings.sources}, crop)


def _round(way: Way, drawn: Sequence[Draw]) -> dict[str, float]:
    """Seconds of one pass over all clips."""
    spent = {"read": 0.0, "sample": 0.0}
    for clip, wanted, crop in drawn:
        start = time.process_time()
        items = [way.read(clip, source, at, crop) for source, at in wanted.items()]
        middle = time.process_time()
        for one in items:
            way.crop(one, crop)
        spent["read"] += middle - start
        spent["sample"] += time.process_time() - start
    return spent


def _difference(way: Way, plain: Way, drawn: Sequence[Draw]) -> float | None:
    """Mean over all values of the frames of clips."""
    if FRAMES not in drawn[0].wanted:
        return None
    pairs = (
        [one.crop(one.read(c, FRAMES, at[FRAMES], crop), crop).float() for one in (way, plain)] for c, at, crop in drawn
    )
    return sum((here - there).abs().mean().item() for here, there in pairs) / len(drawn)


def ways(sources: Sequence[str] = SOURCES) -> dict[str, Way]:
    """By name, what is measured first first."""
    found: dict[str, Way] = {}
    if importlib.util.find_spec("PIL") is not None:
        found[BASE] = Way(_pil, _pil_crop, ("loose",))
    found[PLAIN] = Way(functools.partial(_loose, False), _crop, ("loose",))
    if FRAMES in sources:
        found[f"{PLAIN}, reduced"] = Way(functools.partial(_loose, True), _crop, ("loose",))
    kinds = ["video"] * (FRAMES in sources) + ["cache"] * (FLOW in sources)
    for decoder in DECODERS if FRAMES in sources else ():
        if installed(decoder):
            name = f"{decoder}, video{' + flow cache' if FLOW in sources else ''}"
            found[name] = Way(functools.partial(_video, decoder), _crop, kinds)
    for kind in kinds_of_packs(sources):
        found[kind] = Way(functools.partial(_packed, kind), _whole, (kind,))
    found["pack, pictures decoded whole"] = Way(_packed_whole, _crop, ("pack",))
    return found


def _crop(items: np.ndarray, crop: Crop) -> torch.Tensor:
    return apply_views(torch.from_numpy(items).permute(0, 3, 1, 2), [crop])[0]


def _whole(items: np.ndarray, crop: Crop) -> torch.Tensor:
    """Of items that are cut out already."""
    height, width = items.shape[1:3]
    return _crop(items, replace(crop, x=0, y=0, width=width, height=height, reference=(width, height)))


def _loose(reducible: bool, clip: Clip, source: str, at: Sequence[int], crop: Crop) -> np.ndarray:
    with open_media(clip.media[source], reducible=reducible) as reader:
        return fitted(reader, [crop]).frames(at)


def _video(decoder: str, clip: Clip, source: str, at: Sequence[int], crop: Crop) -> np.ndarray:
    if source == FLOW:
        return np.asarray(np.load(clip.cache, mmap_mode="r", allow_pickle=False)[at])
    with open_video(clip.video, decoder) as video:
        return video.frames(at)


def _packed(kind: str, clip: Clip, source: str, at: Sequence[int], crop: Crop) -> np.ndarray:
    reader = PackReader(clip.packed[kind][source])
    return read_part(reader, at, bounding_box([crop], *reader.size))


def _packed_whole(clip: Clip, source: str, at: Sequence[int], crop: Crop) -> np.ndarray:
    return PackReader(clip.packed["pack"][source]).frames(at)


def _pil(clip: Clip, source: str, at: Sequence[int], crop: Crop) -> list[Any]:
    """Decoded images: RGB, or grey ones of x and y in turn."""
    from PIL import Image

    images, mode = clip.media[source], "RGB" if source == FRAMES else "L"
    assert isinstance(images, ImageSequence)
    return [Image.open(path).convert(mode) for index in at for path in images.paths(index)]


def _pil_crop(images: Sequence[Any], crop: Crop) -> torch.Tensor:
    box = (crop.x, crop.y, crop.x + crop.width, crop.y + crop.height)
    size = (OUTPUT, OUTPUT)
    made = [np.asarray(image.crop(box).resize(size, 2)) for image in images]  # 2: bilinear
    return torch.from_numpy(np.stack(made)).reshape(len(made), size[1], size[0], -1).permute(0, 3, 1, 2).contiguous()
