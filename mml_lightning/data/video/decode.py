"""Video files to frames. The only module that imports decord.

Legend: T frames of the file, N requested frames, H height, W width.

Frame i is the i-th one that decoding from the start shows. What is known of a file (video_index.py) tells which reader
may give it: decord where packets prove that its seeks find the right frame, else PyAV, which checks the time of each.
A reader lives for one sample: readers kept open across a fork, or for long, are what decord deadlocks and leaks on.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from mml_lightning.data.video.index_store import IndexStore
from mml_lightning.data.video.pyav_reader import PyAVReader, Unlike
from mml_lightning.data.video.video_index import VideoIndex, remember
from mml_lightning.utils.errors import UserError, blameless

PACKAGES = {"decord": "decord", "pyav": "av"}
DECODERS = tuple(PACKAGES)
IN_MEMORY = IndexStore()
T = TypeVar("T")


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


class CountChanged(DecodeError):
    """A file turned out to show other frames than its packets promised; it is known now, and can be opened anew."""


def steadily(read: Callable[[], T]) -> T:
    """`read()`, once more where a file that it opens turned out to be another than was thought.

    Raises:
        DecodeError: as `read`.
    """
    try:
        return read()
    except CountChanged:
        return read()


class VideoReader(Protocol):
    """An open video: `count` frames of `size` (W, H) at `fps` (0 where unknown).

    `times`: float64 [T], seconds of each frame from the first one shown, by the frames' own timestamps (of images by
    their stated rate); None where nothing tells.
    """

    count: int
    size: tuple[int, int]
    fps: float
    times: np.ndarray | None

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
def open_video(
    path: Path, decoder: str = "decord", indexes: IndexStore = IN_MEMORY, decode: bool = False
) -> Iterator[VideoReader]:
    """Open `path`; frame i is the i-th one that decoding from the start shows, whichever reader is used.

    Args:
        decoder: "decord", which reads what is proven to be safe for it and leaves the rest to PyAV, or "pyav".
        indexes: where what is known of the file is kept.
        decode: decode all of the file first, if that was never done: its frames are counted, not promised.

    Raises:
        DecodeError: the file can't be opened, has no frame, or (from the reader's methods) a frame can't be read. What
            the caller raises inside the `with` passes unchanged.
        UserError: the decoder is unknown or not installed.
    """
    check_decoder(decoder)
    reader = _Guarded(path, decoder, indexes, decode)
    try:
        yield reader
    finally:
        reader.close()


def even_times(count: int, fps: float) -> np.ndarray | None:
    """Seconds float64 [count] of items at a constant rate; None where it is unknown."""
    return np.arange(count) / fps if fps > 0 else None


def laid_out(items: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """`items[inverse]`, which is not copied where it is `items` itself."""
    same = len(items) == len(inverse) and bool((np.diff(inverse) > 0).all())
    return items if same else items[inverse]


class _Guarded:
    """A reader whose errors, a dozen unrelated types, all become :class:`DecodeError`.

    `used` names the library that reads the file, `index` holds what is known of it.
    """

    def __init__(self, path: Path, decoder: str, indexes: IndexStore, decode: bool) -> None:
        self._path, self._wish, self._indexes, self.used = path, decoder, indexes, "pyav"
        with self._errors():
            if not path.is_file():
                raise FileNotFoundError(path)
            if not path.stat().st_size:
                raise ValueError("the file is empty")
            self.index = indexes.index(path, decode)
            self._reader: PyAVReader | _DecordReader = PyAVReader(path, self.index)
            if decoder == "decord" and not self.index.by_pyav:
                self._begin_decord()
        self.count, self.size, self.fps = self.index.count, self.index.size, self.index.fps
        self.times = self.index.times

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        with self._errors():
            unique, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
            if unique.size and not 0 <= unique[0] <= unique[-1] < self.count:
                raise IndexError(f"frames {unique[0]} to {unique[-1]} were requested, it has {self.count}")
            return laid_out(self._frames(unique.tolist()), inverse)  # decoders go forward once

    def stream(self) -> Iterator[np.ndarray]:
        for index in range(self.count):
            with self._errors():
                frame = self._frames([index])[0]
            yield frame

    def close(self) -> None:
        self._reader.close()

    @property
    def notes(self) -> dict[str, str]:
        """What a run should hear of: "pyav", why it is not the wanted reader that is used; "damaged", what is lost."""
        found = {"pyav": self.index.by_pyav if self.used != self._wish else "", "damaged": self.index.loss}
        return {kind: note for kind, note in found.items() if note}

    def _begin_decord(self) -> None:
        try:
            self._reader = _DecordReader(self._path, self.index)
        except Exception as error:
            self._leave_decord(error)
        else:
            self.used = "decord"

    def _leave_decord(self, error: Exception) -> None:
        """For this file, in later samples too."""
        self.index = remember(self.index, f"decord fails: {_reason(error, self._path)}")
        self._indexes.put(self._path, self.index)
        self._reader, self.used = PyAVReader(self._path, self.index), "pyav"

    def _frames(self, indices: list[int]) -> np.ndarray:
        if self.used == "decord":
            try:
                return self._reader.frames(indices)
            except Exception as error:
                self._leave_decord(error)
        try:
            return self._reader.frames(indices)
        except Unlike:
            found = self._indexes.index(self._path, decode=True)
        if found.count != self.count:
            raise CountChanged(f"{self._path}: it is damaged: {found.loss or 'its packets promise other pictures'}")
        self.index, self._reader = found, PyAVReader(self._path, found)
        return self._reader.frames(indices)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise DecodeError(f"{self._path}: no such file") from None
        except (MemoryError, DecodeError):
            raise
        except Exception as error:
            raise DecodeError(f"{self._path}: {_reason(error, self._path)} ({self.used})") from None


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
    """For files of an index that proves its seeks; it tells nothing of what it gives, so only that can be seen to."""

    def __init__(self, path: Path, index: VideoIndex) -> None:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self._reader: Any = decord.VideoReader(str(path), num_threads=1)
        self._shape = (*index.size[::-1], 3)
        if len(self._reader) != index.count:
            raise ValueError(f"it reports {len(self._reader)} frames of {index.count}")

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        made: np.ndarray = self._reader.get_batch(list(indices)).asnumpy()
        if made.shape[1:] != self._shape:
            raise ValueError(f"it gives frames of {made.shape[2]}x{made.shape[1]}")
        return made

    def close(self) -> None:
        del self._reader


def by_decord_alone(path: Path, indices: Sequence[int]) -> np.ndarray:
    """What decord gives at `indices` without any proof, uint8 [N, H, W, 3]: for comparisons.

    Raises:
        DecodeError: it can't.
    """
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        made: np.ndarray = decord.VideoReader(str(path), num_threads=1).get_batch(list(indices)).asnumpy()
    except Exception as error:
        raise DecodeError(f"{path}: {_reason(error, path)} (decord)") from None
    return made
