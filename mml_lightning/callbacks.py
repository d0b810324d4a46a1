"""What a run says and keeps while it trains."""

from __future__ import annotations

import csv
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from mml_lightning import placement
from mml_lightning.errors import UserError
from mml_lightning.files import write_atomically
from mml_lightning.progress import clock, position
from mml_lightning.throughput import Throughput

log = logging.getLogger(__name__)


class SharedBuffers(pl.Callback):
    """Under DDP every rank measures with the first rank's buffers: batch norms see other videos on every rank, and the
    first rank's are the ones that are kept."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._share(trainer, pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._share(trainer, pl_module)

    def _share(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (placed := placement.of(trainer)) is not None:
            placed.share()
        elif trainer.world_size > 1:
            for buffer in pl_module.buffers():
                torch.distributed.broadcast(buffer, 0)


class EpochLines(pl.Callback):
    """One line per epoch: losses, validation accuracy of every peer, speed, time left; and one now and then in between.

    Args:
        every: seconds between the lines within an epoch or a test; None for none.
        now: the clock, in seconds.
    """

    def __init__(self, every: float | None = 30.0, now: Callable[[], float] = time.monotonic) -> None:
        self.every = every
        self.now = now
        self.started = self.said = 0.0
        self.first = 0.0  # epochs that were done before

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = self.said = self.now()
        within = trainer.fit_loop.epoch_loop.batch_progress.current.ready if trainer.fit_loop.restarting else 0
        self.first = trainer.current_epoch + within / max(1.0, float(trainer.num_training_batches))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        steps = float(trainer.num_training_batches)
        if not self._due():
            return
        done = trainer.current_epoch - self.first + (batch_idx + 1) / steps
        left = (self.now() - self.started) / done * ((trainer.max_epochs or 0) - self.first - done)
        where = position(trainer.current_epoch, trainer.max_epochs, batch_idx, steps)
        self._say(trainer, f"{where}  |  {clock(left)} left")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epochs, done = trainer.max_epochs or 0, trainer.current_epoch + 1
        per_epoch = (self.now() - self.started) / max(done - self.first, 1e-9)
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        terms = [
            f"{key.removeprefix('train/')} {value:.3f}"
            for key, value in sorted(metrics.items())
            if key.startswith("train/") and key.count("/") == 2
        ]
        scores = [
            f"{key.split('/')[-2]} {value:.1f}"
            for key, value in metrics.items()
            if key.startswith("val/") and key.endswith(("/top1", "/map"))
        ]
        val = f"  |  val {'  '.join(scores) or '-'}" if done % (trainer.check_val_every_n_epoch or 1) == 0 else ""
        self._say(
            trainer,
            f"epoch {done}/{epochs}  {'  '.join(terms)}{val}"
            f"  |  {_speed(trainer)}{per_epoch:.1f} s/epoch, {clock(per_epoch * (epochs - done))} left",
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
            self._say(trainer, f"measuring  step {batch_idx + 1}/{steps:.0f}  |  {clock(left)} left")

    def _due(self) -> bool:
        return self.every is not None and self.now() - self.said >= self.every

    def _say(self, trainer: pl.Trainer, line: str) -> None:
        self.said = self.now()
        if trainer.is_global_zero:
            log.info(line)


def _speed(trainer: pl.Trainer) -> str:
    """Of the epoch, where it is measured: `41 clips/s (2% waiting for data), `."""
    found = next((one.of_epoch() for one in trainer.callbacks if isinstance(one, Throughput)), None)  # type: ignore[attr-defined]
    return "" if found is None else f"{found[0]:.3g} clips/s ({found[1]:.0%} waiting for data), "


class Quarantine(pl.Callback):
    """Names every unreadable training video in `quarantine.csv`; too large a share of them stops the run.

    Args:
        path: the file; written when there is something to name.
        videos: size of the training split.
        max_share: share of the training split that may be unreadable.
        left_out: reasons by id of videos that a check found unusable: named and counted like those found in training.
    """

    def __init__(self, path: Path, videos: int, max_share: float, left_out: Mapping[str, str] | None = None) -> None:
        self.path, self.videos, self.max_share = path, videos, max_share
        self.reasons: dict[str, str] = dict(left_out or {})
        self.damaged: dict[str, str] = {}  # read as far as they decode
        self._told = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.reasons and trainer.is_global_zero:
            self.write()

    def state_dict(self) -> dict[str, Any]:
        return {"reasons": dict(self.reasons), "damaged": dict(self.damaged)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.reasons |= state_dict["reasons"]
        self.damaged |= state_dict.get("damaged", {})

    def rank_state(self) -> dict[str, Any]:
        """Within an epoch every rank knows what it has met itself."""
        return self.state_dict()

    def load_rank_states(self, states: Sequence[dict[str, Any]]) -> None:
        for state in states:
            self.load_state_dict(state)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._note_damaged(trainer, batch)
        if batch.get("written") and not self._told:
            self._told = True
            log.warning(
                "%s was written since the run began, and has the size of before: it is read as it is now; "
                "others may be",
                batch["written"][0],
            )
        new = {video: reason for video, reason in batch["failures"] if video not in self.reasons}
        if not new:
            return
        self.reasons |= new
        if trainer.world_size == 1:
            for reason in new.values():
                log.warning("unreadable video, replaced by another one: %s", reason)
            self._check(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1:  # ranks see different videos; they tell each other, and stop together
            told: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(told, (self.reasons, self.damaged))
            self.reasons = {video: reason for reasons, _ in told for video, reason in reasons.items()}
            self.damaged = {video: loss for _, damaged in told for video, loss in damaged.items()}
            if self.reasons or self.damaged:
                self._check(trainer)

    def _note_damaged(self, trainer: pl.Trainer, batch: Any) -> None:
        new = {
            video: loss
            for video, kind, loss in batch.get("notes", ())
            if kind == "damaged" and video not in self.damaged
        }
        self.damaged |= new
        if new and trainer.world_size == 1:
            for video, loss in new.items():
                log.warning("%s is damaged: %s; it is used as far as it decodes", video, loss)
            self.write()

    def _check(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            self.write()
        if len(self.reasons) > self.max_share * self.videos:
            raise UserError(
                f"{len(self.reasons)} of {self.videos} training videos are unreadable, more than data.max_bad_share="
                f"{self.max_share}; see {self.path}, repair them or raise the share"
            )

    def write(self) -> None:
        with write_atomically(self.path, newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["id", "reason"])
            used = {video: f"used as far as it decodes: {loss}" for video, loss in self.damaged.items()}
            writer.writerows(sorted((used | self.reasons).items()))


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
                "%s: %d videos are measured as far as they decode, first %s: %s", split, len(damaged), video, loss
            )
