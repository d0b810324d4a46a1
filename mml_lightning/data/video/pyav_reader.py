"""The exact reader: it begins where the index of a file allows, and checks that what comes out is what was asked for.

Legend: N frames asked for, H height, W width.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mml_lightning.data.video.orientation import Orientation
from mml_lightning.data.video.packets import Damage, luminance_sum, opened, pictures
from mml_lightning.data.video.video_index import VideoIndex

MOST_SKIPPED = 256  # packets before the wanted one, after which a container is taken to have missed it


class Unlike(Exception):
    """A file does not decode as its index says: it is damaged inside of packets that look whole."""


class _Missed(Exception):
    """A container did not go where it was sent."""


class _Told:
    """How frames that come after the jump to `start` are told from others: by their timestamps, else by the numbers of
    their packets, whose first one is known by its place in the file."""

    def __init__(self, index: VideoIndex, start: int) -> None:
        self.index, self.start = index, start
        self.jump = None if index.jumps is None else index.jumps[np.searchsorted(index.starts, start)].tolist()
        self.skipped = 0

    @property
    def time(self) -> int:
        return self.jump[0] if self.jump is not None else int(self.index.pts[self.start])  # type: ignore[index]

    def begins(self, packet: Any) -> bool:
        """Whether this packet is the one to begin with.

        Raises:
            _Missed: it has passed.
        """
        if not self.start or self.jump is None:
            return True
        _, offset, size, crc32 = self.jump
        self.skipped += 1
        if self.skipped > MOST_SKIPPED or packet.pos is None or packet.pos > offset:
            raise _Missed
        return bool(packet.pos == offset and packet.size == size and zlib.crc32(bytes(packet)) == crc32)

    def before(self, frame: Any) -> bool:
        """Whether a first frame lies before `start`.

        Raises:
            _Missed: it lies behind, or anywhere.
        """
        if self.jump is not None:
            return bool(frame.opaque != 0)
        wanted = self.index.pts[self.start]  # type: ignore[index]
        if frame.pts is None or frame.pts > wanted:
            raise _Missed
        return bool(frame.pts < wanted)

    def same(self, frame: Any) -> bool:
        """Whether the first frame shows what it shows when all is decoded: decoders make up for damage with what they
        have seen before."""
        sums = self.index.sums
        return sums is None or luminance_sum(frame) == sums[np.searchsorted(self.index.starts, self.start)]

    def right(self, frame: Any, index: int) -> bool:
        order, pts = self.index.order, self.index.pts
        if order is not None:
            return bool(frame.opaque == order[index] - (order[self.start] if self.start else 0))
        return pts is None or bool(frame.pts == pts[index])


class PyAVReader:
    """Frames of a file by its index; each is checked to be the one of its number.

    Going on from the frame that was given last needs no jump.
    """

    def __init__(self, path: Path, index: VideoIndex) -> None:
        from av.video.reformatter import VideoReformatter

        self.path, self.index = path, index
        self._shown = Orientation.of_code(index.orientation)
        self._stored = self._shown.size(index.size)  # swapping twice is the stored size again
        self._scale = VideoReformatter()
        self._source: Generator[tuple[int, Any]] | None = None
        self._at = -1  # the frame that came last

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """RGB uint8 [N, H, W, 3] at rising `indices`.

        Raises:
            Unlike: as there.
            av.error.FFmpegError: the file can't be opened.
        """
        return np.stack([self._rgb(self._frame(index)) for index in indices])

    def close(self) -> None:
        if self._source is not None:
            self._source.close()
        self._source = None

    def _frame(self, index: int) -> Any:
        start = self.index.start_of(index)
        if self._source is None or index <= self._at or start > self._at + 1:
            self.close()
            self._source, self._at = self._from(start), start - 1
        for at, frame in self._source:
            self._at = at
            if at == index:
                return frame
        raise Unlike(f"picture {index + 1} of {self.index.count} does not decode")

    def _from(self, start: int) -> Generator[tuple[int, Any]]:
        """(index, frame) from `start` on; from 0 on where the container does not find `start`."""
        try:
            yield from self._counted(start)
        except _Missed:
            yield from self._counted(0)

    def _counted(self, start: int) -> Generator[tuple[int, Any]]:
        told, index, damage = _Told(self.index, start), start, Damage()
        with opened(self.path) as (container, stream):
            if start:
                container.seek(told.time, stream=stream)
            for frame in pictures(container, stream, damage, None if self.index.order is None else told.begins):
                if (damage.packets or damage.gaps) and (start or not self.index.decoded):
                    raise Unlike("a packet is damaged")
                if frame.is_corrupt and not self.index.decoded:  # what is made up for it hangs on where decoding began
                    raise Unlike("a picture is damaged")
                if start and index == start and told.before(frame):
                    continue  # from `start` on all is right, whatever comes before it
                if start and index == start and not told.same(frame):
                    raise _Missed
                if index >= self.index.count or not told.right(frame, index):
                    raise Unlike(f"picture {index + 1} differs from the one decoded before")
                yield index, frame
                index += 1
        if start and index == start:
            raise _Missed

    def _rgb(self, frame: Any) -> np.ndarray:
        """Pictures of another size, after a change inside of the stream, are scaled to the first one's."""
        width, height = self._stored
        pixels = self._scale.reformat(frame, width=width, height=height, format="rgb24", threads=1).to_ndarray()
        return self._shown.apply(pixels)
