"""Folders of numbered images as if they were videos; and flow that comes as images.

Legend: N items asked for, H height, W width.

An image that is missing or damaged is an error that names the file: no other image ever takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from mml_lightning.data.video.decode import (
    IN_MEMORY,
    DecodeError,
    VideoReader,
    even_times,
    laid_out,
    open_video,
)
from mml_lightning.data.video.index_store import IndexStore
from mml_lightning.data.video.jpeg import jpeg_size
from mml_lightning.data.video.media import ImageSequence, Media, PackedFrames
from mml_lightning.data.video.pack_reader import PackReader
from mml_lightning.transforms import reduced_size

HEADER = 2**16  # bytes of a file that tell its size


@contextmanager
def open_media(
    media: Media, decoder: str = "decord", reducible: bool = False, indexes: IndexStore = IN_MEMORY
) -> Iterator[VideoReader]:
    """Open a video file with `decoder`, or images, loose or in a pack, which need none.

    Args:
        reducible: frames that are JPEG files can be read at fractions of their size, too.
        indexes: as in :func:`open_video`.

    Raises:
        DecodeError: it can't be read, here or (from the reader's methods) later.
        UserError: the decoder is unknown or not installed.
    """
    if isinstance(media, ImageSequence):
        size = _told_size(media) if reducible else None
        yield ImageReader(media) if size is None else ReducibleReader(media, size)
    elif isinstance(media, PackedFrames):
        yield PackReader(media)
    else:
        with open_video(media, decoder, indexes) as video:
            yield video


class ImageReader:
    """The images of a sequence: uint8 [N, H, W, 3] RGB of frames, [N, H, W, 2] (x, y) of flow.

    Raises:
        DecodeError: there is no image, the first can't be read, or it is number 1 and there is a number 0: every item
            would be one late.
    """

    def __init__(self, images: ImageSequence) -> None:
        if images.count < 1:
            raise DecodeError(f"{images}: it has no image")
        if images.first == 1 and images.paths(-1)[0].exists():
            raise DecodeError(
                f"{images.paths(-1)[0]} is there: its images are numbered from 0, not 1; number all folders alike"
            )
        self.images = images
        self.count, self.fps = images.count, images.fps
        self.times = even_times(self.count, self.fps)
        self.size = self._first_size()

    def _first_size(self) -> tuple[int, int]:
        height, width = self._item(0).shape[:2]
        return width, height

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Items uint8 [N, H, W, c] at 0-based `indices`, in the order asked, repeats allowed.

        Raises:
            DecodeError: an image is missing, damaged or of another size, or an index lies outside.
        """
        unique, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        if unique.size and not 0 <= unique[0] <= unique[-1] < self.count:
            asked = f"{unique[0]} to {unique[-1]}"
            raise DecodeError(f"{self.images}: items {asked} were requested, it has {self.count}")
        return laid_out(np.stack([self._sized(index) for index in unique.tolist()]), inverse)

    def stream(self) -> Iterator[np.ndarray]:
        """All items in order, each uint8 [H, W, c]."""
        return (self._sized(index) for index in range(self.count))

    def _sized(self, index: int) -> np.ndarray:
        item = self._item(index)
        height, width = item.shape[:2]
        if (width, height) != self.size:
            raise DecodeError(
                f"{self.images.paths(index)[0]}: it is {width}x{height}, the first is {_times(self.size)}"
            )
        return item

    def _item(self, index: int) -> np.ndarray:
        paths = self.images.paths(index)
        if self.images.layout == "rgb":
            return _read(paths[0], colour=True)
        if self.images.layout == "flow_packed":
            return np.ascontiguousarray(_read(paths[0], colour=True)[..., :2])
        x, y = (_read(path, colour=False) for path in paths)
        if x.shape != y.shape:
            raise DecodeError(f"{paths[1]}: its size is not that of {paths[0].name}")
        return np.stack([x, y], axis=-1)


class ReducibleReader(ImageReader):
    """Frames that are JPEG files: a decoder can leave out what a smaller picture does not need.

    Args:
        size: (W, H) of whole frames, which is seen to at each.
        factor: 2, 4 or 8: frames of as many times fewer pixels in width and height, rounded up.
    """

    def __init__(self, images: ImageSequence, size: tuple[int, int], factor: int = 1) -> None:
        self.whole, self.factor = size, factor
        super().__init__(images)

    def reduced(self, factor: int) -> ReducibleReader:
        return ReducibleReader(self.images, self.whole, factor)

    def _first_size(self) -> tuple[int, int]:
        return reduced_size(*self.whole, self.factor)

    def _item(self, index: int) -> np.ndarray:
        return _read(self.images.paths(index)[0], colour=True, factor=self.factor)


def _told_size(images: ImageSequence) -> tuple[int, int] | None:
    """(W, H) of frames by the beginning of the first file; None where it is no JPEG file that tells."""
    if images.layout != "rgb" or images.count < 1:
        return None
    try:
        with images.paths(0)[0].open("rb") as handle:
            return jpeg_size(handle.read(HEADER))
    except OSError:
        return None


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _cut(content: bytes) -> bool:
    """Whether a JPEG lacks its end: OpenCV fills the rest with grey and says nothing that a program could hear."""
    return content.startswith(b"\xff\xd8") and b"\xff\xd9" not in content[-1024:]


def _read(path: Path, colour: bool, factor: int = 1) -> np.ndarray:
    """One image, uint8 [H, W, 3] RGB or [H, W] grey, as stored: a rotation note in the file is not obeyed.

    Args:
        factor: 2, 4 or 8: colours of a JPEG file, reduced as it is decoded.
    """
    import cv2

    kind = getattr(cv2, f"IMREAD_REDUCED_COLOR_{factor}") if factor > 1 else cv2.IMREAD_COLOR
    flags = (kind if colour else cv2.IMREAD_GRAYSCALE) | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DecodeError(f"{path}: {'no such image' if not path.exists() else error.strerror}") from None
    pixels: Any = None
    with suppress(cv2.error):
        pixels = cv2.imdecode(content, flags) if content.size else None
    if pixels is None or _cut(content.tobytes()):
        raise DecodeError(f"{path}: it is not a readable image")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if colour else np.asarray(pixels)
