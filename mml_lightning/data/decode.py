"""Video files to frames. The only module that imports decord; PyAV is the second reader and the referee.

Legend: T frames of the file, N requested frames, H height, W width.

decord is fast to use but repeats or misplaces frames in some files (stream-copied cuts, re-ordered HEVC, MPEG-1); PyAV
decodes in order and counts what really decodes. `mml check` compares the two. A reader lives for one sample: readers kept
open across a fork, or for long, are what decord deadlocks and leaks on.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

DECODERS = ("decord", "pyav")


class DecodeError(Exception):
    """The file is not a readable video; the message names the file and the decoder's reason."""


class VideoReader(Protocol):
    """An open video: `count` frames of `size` (W, H) at `fps`."""

    count: int
    size: tuple[int, int]
    fps: float

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """RGB frames uint8 [N, H, W, 3] at 0-based `indices`, in the order asked, repeats allowed."""
        ...


@contextmanager
def open_video(path: Path, decoder: str = "decord") -> Iterator[VideoReader]:
    """Open `path` with `decoder` ("decord" or "pyav").

    Raises:
        DecodeError: the file can't be opened or has no frame; also raised for errors while its frames are read.
        ValueError: unknown decoder.
    """
    if decoder not in DECODERS:
        raise ValueError(f"data.decoder={decoder!r} is unknown; use one of {list(DECODERS)}")
    try:
        reader = _DecordReader(path) if decoder == "decord" else _PyAVReader(path)
        if reader.count < 1:
            raise DecodeError("it has no frame")
        yield reader
    except DecodeError as error:
        raise DecodeError(f"{path}: {error} ({decoder})") from None
    except FileNotFoundError:
        raise DecodeError(f"{path}: no such file") from None
    except Exception as error:  # decoders raise a dozen unrelated types; nothing else runs inside
        if type(error).__module__.split(".")[0] not in ("decord", "av") and not isinstance(
            error, (OSError, RuntimeError, IndexError, ValueError)
        ):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DecodeError(f"{path}: {reason[:160]} ({decoder})") from None


def decoder_version(decoder: str) -> str:
    """Version of the library behind `decoder`; part of a run's identity."""
    return importlib.metadata.version({"decord": "decord", "pyav": "av"}[decoder])


class _DecordReader:
    def __init__(self, path: Path) -> None:
        import decord

        if not path.is_file():
            raise FileNotFoundError(path)
        decord.logging.set_level(decord.logging.QUIET)
        self._reader: Any = decord.VideoReader(str(path), num_threads=1)
        self.count = len(self._reader)
        height, width = self._reader[0].shape[:2] if self.count else (0, 0)
        self.size = (int(width), int(height))
        self.fps = float(self._reader.get_avg_fps())

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        # decord decodes forward once for sorted unique indices; repeats are laid out afterwards
        unique, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        return self._reader.get_batch(unique.tolist()).asnumpy()[inverse]


class _PyAVReader:
    """Decodes the whole stream once: the count is what decodes, not what the container claims."""

    def __init__(self, path: Path) -> None:
        import av

        with av.open(str(path)) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise DecodeError("it has no video stream")
            stream.thread_type = "NONE"
            self.fps = float(stream.average_rate or stream.base_rate or 0.0)
            self._frames: list[Any] = []
            try:
                # kept as decoded (YUV): converting only what is asked for saves most of the work
                self._frames.extend(container.decode(stream))
            except av.error.FFmpegError:
                if not self._frames:  # a damaged tail keeps what was decoded before it
                    raise
        self.count = len(self._frames)
        self._turns = round(self._frames[0].rotation / 90) % 4 if self._frames else 0
        first = self._frames[0] if self._frames else None
        size = (first.width, first.height) if first is not None else (0, 0)
        self.size = size[::-1] if self._turns % 2 else size

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        unique, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        images = [np.rot90(self._frames[i].to_ndarray(format="rgb24"), self._turns) for i in unique.tolist()]
        return np.stack(images)[inverse]
