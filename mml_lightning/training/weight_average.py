"""Exponential moving averages of the weights of every network that learns.

After each step of the optimiser a <- d a + (1 - d) w for parameters and floating buffers; other buffers are copied. d
grows to `decay` as (1 + n) / (10 + n) over the first steps n, so that the first weights are forgotten. The device is
never waited for. Source: Polyak and Juditsky, 1992; the growing decay as in the moving averages of TensorFlow.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from mml_lightning.training import lightning_internals
from mml_lightning.training.cohort import Cohort

KEY = "AverageWeights"


class AverageWeights(pl.Callback):
    """Keeps the averages; val is measured with them where they are `used`.

    Args:
        decay: of the averages, below 1.
        used: whether they, and not the trained weights, are measured and exported.
    """

    def __init__(self, decay: float, used: bool = True) -> None:
        self.decay, self.used = decay, used
        self.updates = 0
        self.averages: dict[str, Tensor] = {}
        self._trained: dict[str, Tensor] = {}  # while the averages stand in their place

    @property
    def state_key(self) -> str:
        return KEY

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "averages": dict(self.averages)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates, self.averages = state_dict["updates"], dict(state_dict["averages"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        now = own_tensors(pl_module)
        kept = self.averages or now
        self.averages = {name: kept[name].detach().to(value.device, copy=True) for name, value in now.items()}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if lightning_internals.accumulates(trainer):
            return
        share = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        now = own_tensors(pl_module)
        floats = [name for name, value in now.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.averages[n] for n in floats], [now[n] for n in floats], share)
        for name in now.keys() - set(floats):
            self.averages[name].copy_(now[name])

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.used and trainer.state.fn == "fit":
            self._trained = {name: value.detach().clone() for name, value in own_tensors(pl_module).items()}
            put(pl_module, self.averages)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._trained:
            put(pl_module, self._trained)
            self._trained = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Within a validation the networks hold the averages: a checkpoint has the trained weights all the same."""
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **self._trained}


def own_tensors(module: pl.LightningModule) -> dict[str, Tensor]:
    """Parameters and buffers of what learns in some phase, by their names in the module."""
    assert isinstance(module, Cohort)
    learn = tuple(f"peers.{name}." if name in module.peers else f"{name}." for name in module.learners)
    return {name: value for name, value in module.state_dict(keep_vars=True).items() if name.startswith(learn)}


@torch.no_grad()
def put(module: pl.LightningModule, values: dict[str, Tensor]) -> None:
    """Give the networks other values."""
    for name, value in own_tensors(module).items():
        value.copy_(values[name])


def of(trainer: pl.Trainer) -> AverageWeights | None:
    """The callback of a trainer that averages weights which are to be measured and exported."""
    found = [one for one in trainer.callbacks if isinstance(one, AverageWeights) and one.used]  # type: ignore[attr-defined]
    return found[0] if found else None
