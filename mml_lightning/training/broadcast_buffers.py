"""Buffers that ranks share."""

from __future__ import annotations

import pytorch_lightning as pl
import torch

from mml_lightning.training import peer_parallel


class SharedBuffers(pl.Callback):
    """Under DDP every rank measures with the first rank's buffers: batch norms see other videos on every rank, and the
    first rank's are the ones that are kept."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._share(trainer, pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._share(trainer, pl_module)

    def _share(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (placed := peer_parallel.strategy_of(trainer)) is not None:
            placed.share()
        elif trainer.world_size > 1:
            for buffer in pl_module.buffers():
                torch.distributed.broadcast(buffer, 0)
