"""What a run says and keeps while it trains."""

from __future__ import annotations

import csv
import logging
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from mml_lightning.cohort import Cohort
from mml_lightning.errors import UserError

log = logging.getLogger(__name__)


def clock(seconds: float) -> str:
    """1:05 or 2:03:04."""
    minutes, second = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"


class EpochLines(pl.Callback):
    """One line per epoch: losses, validation accuracy of every peer, speed, time left."""

    def __init__(self) -> None:
        self.started = 0.0
        self.first_epoch = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.monotonic()
        self.first_epoch = trainer.current_epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        epochs = trainer.max_epochs or 0
        done = trainer.current_epoch + 1
        elapsed = time.monotonic() - self.started
        per_epoch = elapsed / max(1, done - self.first_epoch)
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        terms = "  ".join(
            f"{k.removeprefix('train/')} {v:.3f}"
            for k, v in sorted(metrics.items())
            if k.startswith("train/") and k.count("/") == 2
        )
        scores = "  ".join(
            f"{k.split('/')[-2]} {v:.1f}"
            for k, v in metrics.items()
            if k.startswith("val/") and k.endswith(("/top1", "/map"))
        )
        log.info(
            "epoch %d/%d  %s  |  val %s  |  %.1f s/epoch, %s left",
            done,
            epochs,
            terms,
            scores or "-",
            per_epoch,
            clock(per_epoch * (epochs - done)),
        )


class Quarantine(pl.Callback):
    """Names every unreadable training video in `quarantine.csv`; too large a share of them stops the run.

    Args:
        path: the file; written when there is something to name.
        videos: size of the training split.
        max_share: share of the training split that may be unreadable.
    """

    def __init__(self, path: Path, videos: int, max_share: float) -> None:
        self.path, self.videos, self.max_share = path, videos, max_share
        self.reasons: dict[str, str] = {}
        self.replaced = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Cohort)
        if not pl_module.failures:
            return
        new = [(video, reason) for video, reason in dict(pl_module.failures).items() if video not in self.reasons]
        self.replaced += len(pl_module.failures)
        pl_module.failures.clear()
        self.reasons.update(new)
        if new and trainer.is_global_zero:
            for _, reason in new:
                log.warning("unreadable video, replaced by another one: %s", reason)
            self.write()
        if len(self.reasons) > self.max_share * self.videos:
            raise UserError(
                f"{len(self.reasons)} of {self.videos} training videos are unreadable, more than data.max_bad_share="
                f"{self.max_share}; see {self.path}, repair them or raise the share"
            )

    def write(self) -> None:
        with self.path.open("w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["id", "reason"])
            writer.writerows(sorted(self.reasons.items()))
