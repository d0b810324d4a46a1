"""Video files to frames. The only module that imports decord; PyAV is the second reader and the referee.

Legend: T frames of the file, N requested frames, H height, W width.

decord is fast to use but repeats or misplaces frames in some files (stream-copied cuts, re-ordered HEVC, MPEG-1); PyAV
decodes in order and counts what really decodes. `mml check` compares the two. A reader lives for one sample: readers
kept open across a fork, or for long, are what decord deadlocks and leaks on.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mml_lightning.errors import UserError, blameless

PACKAGES = {"decord": "decord", "pyav": "av"}
DECODERS = tuple(PACKAGES)
MOST_PIXELS = 2**26  # of a frame, 8192 x 8192: a header may claim any size, and the memory is taken before one is seen
KEEP_BYTES = 256 * 2**20  # decoded frames that PyAV's reader holds; a longer video is decoded again for each request


class DecodeError(Exception):
    """A record can't become a sample; the message is one line with the file and the reason.

    Raises:
        UserError: the reason is that this process has no file descriptors or memory left: no fault of the file, which
            must not be left out for it.
    """

    def __init__(self, text: str = "") -> None:
        if (reason := blameless(text)) is not None:
            raise UserError(reason)
        super().__init__(text)


class NoSource(DecodeError):
    """A record lacks a source by nature, such as flow where there is one frame; `data.missing=mask` admits it."""


class VideoReader(Protocol):
    """An open video: `count` frames of `size` (W, H) at `fps` (0 where unknown)."""

    count: int
    size: tuple[int, int]
    fps: float

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """RGB frames uint8 [N, H, W, 3] at 0-based `indices`, in the order asked, repeats allowed."""
        ...

    def stream(self) -> Iterator[np.ndarray]:
        """All frames in order, each uint8 [H, W, 3]."""
        ...


def installed(decoder: str) -> bool:
    """Whether the library behind `decoder` is there; decord has no wheels for some platforms."""
    return importlib.util.find_spec(PACKAGES[decoder]) is not None


def check_decoder(decoder: str) -> str:
    """`decoder` itself.

    Raises:
        UserError: it is unknown or not installed.
    """
    if decoder not in DECODERS:
        raise UserError(f"data.decoder={decoder!r} is unknown; use one of {list(DECODERS)}")
    if not installed(decoder):
        other = "pyav" if decoder == "decord" else "decord"
        raise UserError(f"data.decoder={decoder} is not installed on this machine; use data.decoder={other}")
    return decoder


def decoder_version(decoder: str) -> str:
    """Version of the library behind `decoder`; part of a run's identity."""
    return importlib.metadata.version(PACKAGES[check_decoder(decoder)])


@contextmanager
def open_video(path: Path, decoder: str = "decord") -> Iterator[VideoReader]:
    """Open `path` with `decoder` ("decord" or "pyav").

    Raises:
        DecodeError: the file can't be opened, has no frame, or (from the reader's methods) a frame can't be read. What
            the caller raises inside the `with` passes unchanged.
        UserError: the decoder is unknown or not installed.
    """
    check_decoder(decoder)
    yield _Guarded(path, decoder)


def laid_out(items: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """`items[inverse]`, which is not copied where it is `items` itself."""
    same = len(items) == len(inverse) and bool((np.diff(inverse) > 0).all())
    return items if same else items[inverse]


class _Guarded:
    """A reader whose errors, a dozen unrelated types, all become :class:`DecodeError`."""

    def __init__(self, path: Path, decoder: str) -> None:
        self._path, self._decoder = path, decoder
        with self._errors():
            if not path.is_file():
                raise FileNotFoundError(path)
            if not path.stat().st_size:
                raise ValueError("the file is empty")
            self._reader: VideoReader = _DecordReader(path) if decoder == "decord" else _PyAVReader(path)
            if self._reader.count < 1:
                raise ValueError("it has no frame")
        self.count, self.size, self.fps = self._reader.count, self._reader.size, self._reader.fps

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        with self._errors():
            unique, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
            if unique.size and not 0 <= unique[0] <= unique[-1] < self.count:
                raise IndexError(f"frames {unique[0]} to {unique[-1]} were asked for, it has {self.count}")
            return laid_out(self._reader.frames(unique.tolist()), inverse)  # decoders go forward once

    def stream(self) -> Iterator[np.ndarray]:
        source = self._reader.stream()
        while True:
            with self._errors():
                try:
                    frame = next(source)
                except StopIteration:
                    return
            yield frame

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise DecodeError(f"{self._path}: no such file") from None
        except MemoryError:
            raise
        except Exception as error:
            raise DecodeError(f"{self._path}: {_reason(error, self._path)} ({self._decoder})") from None


def _reason(error: Exception, path: Path) -> str:
    """First line of a decoder's message without time, source line and the path, so that equal causes read equal."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    for noise in (
        r"^\[[\d:]+\] \S+\.(cc|h):\d+: ",
        rf"[:\s]*[\['\"]?{re.escape(str(path))}[\]'\"]?",
        r" \(-?\d+ vs\. 0\)",
        r"^\[Errno -?\d+\] ",
    ):
        line = re.sub(noise, "", line)
    return line.strip(". ")[:160]


class _DecordReader:
    def __init__(self, path: Path) -> None:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self._reader: Any = decord.VideoReader(str(path), num_threads=1)
        self.count = len(self._reader)
        height, width = self._reader[0].shape[:2] if self.count else (0, 0)
        self.size = (int(width), int(height))
        self.fps = float(self._reader.get_avg_fps())

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return self._reader.get_batch(list(indices)).asnumpy()

    def stream(self) -> Iterator[np.ndarray]:
        return (self._reader[i].asnumpy() for i in range(self.count))


class _PyAVReader:
    """Decodes the whole stream once: the count is what decodes, not what the container claims."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.count, self.size, self.fps = 0, (0, 0), 0.0
        self._turns = 0  # quarter turns counter-clockwise, as the file's rotation flag and np.rot90 count them
        self._kept: list[Any] = []  # as decoded (YUV): converting only what is asked for saves most of the work
        used = 0
        for frame in self._decode():
            if self.count == 0:
                self._turns = round(frame.rotation / 90) % 4
                self.size = (frame.height, frame.width) if self._turns % 2 else (frame.width, frame.height)
            self.count += 1
            used += sum(plane.buffer_size for plane in frame.planes)
            if used <= KEEP_BYTES:
                self._kept.append(frame)
            else:
                self._kept.clear()

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        wanted = set(indices)
        frames = itertools.islice(self._kept or self._decode(), max(wanted) + 1)
        return np.stack([self._rgb(frame) for i, frame in enumerate(frames) if i in wanted])

    def stream(self) -> Iterator[np.ndarray]:
        return (self._rgb(frame) for frame in self._kept or self._decode())

    def _decode(self) -> Iterator[Any]:
        import av

        with av.open(str(self._path)) as container:
            stream: Any = container.streams.best("video")
            if stream is None:
                raise ValueError("it has no video stream")
            size = stream.codec_context
            if size.width * size.height > MOST_PIXELS:
                raise ValueError(f"its frames are {size.width}x{size.height}, too large to be read")
            stream.thread_type = "NONE"
            self.fps = float(stream.average_rate or stream.base_rate or 0.0)
            first = None
            try:
                for first in container.decode(stream):
                    yield first
            except av.error.FFmpegError:
                if first is None:  # a damaged tail keeps what was decoded before it
                    raise

    def _rgb(self, frame: Any) -> np.ndarray:
        return np.rot90(frame.to_ndarray(format="rgb24"), self._turns)
