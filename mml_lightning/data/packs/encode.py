"""Items of a source to image files in memory.

Legend: H height, W width. Flow is one grey image [2H, W], x above y: half as many images as apart, and one decoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mml_lightning.data.loading.images import OpenImages
from mml_lightning.data.video.decode import DecodeError
from mml_lightning.data.video.jpeg import restart_interval
from mml_lightning.data.video.media import ImageSequence, Media
from mml_lightning.utils.errors import UserError

CHUNK = 32  # items of a source without a stream that are read at once
JPEG = (".jpg", ".jpeg")


@dataclass(frozen=True)
class Coding:
    """How items become images.

    Args:
        short_side: pixels of the shorter side of frames; larger ones are reduced, none is enlarged. 0: as they are.
        quality: JPEG quality of frames, 1 to 100.
        flow_short_side: that of flow, whose values stay pixels of the source, as in crops of a run.
        flow_quality: JPEG quality of flow, or "png" for flow without loss.

    Raises:
        UserError: a number is out of range.
    """

    short_side: int = 256
    quality: int = 90
    flow_short_side: int = 128
    flow_quality: int | str = 90

    def __post_init__(self) -> None:
        for name in ("short_side", "flow_short_side"):
            value = getattr(self, name)
            if value and value < 16:
                raise UserError(f"--{name.replace('_', '-')} {value} is too small; use 16 or more, or 0 to keep sizes")
        for name in ("quality", "flow_quality"):
            value = getattr(self, name)
            if value != "png" and not (isinstance(value, int) and 1 <= value <= 100):
                known = "1 to 100" + (" or png" if name == "flow_quality" else "")
                raise UserError(f"--{name.replace('_', '-')} {value} is out of range; use {known}")

    def ending(self, source: str) -> str:
        return "png" if source == "flow" and self.flow_quality == "png" else "jpg"


@dataclass(frozen=True)
class Encoded:
    """One source of one video as image files of `size` (W, H), or its sound as one file; `start`: seconds after the
    first frame; `times`: seconds float64 [T] of the items, at a variable rate."""

    images: Sequence[bytes]
    size: tuple[int, int]
    fps: float
    coding: str
    start: float = 0.0
    times: np.ndarray | None = None


def encode(name: str, source: OpenImages, fps: float, media: Media | None, coding: Coding) -> Encoded:
    """All items of the source `name`. JPEG frames that need no reduction are taken over as they are.

    Raises:
        DecodeError: an item can't be read.
    """
    short_side = coding.short_side if name == "frames" else coding.flow_short_side
    size = reduced(source.size, short_side)
    if name == "frames" and size == source.size and isinstance(media, ImageSequence):
        paths = [media.paths(index)[0] for index in range(media.count)]
        if all(path.suffix.lower() in JPEG for path in paths):
            for _ in items(source):  # each is decoded once: a damaged one is not taken over
                pass
            return Encoded([_content(path) for path in paths], size, fps, "jpg")
    images = [encode_item(name, pixels, size, coding) for pixels in items(source)]
    return Encoded(images, size, fps, coding.ending(name))


def reduced(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(W, H) with the shorter side at most `short_side`."""
    shorter = min(size)
    if not short_side or shorter <= short_side:
        return size
    width, height = (max(1, round(side * short_side / shorter)) for side in size)
    return width, height


def items(source: OpenImages) -> Iterator[np.ndarray]:
    """All items in order, each uint8 [H, W, c]."""
    stream: Any = getattr(source, "stream", None)
    if stream is not None:
        yield from stream()
        return
    for start in range(0, source.count, CHUNK):
        yield from source.frames(range(start, min(start + CHUNK, source.count)))


def encode_item(name: str, pixels: np.ndarray, size: tuple[int, int], coding: Coding) -> bytes:
    """One item uint8 [H, W, c], reduced to `size`, as a JPEG or PNG file."""
    import cv2

    if (pixels.shape[1], pixels.shape[0]) != size:
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    if name == "frames":
        image = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        options = [cv2.IMWRITE_JPEG_QUALITY, coding.quality, cv2.IMWRITE_JPEG_RST_INTERVAL, restart_interval(size[0])]
        return bytes(cv2.imencode(".jpg", image, options)[1])
    image = np.concatenate([pixels[..., 0], pixels[..., 1]])
    if coding.flow_quality == "png":
        return bytes(cv2.imencode(".png", image)[1])
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(coding.flow_quality)])[1])


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DecodeError(f"{path}: {error.strerror or error}") from None
