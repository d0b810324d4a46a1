"""Says where a run stands that no longer moves."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytorch_lightning as pl

from mml_lightning.utils.progress import format_duration

log = logging.getLogger(__name__)

LOOKS = 20  # per `seconds`


class Watchdog(pl.Callback):
    """One line of every rank when no batch has begun or ended for a while: epoch, step and the videos that are read.

    It ends nothing: a slow disk and a debugger look the same from here. Looks are counted, not the clock, so that the
    time in which a run is suspended does not count.

    Args:
        seconds: between two lines of a run that stands still.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._where = "the start"
        self._beats = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(trainer, self._ended), daemon=True, name="watchdog")
        self._thread.start()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._ended.set()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._ended.set()

    def _look(self, trainer: pl.Trainer, ended: threading.Event) -> None:
        looks, beats = 0, self._beats
        while not ended.wait(self.seconds / LOOKS):
            looks, beats = (looks + 1, beats) if beats == self._beats else (0, self._beats)
            if looks >= LOOKS:
                looks = 0
                log.error(self.line(trainer))

    def line(self, trainer: pl.Trainer) -> str:
        """What is said."""
        data: Any = getattr(trainer, "datamodule", None)
        reading = data.reading() if data is not None else []
        told = f"being read: {', '.join(reading)}" if reading else "no video is being read"
        return f"rank {trainer.global_rank} is stuck for {format_duration(self.seconds)} at {self._where}; {told}"

    def _beat(self, where: str) -> None:
        self._where, self._beats = where, self._beats + 1

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._beat(f"epoch {trainer.current_epoch + 1}, step {batch_idx + 1} (training)")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._beat(f"epoch {trainer.current_epoch + 1}, after step {batch_idx + 1} (training)")

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._beat(f"epoch {trainer.current_epoch + 1}, batch {batch_idx + 1} of val")

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._beat(f"epoch {trainer.current_epoch + 1}, after batch {batch_idx + 1} of val")

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._beat(f"batch {batch_idx + 1} of test")

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._beat(f"after batch {batch_idx + 1} of test")
