"""Sources of a sample: opened once per sample, shared by the modalities that look at them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from mml_lightning.data.flow.cache import FlowCache
from mml_lightning.data.loading.images import Flow, Frames
from mml_lightning.data.loading.kinds import Kind, Opening, OpenSource
from mml_lightning.data.loading.ram_cache import RamCache
from mml_lightning.data.loading.waveform import Waveform
from mml_lightning.data.records.records import Record
from mml_lightning.data.video.decode import IN_MEMORY, NoSource, check_decoder
from mml_lightning.data.video.index_store import IndexStore

SOURCES: dict[str, Kind] = {"frames": Frames(), "flow": Flow(), "audio": Waveform()}
"""In the order they are opened: what is made of others comes behind them."""


@dataclass(frozen=True)
class SourceOpener:
    """Opens the sources of a record.

    Args:
        decoder, flow, ram, reducible, indexes: as in :class:`mml_lightning.data.loading.kinds.Opening`.
        kinds: of every source that a run may look at, in the order they are opened.

    Raises:
        UserError: the decoder is unknown or not installed.
    """

    decoder: str = "decord"
    flow: FlowCache | None = None
    ram: RamCache | None = None
    reducible: bool = False
    indexes: IndexStore = IN_MEMORY
    kinds: Mapping[str, Kind] = field(default_factory=lambda: SOURCES)

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
            opening = Opening(self.decoder, self.flow, self.ram, self.reducible, self.indexes, {}, stack)
            absent: dict[str, NoSource] = {}
            # a span is placed by the clock of the frames
            wanted = {"frames", *names} if record.span is not None else set(names)
            for name, kind in self.kinds.items():
                if name not in wanted:
                    continue
                try:
                    opening.opened[name] = kind.open(name, record, opening)
                except NoSource as error:
                    absent[name] = error
            if absent and not (skip_absent and any(name in opening.opened for name in names)):
                raise next(iter(absent.values()))
            if record.span is not None and "frames" in absent:
                raise absent["frames"]
            yield opening.opened
