"""The exact reader: it begins where the index of a file allows, and checks that what comes out is what was asked for.

Legend: N frames asked for, H height, W width.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mml_lightning.data.orientation import Orientation
from mml_lightning.data.packets import Damage, opened, pictures
from mml_lightning.data.video_index import VideoIndex


class Unlike(Exception):
    """A file does not decode as its index says: it is damaged inside of packets that look whole."""


class _Missed(Exception):
    """A container did not go where it was sent."""


class PyAVReader:
    """Frames of a file by its index.

    A frame is told by its timestamp where the file has those: after a jump, and one by one. Where it has none, frames
    are counted from the start. Going on from the frame that was given last needs no jump.
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
        pts, damage, index = self.index.pts, Damage(), start
        with opened(self.path) as (container, stream):
            if start:
                container.seek(int(pts[start]), stream=stream)  # type: ignore[index]
            for frame in pictures(container, stream, damage):
                if (damage.packets or damage.gaps) and (start or not self.index.decoded):
                    raise Unlike("a packet is damaged")
                if pts is not None:
                    if start and index == start and frame.pts != pts[start]:
                        if frame.pts is None or frame.pts > pts[start]:
                            raise _Missed
                        continue  # the container went to an earlier place; from `start` on all is right
                    if index >= len(pts) or frame.pts != pts[index]:
                        raise Unlike(f"picture {index + 1} is not the one of its time")
                yield index, frame
                index += 1

    def _rgb(self, frame: Any) -> np.ndarray:
        """Pictures of another size, after a change inside of the stream, are scaled to the first one's."""
        width, height = self._stored
        pixels = self._scale.reformat(frame, width=width, height=height, format="rgb24").to_ndarray()
        return self._shown.apply(pixels)
