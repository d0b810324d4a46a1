"""Videos that can't be read: noted, and too many end the run."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from mml_lightning.utils.distributed import gather_objects
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import write_atomically

log = logging.getLogger(__name__)


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
                "%s was modified after the run started, with the same size: it is read as it is now; others may be",
                batch["written"][0],
            )
        new = {video: reason for video, reason in batch["failures"] if video not in self.reasons}
        if not new:
            return
        self.reasons |= new
        if trainer.world_size == 1:
            for reason in new.values():
                log.warning("unreadable video, replaced by another: %s", reason)
            self._check(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1:  # ranks see different videos; they tell each other, and stop together
            told = gather_objects((self.reasons, self.damaged), trainer.world_size)
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
                log.warning("%s is damaged: %s; it is used up to the damage", video, loss)
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
            used = {video: f"used up to the damage: {loss}" for video, loss in self.damaged.items()}
            writer.writerows(sorted((used | self.reasons).items()))
