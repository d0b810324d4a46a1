"""Sources of a sample: opened once per sample, shared by the modalities that look at them.

Legend: N items asked for, H height, W width, c channels of one item (frames 3, flow 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mml_lightning.data.decode import DecodeError, open_video
from mml_lightning.data.flow import FlowCache
from mml_lightning.data.records import Record

SOURCES = ("frames", "flow")


class OpenSource(Protocol):
    @property
    def count(self) -> int: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def fps(self) -> float: ...

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Items uint8 [N, H, W, c]."""
        ...


@dataclass
class CachedFlow:
    """Flow of one video, memory-mapped; its clock is that of the frames."""

    pairs: np.ndarray
    fps: float

    @property
    def count(self) -> int:
        return int(self.pairs.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        return int(self.pairs.shape[2]), int(self.pairs.shape[1])

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return self.pairs[np.asarray(indices, dtype=np.int64)]


@dataclass(frozen=True)
class SourceOpener:
    """Opens the sources of a record. `flow` is None in runs without flow."""

    decoder: str = "decord"
    flow: FlowCache | None = None

    @contextmanager
    def open(self, record: Record, names: Sequence[str]) -> Iterator[Mapping[str, OpenSource]]:
        """The sources `names` of `record`, closed on leaving.

        Raises:
            DecodeError: one of them can't be read.
        """
        with ExitStack() as stack:
            opened: dict[str, OpenSource] = {}
            # a span is given in seconds, so flow alone needs the clock of the frames too
            if "frames" in names or record.span is not None:
                opened["frames"] = stack.enter_context(open_video(record.media["frames"], self.decoder))
            if "flow" in names:
                opened["flow"] = self._open_flow(record, opened["frames"].fps if "frames" in opened else 0.0)
            yield opened

    def _open_flow(self, record: Record, fps: float) -> CachedFlow:
        assert self.flow is not None, "a run with flow is built with a flow cache"
        path = self.flow.path(record)
        try:
            pairs = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            path = self.flow.make(record)
            pairs = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DecodeError(f"{path}: damaged flow file ({error}); delete it to have it made again") from None
        return CachedFlow(pairs, fps)
