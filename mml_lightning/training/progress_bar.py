"""The bar of a terminal while a run trains and measures."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.progress import Progress

from mml_lightning.utils.terminal import bar

EVERY = 0.2  # seconds between pictures: each reads the loss, for which a GPU stands still


class TrainingBar(ProgressBar):
    """One line: epoch, steps, loss, time left; while the peers are validated or tested, that. It leaves no line."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Progress | None = None
        self._enabled = True
        self._drawn = 0.0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._begin(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", self.total_train_batches)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is None:  # validated within the epoch
            self.on_train_epoch_start(trainer)
        if self._is_due():
            loss = self.get_metrics(trainer, pl_module).get("loss")
            self._draw(batch_idx + 1, f"loss {loss:.3f}" if isinstance(loss, float) else "")

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._begin("validation", sum(trainer.num_val_batches))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._is_due():
            self._draw(batch_idx + 1)

    def on_test_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._begin("test", sum(trainer.num_test_batches))

    on_test_batch_end = on_validation_batch_end

    def on_train_end(self, *_: Any) -> None:
        self._end()

    def on_validation_end(self, *_: Any) -> None:
        self._end()

    def on_test_end(self, *_: Any) -> None:
        self._end()

    def on_exception(self, *_: Any) -> None:
        self._end()

    def teardown(self, *_: Any, **__: Any) -> None:
        self._end()

    def _begin(self, what: str, total: float) -> None:
        self._end()
        if self._enabled:
            self._bar = bar(sys.stdout)
            self._bar.start()
            self._bar.add_task(what, total=total, more="")
            self._bar.refresh()

    def _is_due(self) -> bool:
        return self._bar is not None and time.monotonic() - self._drawn >= EVERY

    def _draw(self, done: int, more: str = "") -> None:
        if self._bar is not None:
            self._drawn = time.monotonic()
            self._bar.update(self._bar.task_ids[0], completed=done, more=more, refresh=True)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
