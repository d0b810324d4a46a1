"""Optical flow of a video, computed once from its decoded frames and cached.

Legend: T frames, P = T - 1 pairs, H height, W width. Pair i is (frame i, frame i + 1): equal index, equal time.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from mml_lightning.data.flow.engines import Engine, make_engine
from mml_lightning.data.flow.motion_vectors import motion_vectors
from mml_lightning.data.records.records import Record
from mml_lightning.data.video.decode import IN_MEMORY, DecodeError, NoSource, VideoReader, decoder_version, steadily
from mml_lightning.data.video.images import open_media
from mml_lightning.data.video.index_store import IndexStore
from mml_lightning.data.video.media import ImageSequence, PackedFrames, media_absent
from mml_lightning.data.video.orientation import Orientation
from mml_lightning.data.video.video_index import VideoIndex
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import remove_leftovers, write_atomically

FRAMES = "by index, as shown"  # which frames flow is made of; before this was told, some readers gave others
CONTENT_BYTES = 64 * 2**10  # of the head and of the tail of a video: enough to know it again


def quantise(flow: np.ndarray, bound: float) -> np.ndarray:
    """Pixels of motion to uint8: clip to +-bound, round((f + bound) * 255 / (2 * bound)), halves to even; 0 -> 128.

    Steps are 2 * bound / 255 (0.157 px at 20), so the largest error inside the bound is 0.078 px. The mirror of value v
    is 255 - v, exact up to that half step.
    """
    return np.rint((np.clip(flow, -bound, bound) + bound) * (255.0 / (2.0 * bound))).astype(np.uint8)


def dequantise(values: np.ndarray, bound: float) -> np.ndarray:
    """uint8 to pixels of motion, the centre of each step."""
    return values.astype(np.float32) * (2.0 * bound / 255.0) - bound


@dataclass(frozen=True)
class FlowSettings:
    """How flow is computed; every field and the library's version are part of the cache key.

    Args:
        algorithm: "tvl1" (ours), "tvl1_opencv", "dis", "farneback" or "mv" (the codec's motion vectors).
        preset: a named set of parameters: "paper", "accurate" or "fast" of tvl1; "default" or "half" of tvl1_opencv;
            "ultrafast", "fast" or "medium" of dis; "default" of the others.
        bound: pixels that map to 0 and 255 (TSN's convention is 20).
        decoder: which reader gives the frames.
        parameters: single values in place of the preset's, by their names in the algorithm.
        device: "cpu", or "cuda" for tvl1.
        on_the_fly: no cache: workers compute the flow of the drawn windows, each time, to the same values. No part of
            the key.

    Raises:
        UserError: one of them is unknown or out of its range, or the algorithm's library is missing.
    """

    algorithm: str = "dis"
    preset: str = "medium"
    bound: float = 20.0
    decoder: str = "decord"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    on_the_fly: bool = False

    def __post_init__(self) -> None:
        if self.bound <= 0:
            raise UserError(f"flow.bound={self.bound} must be positive pixels")
        if self.on_the_fly and self.algorithm == "mv":
            raise UserError("flow.on_the_fly: flow.algorithm=mv reads whole files; leave flow.on_the_fly out")
        if self.on_the_fly and self.device != "cpu":
            raise UserError("flow.on_the_fly computes in the loader's workers: use flow.device=cpu")
        self.engine()

    def engine(self) -> Engine:
        return make_engine(self.algorithm, self.preset, self.parameters, self.device)

    def provenance(self) -> dict[str, Any]:
        return {
            "algorithm": self.algorithm,
            "preset": self.preset,
            "bound": self.bound,
            "decoder": self.decoder,
            "decoder_version": decoder_version(self.decoder),
            "frames": FRAMES,
            "layout": "uint8 [pairs, height, width, 2], x then y",
            **self.engine().provenance,
        }

    def key(self, before: bool = False) -> str:
        """Name of the folder of all flow that is made so; `before`: as it was made when frames could be others."""
        told = self.provenance()
        if before:
            del told["frames"]
        text = json.dumps(told, sort_keys=True)
        return f"{self.algorithm}-{self.preset}-b{self.bound:g}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def stream_flow(frames: Iterable[np.ndarray], settings: FlowSettings) -> Iterator[np.ndarray]:
    """Quantised flow of each pair of RGB frames uint8 [H, W, 3], uint8 [H, W, 2]; holds a batch of pairs at most.

    Raises:
        ValueError: the frames are too small for the algorithm, or it needs the file (`mv`).
    """
    fields = settings.engine().fields
    if fields is None:
        raise ValueError(f"flow.algorithm={settings.algorithm} reads files, not frames")
    return (quantise(pixels, settings.bound) for pixels in fields(frames))


def coded_flow(path: Path, size: tuple[int, int], pairs: int, settings: FlowSettings) -> np.ndarray:
    """Quantised motion vectors uint8 [P, H, W, 2] of a video file whose reader counts `pairs` of `size` (W, H).

    Raises:
        DecodeError: the file or its codec has none, or they are not those of the reader's frames.
    """
    flow = np.stack([quantise(pixels, settings.bound) for pixels in motion_vectors(path)] or [np.zeros((0, 0, 2))])
    if flow.shape != (pairs, size[1], size[0], 2):
        raise DecodeError(
            f"{path}: its vectors make {len(flow)} pairs of {flow.shape[2]}x{flow.shape[1]}, its frames {pairs} of "
            f"{size[0]}x{size[1]}; try data.decoder=pyav"
        )
    return flow


class FlowCache:
    """One `.npy` per video below `<root>/<settings key>/`, memory-mapped so that only the drawn pairs are read."""

    def __init__(self, root: Path, settings: FlowSettings, indexes: IndexStore = IN_MEMORY) -> None:
        self.settings, self.indexes = settings, indexes
        self.folder, self.before = Path(root) / settings.key(), Path(root) / settings.key(before=True)

    def path(self, record: Record) -> Path:
        """Where the flow of `record` lies: named by its file's size, first and last 64 KiB, and its reader if special.
        Images stand for their sequence with their number and the first, middle and last of them, in a pack with the
        check sum of their table.

        Records that are parts of one file share its flow.

        Raises:
            DecodeError: the video can't be opened.
        """
        source = record.media["frames"]
        if isinstance(source, ImageSequence):
            name, reader = source.folder.name, ""
            chosen = [source.paths(index)[0] for index in sorted({0, source.count // 2, source.count - 1})]
            content = hashlib.sha256(f"{source.count}|".encode() + b"".join(map(_content, chosen))).hexdigest()[:16]
        elif isinstance(source, PackedFrames):
            name, content, reader = source.folder, f"{source.count}-{source.crc32:08x}", ""
        else:
            name, content = source.stem, hashlib.sha256(_content(source)).hexdigest()[:16]
            reader = "" if self._decoder(record) == self.settings.decoder else f"-{record.decoder}"
        return self.folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)[-80:]}-{content}{reader}.npy"

    def load(self, record: Record) -> np.ndarray:
        """Flow of `record`, uint8 [P, H, W, 2], memory-mapped; made first where it is missing or damaged.

        Raises:
            DecodeError: the video can't be read; NoSource if it has a single frame.
            UserError: the cache can't be written.
        """
        path = self.path(record)
        flow = _stored(path)
        if flow is None:
            self.make(record)
            flow = _stored(path)
            if flow is None:
                raise DecodeError(f"{path}: can't be read back after writing; check the disk")
        return flow

    def make(self, record: Record) -> Path:
        """Compute the flow of `record` unless it is there.

        Raises:
            DecodeError: the video can't be read; NoSource if it has a single frame.
            UserError: the cache can't be written.
        """
        path = self.path(record)
        if _stored(path) is None:
            steadily(functools.partial(self._make, record, path))
        return path

    def _make(self, record: Record, path: Path) -> None:
        source, decoder = record.media["frames"], self._decoder(record)
        with open_media(source, decoder, False, self.indexes) as video:
            if self._taken_over(path, video, decoder):
                return
            if video.count < 2:
                raise NoSource(f"{source}: it has one frame and flow needs two; drop it, or set data.missing=mask")
            try:
                if self.settings.algorithm == "mv" and isinstance(source, Path):
                    fields = iter(coded_flow(source, video.size, video.count - 1, self.settings))
                else:
                    fields = stream_flow(video.stream(), self.settings)
                _write(path, lambda handle: _save(handle, fields, video.count - 1))
            except UserError:
                raise
            except ValueError as error:
                raise DecodeError(f"{source}: {error}") from None

    def _taken_over(self, path: Path, video: VideoReader, decoder: str) -> bool:
        """Whether flow of an older version is there, and of the same frames: it is not computed again."""
        flow = _stored(self.before / path.name)
        if flow is None or flow.shape[:3] != (video.count - 1, *video.size[::-1]):
            return False
        index: VideoIndex | None = getattr(video, "index", None)  # images have none, and were always right
        if index is not None:
            same = getattr(video, "used", "") == "decord" if decoder == "decord" else not index.loss
            if not same or not Orientation.of_code(index.orientation).turned:
                return False
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(self.before / path.name, path)
        return path.exists()

    def describe(self) -> None:
        """Write `settings.json`: what the files of this folder were made with.

        Raises:
            UserError: the cache can't be written.
        """
        self.write("settings.json", json.dumps(self.settings.provenance(), indent=1) + "\n")

    def write(self, name: str, text: str) -> None:
        """Write a text file beside the flow.

        Raises:
            UserError: the cache can't be written.
        """
        _write(self.folder / name, lambda handle: handle.write(text.encode()))

    def clear_leftovers(self) -> None:
        """Remove what killed writers have left."""
        remove_leftovers(self.folder)

    def prepare(self, records: Sequence[Record], workers: int, advance: Callable[[], object]) -> list[tuple[str, str]]:
        """Fill the cache, `advance()` after each record; a second call continues.

        Returns:
            (id, reason) of the records that have no flow.

        Raises:
            UserError: the cache can't be written.
        """
        self.describe()
        failed = []
        # threads: the decoder and OpenCV work outside the interpreter lock
        pool = ThreadPoolExecutor(max_workers=max(1, workers))
        try:
            jobs = {pool.submit(self.make, record): record for record in records}
            for job in as_completed(jobs):
                try:
                    job.result()
                except DecodeError as error:
                    failed.append((jobs[job].id, str(error)))
                advance()
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupt ends after the videos at hand, not after all
        return sorted(failed)

    def missing(self, records: Sequence[Record]) -> list[Record]:
        """Records of readable files whose flow is not cached yet, one per file; none that bring their own flow.

        Nothing is missing where flow is computed on the fly.
        """
        wanted: dict[Path, Record] = {}
        if self.settings.on_the_fly:
            return []
        for record in records:
            if "flow" not in record.media and media_absent(record.media["frames"]) is None:
                with suppress(DecodeError):  # images lost in between: the sample will say so by name
                    wanted[self.path(record)] = record
        return [record for path, record in wanted.items() if _stored(path) is None]

    def _decoder(self, record: Record) -> str:
        return record.decoder or self.settings.decoder


def _content(path: Path) -> bytes:
    """Size, head and tail of a file.

    Raises:
        DecodeError: it can't be opened.
    """
    try:
        with path.open("rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(0)
            head = handle.read(CONTENT_BYTES)
            handle.seek(max(0, size - CONTENT_BYTES))
            return f"{size}|".encode() + head + handle.read()
    except OSError as error:
        raise DecodeError(f"{path}: {error.strerror or error}") from None


def _stored(path: Path) -> np.ndarray | None:
    """The memory-mapped flow; None where it is missing or damaged: its size must be what its header says."""
    try:
        with path.open("rb") as handle:
            version = np.lib.format.read_magic(handle)
            if version != (1, 0):
                return None
            shape, fortran, kind = np.lib.format.read_array_header_1_0(handle)
            start, size = handle.tell(), os.fstat(handle.fileno()).st_size
        if fortran or kind != np.uint8 or len(shape) != 4 or min(shape) < 1 or size != start + math.prod(shape):
            return None
        return np.memmap(path, np.uint8, "r", start, shape)
    except (FileNotFoundError, EOFError, ValueError):
        return None
    except OSError as error:
        raise DecodeError(f"{path}: {error.strerror or error}") from None


def _save(handle: IO[bytes], fields: Iterator[np.ndarray], pairs: int) -> None:
    """Write `pairs` fields uint8 [H, W, 2] as they come, the bytes that `np.save` writes of their stack.

    Raises:
        ValueError: there are more or fewer.
    """
    first = next(fields, None)
    shape = (pairs, *(() if first is None else first.shape))
    np.lib.format.write_array_header_1_0(handle, {"descr": "|u1", "fortran_order": False, "shape": shape})
    given = 0
    for pixels in itertools.chain([] if first is None else [first], fields):
        handle.write(pixels.tobytes())
        given += 1
    if given != pairs:
        raise ValueError(f"its reader reports {pairs + 1} frames and returns {given + 1}; try data.decoder=pyav")


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file at once; what can be computed again need not wait for the disk.

    Raises:
        UserError: the cache can't be written.
    """
    try:
        with write_atomically(path, "wb", sync=False) as handle:
            write(handle)
    except OSError as error:
        raise UserError(f"can't write the flow cache {path.parent} ({error.strerror}); set paths.cache") from None
