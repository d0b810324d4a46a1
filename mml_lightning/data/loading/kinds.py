"""Kinds of sources: how what is read once per sample becomes the clips of the modalities that look at it.

Everything else of loading (draws, samplers, batches, presence, quarantine) asks the kind and knows no shape. A kind of
your own is a subclass of :class:`Kind`, named in `sources` of the config: docs/code.md.

Legend: V views (clips x crops), T segments, L window, N items of a source.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from mml_lightning.data.flow.cache import FlowCache
from mml_lightning.data.loading.ram_cache import RamCache
from mml_lightning.data.records.clock import items_of
from mml_lightning.data.records.records import Record
from mml_lightning.data.video.decode import IN_MEMORY, NoSource
from mml_lightning.data.video.index_store import IndexStore
from mml_lightning.data.video.media import Media
from mml_lightning.modalities import Modality
from mml_lightning.sampling import window_indices
from mml_lightning.transforms import Crop

Size = tuple[int, int]
"""Width and height in pixels."""


class OpenSource(Protocol):
    """A source of one sample, open: `count` items in time. What else it has (pixels, numbers) its kind knows."""

    @property
    def count(self) -> int: ...

    @property
    def fps(self) -> float:
        """Items per second; 0 where unknown."""
        ...

    @property
    def times(self) -> np.ndarray | None:
        """Seconds float64 [N] of the items from the first frame shown, of a pair of flow those of its first frame;
        None where unknown."""
        ...


@dataclass
class Opening:
    """What a kind may use while it opens a source of one record.

    Args:
        decoder: reader of the frames, where a record names none of its own.
        flow: where the flow of records lies that bring none of their own; None in runs without flow.
        ram: what has been decoded is kept there; None decodes for every sample.
        reducible: frames that are JPEG files are decoded at a fraction of their size where crops need no more.
        indexes: where what is known of each video file is kept.
        opened: the sources of the record that are open already, frames first.
        stack: closes what is entered into it when the sample is made.
    """

    decoder: str = "decord"
    flow: FlowCache | None = None
    ram: RamCache | None = None
    reducible: bool = False
    indexes: IndexStore = IN_MEMORY
    opened: dict[str, OpenSource] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)


class Kind(ABC):
    """One kind of source. A clip is one tensor [V, T, ...], as small as it is stored; it moves to the device as it is,
    and `Modality` prepares it there.

    Attributes:
        pictured: whether its items are pictures of `size`, of which a geometry is drawn; crops and flips of others
            change nothing, unless :meth:`cut` heeds them.
        made_of: the source it is computed from where a record brings none; "" for none.
    """

    pictured: ClassVar[bool] = False
    made_of: ClassVar[str] = ""

    @abstractmethod
    def open(self, name: str, record: Record, opening: Opening) -> OpenSource:
        """The source `name` of a record.

        Raises:
            NoSource: the record lacks it by nature. DecodeError: it can't be read.
        """

    def part(self, first: int, behind: int, frames: OpenSource, source: OpenSource) -> tuple[int, int]:
        """First item and item count of the part of a video from frame `first` to the one before `behind`."""
        return items_of(first, behind, frames, source)

    def windows(self, starts: np.ndarray, window: int, count: int) -> np.ndarray:
        """Items [V, T, L] of windows that begin at `starts` [V, T], among `count` items."""
        return window_indices(starts, window, count)

    @abstractmethod
    def cut(
        self,
        source: OpenSource,
        modalities: Sequence[Modality],
        indices: Mapping[str, np.ndarray],
        geometries: Sequence[Crop],
    ) -> dict[str, Tensor]:
        """{modality: clip [V * crops, T, ...]}, views ordered crop by crop, of the `modalities` that look at `source`.

        Args:
            indices: items of each modality, [V, T, L].
            geometries: one crop per view of a clip, drawn for the frames (or the first picture there is).

        Raises:
            DecodeError: an item can't be read.
        """

    @abstractmethod
    def segment(self, modality: Modality, size: Size) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape and type of one segment of a clip whose crops come out at `size`: what follows [V, T]."""

    def blank(self, modality: Modality, views: int, segments: int, size: Size) -> Tensor:
        """What stands in a batch for a clip that a sample lacks. Nothing looks at it: `present` is False."""
        shape, dtype = self.segment(modality, size)
        return torch.zeros(views, segments, *shape, dtype=dtype)

    def collate(self, clips: Sequence[Tensor]) -> Tensor:
        """Clips of B samples to one tensor [B, V, T, ...]."""
        return torch.stack(list(clips))


def media_of(name: str, record: Record) -> Media:
    """The file, or images, of a source.

    Raises:
        NoSource: the record names none.
    """
    if name not in record.media:
        raise NoSource(f"{record.id}: it has no {name}")
    return record.media[name]
