"""What the training step asks of a strategy under which every rank trains one peer."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import pytorch_lightning as pl

from mml_lightning.backbones.peer import PeerOutput


@runtime_checkable
class OnePeer(Protocol):
    """Such a strategy; :class:`.peer_parallel.OnePeerPerRank` is one, and knows the module that asks."""

    @property
    def own(self) -> str:
        """The peer of this rank."""

    def exchange(self, output: PeerOutput) -> dict[str, PeerOutput]:
        """What every peer says of the batch: `output` is the own one's; of the others logits without gradient."""


def one_peer(trainer: pl.Trainer) -> OnePeer | None:
    """The strategy of `trainer` if it is one."""
    strategy: object = trainer.strategy
    return strategy if isinstance(strategy, OnePeer) else None
