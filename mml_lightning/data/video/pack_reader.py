"""Images of a pack, read where they lie: nothing of the file but the table and the images asked for is touched.

Legend: N items asked for, H height, W width.

A reader holds no open file between two requests, so that it can be made in one process and used in another.
"""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from mml_lightning.data.video.decode import DecodeError, even_times, laid_out
from mml_lightning.data.video.jpeg import Cut, cut
from mml_lightning.data.video.media import PackedFrames
from mml_lightning.data.video.pack_format import ENTRY, SECONDS, member_name, table_name, times_name
from mml_lightning.transforms import Box

GAP = 256  # bytes between two images, such as a member's header, that are read along rather than skipped


class PackReader:
    """The items of one source of one video: uint8 [N, H, W, 3] RGB of frames, [N, H, W, 2] (x, y) of flow.

    Raises:
        DecodeError: the source could not be packed, or its table or its times are damaged.
    """

    def __init__(self, media: PackedFrames) -> None:
        if media.problem:
            raise DecodeError(f"{media}: it was unreadable when packed: {media.problem}")
        self.media = media
        self.count, self.fps, self.size = media.count, media.fps, media.size
        self.times = even_times(self.count, self.fps) if media.times is None else self._times(*media.times)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Items uint8 [N, H, W, c] at 0-based `indices`, in the order asked, repeats allowed.

        Raises:
            DecodeError: an image or the table is damaged, or an index lies outside.
        """
        return self.part(indices, (0, 0, *self.size))

    def part(self, indices: Sequence[int], box: Box) -> np.ndarray:
        """What :meth:`frames` holds inside of `box` (x, y, w, h): uint8 [N, h, w, c]. Frames are decoded there only.

        Raises:
            DecodeError: as there.
        """
        unique, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        if unique.size and not 0 <= unique[0] <= unique[-1] < self.count:
            raise DecodeError(f"{self.media}: items {unique[0]} to {unique[-1]} were requested, it has {self.count}")
        items = self._empty(len(unique), box)
        for place, (index, content) in enumerate(self.encoded(unique.tolist())):
            self._decode(index, content, box, items[place])
        return laid_out(items, inverse)

    def stream(self) -> Iterator[np.ndarray]:
        """All items in order, each uint8 [H, W, c]."""
        return (self.frames([index])[0] for index in range(self.count))

    def decoded(self, index: int, content: bytes) -> np.ndarray:
        """The item uint8 [H, W, c] whose file is `content`.

        Raises:
            DecodeError: it is no image of the right size.
        """
        whole = (0, 0, *self.size)
        item = self._empty(1, whole)[0]
        self._decode(index, content, whole, item)
        return item

    def _empty(self, count: int, box: Box) -> np.ndarray:
        """[N, h, w, c]; of flow in planes, as its images have them and as crops want them: nothing is interleaved."""
        width, height = box[2:]
        if self.media.layout == "rgb":
            return np.empty((count, height, width, 3), dtype=np.uint8)
        return np.empty((count, 2, height, width), dtype=np.uint8).transpose(0, 2, 3, 1)

    def encoded(self, indices: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """(index, file of the image) of rising `indices`, checked against their sums; neighbours are read at once.

        Raises:
            DecodeError: an image or the table is damaged, or the file is shorter than it should be.
        """
        shard = self.media.shard
        try:
            handle = os.open(shard, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise DecodeError(f"{shard}: {error.strerror or error}") from None
        try:
            entries = self._table(handle)[np.asarray(indices, dtype=np.int64)]
            starts, lengths = entries["offset"].astype(np.int64), entries["length"].astype(np.int64)
            ends = starts + lengths
            apart = (starts[1:] < ends[:-1]) | (starts[1:] > ends[:-1] + GAP)
            bounds = [0, *(np.flatnonzero(apart) + 1).tolist(), len(indices)] if len(indices) else []
            for first, last in itertools.pairwise(bounds):
                base = int(starts[first])
                content = memoryview(os.pread(handle, int(ends[last - 1]) - base, base))
                for at in range(first, last):
                    image = bytes(content[int(starts[at]) - base : int(ends[at]) - base])
                    if len(image) != lengths[at] or zlib.crc32(image) != entries["crc32"][at]:
                        raise DecodeError(f"{self._member(indices[at])} is damaged: checksum mismatch")
                    yield indices[at], image
        except OSError as error:
            raise DecodeError(f"{shard}: {error.strerror or error}") from None
        finally:
            os.close(handle)

    def _times(self, place: int, crc32: int) -> np.ndarray:
        """Seconds float64 [T] of the items."""
        try:
            with self.media.shard.open("rb") as handle:
                handle.seek(place)
                content = handle.read(SECONDS.itemsize * self.count)
        except OSError as error:
            raise DecodeError(f"{self.media.shard}: {error.strerror or error}") from None
        if zlib.crc32(content) != crc32 or len(content) != SECONDS.itemsize * self.count:
            name = times_name(self.media.folder, self.media.source)
            raise DecodeError(f"{self.media.shard}: {name} is damaged: checksum mismatch")
        return np.frombuffer(content, dtype=SECONDS)

    def _table(self, handle: int) -> np.ndarray:
        content = os.pread(handle, ENTRY.itemsize * self.count, self.media.table)
        if len(content) != ENTRY.itemsize * self.count or zlib.crc32(content) != self.media.crc32:
            name = table_name(self.media.folder, self.media.source)
            raise DecodeError(f"{self.media.shard}: {name} is damaged: checksum mismatch")
        return np.frombuffer(content, dtype=ENTRY)

    def _member(self, index: int) -> str:
        name = member_name(self.media.folder, self.media.source, index, self.media.coding)
        return f"{self.media.shard}: {name}"

    def _decode(self, index: int, content: bytes, box: Box, out: np.ndarray) -> None:
        """What one image holds inside of `box` into `out` uint8 [h, w, c]."""
        import cv2

        (x, y, wide, high), (width, height) = box, self.size
        colour = self.media.layout == "rgb"
        image = cut(content, box, self.size) if colour else Cut(content, 0, 0, (width, 2 * height))
        flags = (cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE) | cv2.IMREAD_IGNORE_ORIENTATION
        pixels: Any = None
        with suppress(cv2.error):
            pixels = cv2.imdecode(np.frombuffer(image.content, dtype=np.uint8), flags)
        if pixels is None or pixels.shape[1::-1] != image.size:
            raise DecodeError(f"{self._member(index)} is not an image of {width}x{height}")
        if colour:
            inside = pixels[y - image.y : y - image.y + high, x - image.x : x - image.x + wide]
            cv2.cvtColor(inside, cv2.COLOR_BGR2RGB, dst=out)
        else:
            out.transpose(2, 0, 1)[:] = pixels.reshape(2, height, width)[:, y : y + high, x : x + wide]
