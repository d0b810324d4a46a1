"""What a run logs of a step now and then: the learning rate of every parameter group, the gradient norm of every peer.

No device is waited for: a norm is copied while the device goes on, and read in the next step after its backward pass.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from mml_lightning.training import lightning_internals, peer_parallel
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.phases import column
from mml_lightning.utils.async_copy import HostCopy


class StepLog(pl.Callback):
    """Rows `lr/<peer>/<group>` and `grad_norm/<peer>`, the norm before clipping, in the steps whose loss is logged.

    It stands before what changes gradients (:class:`mml_lightning.training.nonfinite_gradients.NonFinite`).
    """

    def __init__(self) -> None:
        self._waiting: tuple[Cohort, int, dict[str, float], list[str], HostCopy] | None = None

    def state_dict(self) -> dict[str, Any]:
        self._write()  # what a checkpoint is preceded by is written
        return {}

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert isinstance(pl_module, Cohort)
        if (trainer.global_step + 1) % pl_module.log_every:
            return
        rates = {f"lr/{group['name']}": float(group["lr"]) for group in optimizer.param_groups if "name" in group}
        rates |= {"epoch": float(pl_module.current_epoch), **column(pl_module.phases, pl_module.phase)}
        norms = [gradient_norm(peer, pl_module.device) for peer in pl_module.trained_peers.values()]
        together = torch.stack(norms)
        if (placed := peer_parallel.strategy_of(trainer)) is not None:  # a rank has the gradients of its own peer only
            together = placed.agree(together)
        self._waiting = (
            pl_module,
            lightning_internals.steps_logged(trainer),
            rates,
            list(pl_module.trained_peers),
            HostCopy(together),
        )

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write()  # before the rows of val and of the epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write()

    def _write(self) -> None:
        if self._waiting is None:
            return
        (cohort, step, row, peers, norms), self._waiting = self._waiting, None
        row |= {f"grad_norm/{name}": norm for name, norm in zip(peers, norms.tolist(), strict=True)}
        for logger in cohort.loggers:
            logger.log_metrics(row, step=step)
            logger.save()


def gradient_norm(peer: torch.nn.Module, device: torch.device) -> Tensor:
    """The 2-norm of all gradients of a network, float32 scalar on its device; 0 where it has none."""
    gradients = [parameter.grad for parameter in peer.parameters() if parameter.grad is not None]
    if not gradients:
        return torch.zeros((), device=device)
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2.0))).float()  # type: ignore[arg-type]
