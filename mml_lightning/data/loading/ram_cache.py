"""Decoded sources kept in memory: a video is decoded once, samples are cut from its items.

Legend: N items of a source (frames, or pairs of flow), H height, W width, c channels of an item.

Nothing is thrown out again: every epoch asks for every video, so dropping the oldest would drop each just before it is
wanted. What no longer fits is read as without a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from mml_lightning.data.video.decode import DecodeError, VideoReader
from mml_lightning.data.video.media import Media, media_files
from mml_lightning.transforms import Box

MB = 2**20
T = TypeVar("T")


@dataclass(frozen=True)
class HeldItems:
    """All items of a source, uint8 [N, H, W, c], in memory or memory-mapped, at `fps` (0 where unknown) and `times`
    (seconds float64 [N]; None where unknown)."""

    items: np.ndarray
    fps: float
    times: np.ndarray | None = None

    @property
    def count(self) -> int:
        return int(self.items.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        return int(self.items.shape[2]), int(self.items.shape[1])

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Items uint8 [N, H, W, c], copied."""
        return self.items[np.asarray(indices, dtype=np.int64)]

    def part(self, indices: Sequence[int], box: Box) -> np.ndarray:
        """What the items hold inside of `box` (x, y, w, h), uint8 [N, h, w, c], copied: no more is read of a file."""
        x, y, width, height = box
        return self.items[:, y : y + height, x : x + width][np.asarray(indices, dtype=np.int64)]

    def stream(self) -> Iterator[np.ndarray]:
        """All items in order, each uint8 [H, W, c]."""
        return iter(self.items)


class RamCache:
    """Items of the sources that this process has read, up to a budget. A worker process begins with an empty one.

    Args:
        megabytes: the budget, in units of 2**20 bytes.
    """

    def __init__(self, megabytes: int) -> None:
        self.megabytes = megabytes
        self.used = 0  # bytes
        self._held: dict[Hashable, Any] = {}  # None: there was no room, or not every item can be read

    def __reduce__(self) -> tuple[Any, ...]:  # a spawned worker gets the budget, not the content
        return ram_cache, (self.megabytes,)

    @contextmanager
    def video(
        self, media: Media, decoder: str, open_it: Callable[[], AbstractContextManager[VideoReader]]
    ) -> Iterator[VideoReader | HeldItems]:
        """`media` as read by `decoder`, from memory, or opened by `open_it` and kept as a whole.

        Raises:
            DecodeError: as `open_it`.
        """
        key = _key(media, decoder)
        held = self._held.get(key)
        if held is None:
            with open_it() as video:
                if key is not None and key not in self._held:
                    held = self._held[key] = self._whole(video)
                if held is None:
                    yield video
                    return
        yield held

    def flow(
        self,
        media: Media,
        made_with: Hashable,
        load: Callable[[], np.ndarray],
        fps: float,
        times: np.ndarray | None = None,
    ) -> HeldItems:
        """The flow of `media`, uint8 [N, H, W, 2], from memory, or loaded and kept.

        Raises:
            DecodeError: as `load`.
        """
        pairs = self.kept(media, made_with, load, lambda it: it.nbytes, np.array)  # they may be memory-mapped
        return HeldItems(pairs, fps, times)

    def kept(
        self,
        media: Media,
        made_with: Hashable,
        make: Callable[[], T],
        nbytes: Callable[[T], int],
        copied: Callable[[T], T] | None = None,
    ) -> T:
        """What `make` makes of `media`, from memory, or made and kept where its `nbytes` fit.

        Args:
            copied: makes what is kept, where that differs from what was made.

        Raises:
            DecodeError: as `make`.
        """
        key = _key(media, made_with)
        if self._held.get(key) is None:
            made = make()
            if key is None or not self._take(nbytes(made)):
                return made
            self._held[key] = made if copied is None else copied(made)
        kept: T = self._held[key]
        return kept

    def _whole(self, video: VideoReader) -> HeldItems | None:
        width, height = video.size
        most = 3 * video.count * width * height
        if not self._take(most):
            return None
        self.used -= most
        try:
            items = video.frames(range(video.count))
        except DecodeError:  # a sample may well be cut from the items that can be read
            return None
        self.used += items.nbytes
        return HeldItems(items, video.fps, video.times)

    def _take(self, nbytes: int) -> bool:
        """Reserve room, if there is enough."""
        fits = self.used + nbytes <= self.megabytes * MB
        self.used += nbytes * fits
        return fits


def _key(media: Media, made_with: Hashable) -> Hashable | None:
    """Of the items of `media`: changes with its (first) file; None where that is missing."""
    try:
        state = next(media_files(media)).stat()
    except (OSError, StopIteration):
        return None
    return media, made_with, state.st_size, state.st_mtime_ns


_OF_PROCESS = RamCache(0)


def ram_cache(megabytes: int) -> RamCache:
    """The cache of this process, so that the runs of a sweep or a pipeline decode a video once, with a new budget."""
    _OF_PROCESS.megabytes = megabytes
    return _OF_PROCESS
