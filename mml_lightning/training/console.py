"""What a run says while it trains: a line per epoch."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from mml_lightning.training import lightning_internals
from mml_lightning.training.throughput import Throughput
from mml_lightning.utils.progress import format_duration, position

log = logging.getLogger(__name__)

MOST = 50  # lines of epochs, but for those that come after a long pause
PAUSES = 50  # a pause is long that takes this part of the time so far: a few hundred lines for a run of weeks


class EpochLines(pl.Callback):
    """One line per epoch: losses, validation accuracy of every peer, speed, time left; and one now and then in between.
    Of more than 50 epochs only some have a line: `logs/metrics.csv` has all.

    Args:
        every: seconds between the lines within an epoch or a test, more of them the longer it lasts; None for none.
        now: the clock, in seconds.
    """

    def __init__(self, every: float | None = 30.0, now: Callable[[], float] = time.monotonic) -> None:
        self.every = every
        self.now = now
        self.started = self.said = 0.0
        self.first = 0.0  # epochs that were done before

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = self.said = self.now()
        within = lightning_internals.batches_begun(trainer) if trainer.fit_loop.restarting else 0
        self.first = trainer.current_epoch + within / max(1.0, float(trainer.num_training_batches))
        if (stride := _stride(trainer)) > 1 and trainer.is_global_zero:
            log.info("epochs    a line for every %d epochs, all in logs/metrics.csv", stride)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        steps = float(trainer.num_training_batches)
        if not self._due():
            return
        done = trainer.current_epoch - self.first + (batch_idx + 1) / steps
        left = (self.now() - self.started) / done * ((trainer.max_epochs or 0) - self.first - done)
        where = position(trainer.current_epoch, trainer.max_epochs, batch_idx, steps)
        self._say(trainer, f"{where}  |  {format_duration(left)} left")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epochs, done = trainer.max_epochs or 0, trainer.current_epoch + 1
        if not (_told(trainer, done) or self._paused()):
            return
        per_epoch = (self.now() - self.started) / max(done - self.first, 1e-9)
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        terms = [
            f"{key.removeprefix('train/')} {value:.3f}"
            for key, value in sorted(metrics.items())
            if key.startswith("train/") and key.count("/") == 2 and not key.endswith("/top1")
        ]
        scores = [
            f"{key.split('/')[-2]} {value:.1f}"
            for key, value in metrics.items()
            if key.startswith("val/") and key.endswith(("/top1", "/map"))
        ]
        validated = done % (trainer.check_val_every_n_epoch or 1) == 0 or done == epochs
        val = f"  |  val {'  '.join(scores) or '-'}" if validated else ""
        self._say(
            trainer,
            f"epoch {done}/{epochs}  {'  '.join(terms)}{val}"
            f"  |  {_speed(trainer)}{per_epoch:.1f} s/epoch, {format_duration(per_epoch * (epochs - done))} left",
        )

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = self.said = self.now()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._due():
            steps = float(sum(trainer.num_test_batches))
            left = (self.now() - self.started) / (batch_idx + 1) * (steps - batch_idx - 1)
            self._say(trainer, f"test  step {batch_idx + 1}/{steps:.0f}  |  {format_duration(left)} left")

    def _due(self) -> bool:
        return self.every is not None and self._paused()

    def _paused(self) -> bool:
        now = self.now()
        return now - self.said >= max(self.every or 30.0, (now - self.started) / PAUSES)

    def _say(self, trainer: pl.Trainer, line: str) -> None:
        self.said = self.now()
        if trainer.is_global_zero:
            log.info(line)


def _stride(trainer: pl.Trainer) -> int:
    return max(1, -(-(trainer.max_epochs or 0) // MOST))


def _told(trainer: pl.Trainer, done: int) -> bool:
    """Whether the epoch has a line: some of many, the first, the last, and the validated ones where those are few."""
    epochs, validated = trainer.max_epochs or 0, trainer.check_val_every_n_epoch or 1
    few = epochs <= MOST * validated and done % validated == 0
    return few or done in (1, epochs) or done % _stride(trainer) == 0


def _speed(trainer: pl.Trainer) -> str:
    """Of the epoch, where it is measured: `41 clips/s (2% waiting for data), `."""
    found = next((one.of_epoch() for one in trainer.callbacks if isinstance(one, Throughput)), None)  # type: ignore[attr-defined]
    return "" if found is None else f"{found[0]:.3g} clips/s ({found[1]:.0%} waiting for data), "


class ReadersTold(pl.Callback):
    """Says once for training, and once for each measuring, how many videos another reader than the wanted one has read,
    and why."""

    def __init__(self, decoder: str) -> None:
        self.decoder, self.found, self.said = decoder, dict[str, dict[str, str]](), set[str]()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._note("train", batch)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._note("val", batch)

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._note("test", batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._say(trainer, "train")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._say(trainer, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._say(trainer, "test")

    def _note(self, split: str, batch: Any) -> None:
        if split in self.said:
            return
        for video, kind, note in batch.get("notes", ()):
            self.found.setdefault(f"{split} {kind}", {})[video] = note

    def _say(self, trainer: pl.Trainer, split: str) -> None:
        """What the first rank has seen; the others see videos of the same kinds."""
        if split in self.said or trainer.sanity_checking:
            return
        self.said.add(split)
        if not trainer.is_global_zero:
            return
        if read := self.found.get(f"{split} pyav"):
            kinds = ", ".join(f"{note}: {count}" for note, count in Counter(read.values()).most_common(4))
            log.info(
                "%s: PyAV reads %d video%s, where data.decoder=%s is not proven exact (%s); docs/exactness.md",
                *(split, len(read), "" if len(read) == 1 else "s", self.decoder, kinds),
            )
        if split != "train" and (damaged := self.found.get(f"{split} damaged")):
            video, loss = min(damaged.items())
            log.warning(
                "%s: %d damaged videos are evaluated up to the damage, first %s: %s", split, len(damaged), video, loss
            )
