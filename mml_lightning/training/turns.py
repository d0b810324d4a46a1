"""Phases that take turns, an epoch each: the optimiser and the schedule of each rest while the other learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl

from mml_lightning.training import lightning_internals
from mml_lightning.training.phases import Phase

KEY = "resting"  # in a checkpoint


class Turns:
    """What rests of the phases of a run. A phase that comes for the first time has a fresh optimiser and a schedule
    from its beginning; one that comes again goes on with its own.

    Attributes:
        again: whether the phase that was last changed to had been there before.
    """

    def __init__(self) -> None:
        self.again = False
        self._resting: dict[int, Any] = {}  # by the number of the phase: optimisers and schedules
        self._stored: dict[int, Any] = {}  # the same as a checkpoint has them

    def change(self, trainer: pl.Trainer, phases: Sequence[Phase], left: Phase, due: Phase) -> None:
        """Put aside the optimiser of the phase that was left, if it comes again, and take up that of the one due."""
        if left.stride > 1 and due.stride > 1:
            self._resting[phases.index(left)] = lightning_internals.optimizers_of(trainer)
        number = phases.index(due)
        kept, stored = self._resting.pop(number, None), self._stored.pop(number, None)
        self.again = kept is not None or stored is not None
        lightning_internals.renew_optimizer(trainer, kept)
        if stored is not None:
            lightning_internals.load_optimizers(trainer, stored)
        if due.stride == 1:
            self._resting.clear()
            self._stored.clear()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the phases that rest; nothing where none does."""
        own = {number: lightning_internals.states_of(kept) for number, kept in self._resting.items()}
        return {KEY: {**self._stored, **own}} if own or self._stored else {}

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Take over what rests from a checkpoint."""
        self._resting, self._stored = {}, dict(checkpoint.get(KEY, {}))
