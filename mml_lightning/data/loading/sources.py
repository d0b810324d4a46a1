"""Sources of a sample: opened once per sample, shared by the modalities that look at them.

Legend: N items asked for, H height, W width, c channels of one item (frames 3, flow 2).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mml_lightning.data.flow.cache import FlowCache, FlowSettings, stream_flow
from mml_lightning.data.loading.ram_cache import HeldItems, RamCache
from mml_lightning.data.records.records import Record
from mml_lightning.data.video.decode import IN_MEMORY, DecodeError, NoSource, check_decoder
from mml_lightning.data.video.images import open_media
from mml_lightning.data.video.index_store import IndexStore
from mml_lightning.data.video.media import ImageSequence, Media, PackedFrames
from mml_lightning.transforms import Box, Crop, reduction
from mml_lightning.utils.errors import UserError

SOURCES = ("frames", "flow")


class OpenSource(Protocol):
    @property
    def count(self) -> int: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def fps(self) -> float: ...

    @property
    def times(self) -> np.ndarray | None:
        """Seconds float64 [N] of the items from the first frame shown, of a pair of flow those of its first frame;
        None where unknown."""
        ...

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Items uint8 [N, H, W, c]."""
        ...


def read_part(source: OpenSource, indices: Sequence[int], box: Box) -> np.ndarray:
    """What the items hold inside of `box` (x, y, w, h), uint8 [N, h, w, c]; sources that can, decode no more than that.

    Raises:
        DecodeError: an item can't be read.
    """
    part = getattr(source, "part", None)
    if part is not None:
        return np.asarray(part(indices, box))
    x, y, width, height = box
    return source.frames(indices)[:, y : y + height, x : x + width]


def fitted(source: OpenSource, crops: Sequence[Crop]) -> OpenSource:
    """`source` reduced as far as `crops` allow, if it can be."""
    reduced = getattr(source, "reduced", None)
    made: OpenSource = source if reduced is None else reduced(reduction(crops, *source.size))
    return made


@dataclass
class LiveFlow:
    """Flow of an open video, computed from its whole frames when it is asked for: what the cache would hold, if the
    engine looks at one pair at a time.

    Args:
        video: the frames; two or more.
        name: of the video, for messages.
    """

    video: OpenSource
    settings: FlowSettings
    name: str

    def __post_init__(self) -> None:
        if self.video.count < 2:
            raise NoSource(f"{self.name}: it has one frame and flow needs two; drop it, or set data.missing=mask")
        self.count, self.size, self.fps = self.video.count - 1, self.video.size, self.video.fps
        self.times = None if self.video.times is None else self.video.times[:-1]

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Pairs uint8 [N, H, W, 2].

        Raises:
            DecodeError: a frame can't be read, or the frames are too small.
        """
        wanted, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        needed = np.union1d(wanted, wanted + 1)
        frames = self.video.frames(needed.tolist())
        fields: list[np.ndarray] = []
        try:
            # neighbouring pairs share a frame; a gap starts anew
            for run in np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1):
                first, last = np.searchsorted(needed, [run[0], run[-1] + 1])
                fields += stream_flow(frames[first : last + 1], self.settings)
        except ValueError as error:
            raise DecodeError(f"{self.name}: {error}") from None
        return np.stack(fields)[inverse]


@dataclass(frozen=True)
class SourceOpener:
    """Opens the sources of a record.

    Args:
        decoder: reader of the frames, where a record names none of its own.
        flow: where the flow of records lies that bring none of their own; None in runs without flow.
        ram: what has been decoded is kept there; None decodes for every sample.
        reducible: frames that are JPEG files are decoded at a fraction of their size where crops need no more.
        indexes: where what is known of each video file is kept.

    Raises:
        UserError: the decoder is unknown or not installed.
    """

    decoder: str = "decord"
    flow: FlowCache | None = None
    ram: RamCache | None = None
    reducible: bool = False
    indexes: IndexStore = IN_MEMORY

    def __post_init__(self) -> None:
        check_decoder(self.decoder)

    @contextmanager
    def open(
        self, record: Record, names: Sequence[str], skip_absent: bool = False
    ) -> Iterator[Mapping[str, OpenSource]]:
        """The sources `names` of `record`, closed on leaving.

        Args:
            skip_absent: leave out a source that the record lacks by nature (flow of a one-frame video) instead of
                raising, as long as one is left.

        Raises:
            DecodeError: one of them can't be read.
        """
        with ExitStack() as stack:
            opened: dict[str, OpenSource] = {}
            absent: list[NoSource] = []
            # a span is given in seconds, so flow alone needs the clock of the frames too
            wanted = {"frames", *names} if record.span is not None else set(names)
            for name in SOURCES:
                if name not in wanted:
                    continue
                try:
                    opened[name] = self._open(name, record, opened, stack)
                except NoSource as error:
                    absent.append(error)
            if absent and not (skip_absent and any(name in opened for name in names)):
                raise absent[0]
            yield opened

    def _open(self, name: str, record: Record, opened: Mapping[str, OpenSource], stack: ExitStack) -> OpenSource:
        media = record.media.get(name)
        if media is not None and (name == "frames" or isinstance(media, ImageSequence | PackedFrames)):
            return self._media(media, record.decoder or self.decoder, stack)
        if "frames" not in record.media:
            raise NoSource(f"{record.id}: it has no video")
        if self.flow is None:
            raise UserError("a run with flow needs a flow cache; build it with build_data.flow_cache")
        if self.flow.settings.on_the_fly:
            frames, decoder = record.media["frames"], record.decoder or self.flow.settings.decoder
            # the frames at hand, unless flow is made from another reader's
            shared = opened.get("frames") if decoder == (record.decoder or self.decoder) else None
            return LiveFlow(shared or self._media(frames, decoder, stack), self.flow.settings, str(frames))
        fps, times = (opened["frames"].fps, opened["frames"].times) if "frames" in opened else (0.0, None)
        times, load = None if times is None else times[:-1], functools.partial(self.flow.load, record)
        if self.ram is None:
            return HeldItems(load(), fps, times)
        return self.ram.flow(record.media["frames"], (self.flow.folder, record.decoder), load, fps, times)

    def _media(self, media: Media, decoder: str, stack: ExitStack) -> OpenSource:
        if self.ram is None:
            return stack.enter_context(open_media(media, decoder, self.reducible, self.indexes))
        whole = functools.partial(open_media, media, decoder, False, self.indexes)
        return stack.enter_context(self.ram.video(media, decoder, whole))
