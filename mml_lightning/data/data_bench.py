"""Ways to keep training data side by side: what a clip costs from a pack, from loose JPEG files and from a video.

Legend: T frames, P pairs of flow, H height, W width. A clip is 8 frames and 8 windows of 5 pairs, as an RGB and a flow
network with 8 segments look at it. *Read* ends with arrays, uint8 [8, H, W, 3] and [40, H, W, 2], from packs cut to the
crop, which is drawn before; a *sample* is also cropped and resized to 224x224, on the CPU as in a run; PIL's ways do
that image by image, as TSN does.
Times are of the processor (all threads), with the files in the page cache: a cold disk is not in them.
"""

from __future__ import annotations

import functools
import importlib.util
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mml_lightning.data.data_bench_files import FLOW, FRAMES, PACKS, Clip, make_clips, measured_bytes
from mml_lightning.data.decode import installed, open_video
from mml_lightning.data.images import open_media
from mml_lightning.data.media import Media
from mml_lightning.data.packs.reader import PackReader
from mml_lightning.data.sources import read_part
from mml_lightning.data.threads import one_thread
from mml_lightning.errors import UserError
from mml_lightning.transforms import Crop, TrainGeometry, apply_views, bounding_box

SEGMENTS, WINDOW, OUTPUT = 8, 5, 224
BASE = "PIL, loose JPEG"


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Args:
        videos, frames: of the synthetic data; repeats: rounds, of which the least time counts.

    Raises:
        UserError: a number is out of range.
    """

    videos: int = 16
    frames: int = 45
    repeats: int = 5

    def __post_init__(self) -> None:
        least = {"videos": 1, "frames": SEGMENTS + WINDOW, "repeats": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UserError(f"--{name} {getattr(self, name)} must be {value} or more")


@dataclass(frozen=True)
class Row:
    """One way: clips per second of one core, files and bytes of a video on the disk."""

    way: str
    read: float
    sample: float
    files: float
    bytes: float


@dataclass(frozen=True)
class Way:
    """`read` gives the frames and the flow of a clip, as much of them as the way can't help for a crop; `crop` makes
    tensors [n, c, 224, 224] of either."""

    read: Callable[[Clip, Sequence[int], Sequence[int], Crop], tuple[Any, Any]]
    crop: Callable[[Any, Crop], torch.Tensor]
    kinds: Sequence[str]  # of files it needs


def compare(
    settings: Settings, folder: Path | None = None, advance: Callable[[str], object] = lambda way: None
) -> list[Row]:
    """One row per way that this machine has the libraries for; PIL's is left out where Pillow is not installed.

    Raises:
        UserError: the files can't be written.
    """
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            clips = make_clips(place, settings.videos, settings.frames)
        except OSError as error:
            raise UserError(f"can't write {place} ({error.strerror}); choose another --folder") from None
        made = ways()
        best = {(name, kind): float("inf") for name in made for kind in ("read", "sample")}
        stack.enter_context(one_thread())
        for repeat in range(settings.repeats):
            for name, way in made.items():
                for kind, seconds in _round(way, clips, settings.frames, repeat).items():
                    best[name, kind] = min(best[name, kind], seconds)
                advance(name)
        return [_row(name, way, clips, best[name, "read"], best[name, "sample"]) for name, way in made.items()]


def _row(name: str, way: Way, clips: Sequence[Clip], read: float, sample: float) -> Row:
    files, size = measured_bytes(clips, way.kinds)
    return Row(name, len(clips) / read, len(clips) / sample, files, size)


def _round(way: Way, clips: Sequence[Clip], frames: int, seed: int) -> dict[str, float]:
    """Seconds of one pass over all clips; every way draws the same items and crops."""
    rng, geometry = np.random.default_rng(seed), TrainGeometry(output=OUTPUT)
    spent = {"read": 0.0, "sample": 0.0}
    for number, clip in enumerate(clips):
        at = np.sort(rng.choice(frames - WINDOW, SEGMENTS, replace=False))
        pairs = np.unique(at[:, None] + np.arange(WINDOW)).tolist()
        crop = geometry.draw(*clip.size, random.Random(1000 * seed + number))
        start = time.process_time()
        items = way.read(clip, at.tolist(), pairs, crop)
        middle = time.process_time()
        for one in items:
            way.crop(one, crop)
        spent["read"] += middle - start
        spent["sample"] += time.process_time() - start
    return spent


def ways() -> dict[str, Way]:
    """By name, what is measured first first."""
    found: dict[str, Way] = {}
    if importlib.util.find_spec("PIL") is not None:
        found[BASE] = Way(_pil, _pil_crop, ("loose",))
    found["OpenCV, loose JPEG"] = Way(_loose, _crop, ("loose",))
    for decoder in ("decord", "pyav"):
        if installed(decoder):
            found[f"{decoder}, video + flow cache"] = Way(functools.partial(_video, decoder), _crop, ("video", "cache"))
    for kind in PACKS:
        found[kind] = Way(functools.partial(_packed, kind), _whole, (kind,))
    found["pack, pictures decoded whole"] = Way(_packed_whole, _crop, ("pack",))
    return found


def _crop(items: np.ndarray, crop: Crop) -> torch.Tensor:
    return apply_views(torch.from_numpy(items).permute(0, 3, 1, 2), [crop])[0]


def _whole(items: np.ndarray, crop: Crop) -> torch.Tensor:
    """Of items that are cut out already."""
    height, width = items.shape[1:3]
    return _crop(items, replace(crop, x=0, y=0, width=width, height=height, reference=(width, height)))


def _loose(clip: Clip, at: Sequence[int], pairs: Sequence[int], crop: Crop) -> tuple[Any, Any]:
    with open_media(clip.media[FRAMES]) as one, open_media(clip.media[FLOW]) as other:
        return one.frames(at), other.frames(pairs)


def _video(decoder: str, clip: Clip, at: Sequence[int], pairs: Sequence[int], crop: Crop) -> tuple[Any, Any]:
    with open_video(clip.video, decoder) as video:
        return video.frames(at), np.load(clip.cache, mmap_mode="r", allow_pickle=False)[pairs]


def _packed(kind: str, clip: Clip, at: Sequence[int], pairs: Sequence[int], crop: Crop) -> tuple[Any, Any]:
    frames, flow = (PackReader(media) for media in clip.packed[kind])
    wanted = ((frames, at), (flow, pairs))
    one, other = (read_part(reader, items, bounding_box([crop], *reader.size)) for reader, items in wanted)
    return one, other


def _packed_whole(clip: Clip, at: Sequence[int], pairs: Sequence[int], crop: Crop) -> tuple[Any, Any]:
    frames, flow = (PackReader(media) for media in clip.packed["pack"])
    return frames.frames(at), flow.frames(pairs)


def _pil(clip: Clip, at: Sequence[int], pairs: Sequence[int], crop: Crop) -> tuple[Any, Any]:
    """Lists of decoded images: RGB, and grey ones of x and y in turn."""
    from PIL import Image

    def images(media: Media, indices: Sequence[int], mode: str) -> list[Any]:
        return [Image.open(path).convert(mode) for index in indices for path in media.paths(index)]  # type: ignore[union-attr]

    return images(clip.media[FRAMES], at, "RGB"), images(clip.media[FLOW], pairs, "L")


def _pil_crop(images: Sequence[Any], crop: Crop) -> torch.Tensor:
    box = (crop.x, crop.y, crop.x + crop.width, crop.y + crop.height)
    size = (OUTPUT, OUTPUT)
    made = [np.asarray(image.crop(box).resize(size, 2)) for image in images]  # 2: bilinear
    return torch.from_numpy(np.stack(made)).reshape(len(made), size[1], size[0], -1).permute(0, 3, 1, 2).contiguous()
