"""`checkpoints/best.ckpt`: the whole state of a run where a monitored metric was best, beside the last one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from mml_lightning.training import checkpoints, lightning_internals, weight_average
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.monitored import Monitored, stopped_early
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.progress import counted

log = logging.getLogger(__name__)

BEST = "best.ckpt"


class BestCheckpoint(Checkpoint):
    """Writes :data:`BEST` at the end of every epoch whose metric is better than all before.

    It stands before :class:`checkpoints.Checkpoints`: a run that is killed between the two goes on from the older last
    checkpoint, and writes this one again.

    Args:
        folder: of the checkpoints.
        monitored: the metric; one of val counts in the epochs that measure val.

    Attributes:
        best: `value`, `epoch` (from 1) and `step` of the file; empty before there is one.
    """

    def __init__(self, folder: Path, monitored: Monitored) -> None:
        self.path, self.monitored = folder / BEST, monitored
        self.best: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"metric": self.monitored.metric, "mode": self.monitored.mode, "best": dict(self.best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if (state_dict["metric"], state_dict["mode"]) == (self.monitored.metric, self.monitored.mode):
            self.best = dict(state_dict["best"])
        elif state_dict["best"]:
            log.warning("best.ckpt was chosen by %s and is by %s from here on", state_dict["metric"], self.monitored)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Cohort)
        metric = self.monitored.metric
        if metric.startswith("val/") and pl_module.validated_at != trainer.global_step:
            return
        if metric not in trainer.callback_metrics:
            known = ", ".join(key for key in trainer.callback_metrics if "/" in key)
            raise UserError(f"checkpoint.monitor={metric} was not measured in this epoch; there are {known}")
        value = float(trainer.callback_metrics[metric])
        if not self.monitored.better(value, self.best.get("value")):
            return
        before = self.best
        self.best = {"value": value, "epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        trainer.save_checkpoint(self.path, weights_only=False)
        if trainer.strategy.broadcast(lightning_internals.write_failed(trainer)):
            self.best = before  # the file is still the one before, on every rank

    def described(self) -> dict[str, Any] | None:
        """What a result says of it; None before there is one."""
        return {"metric": self.monitored.metric, "mode": self.monitored.mode, **self.best} if self.best else None


def require_all_epochs(monitored: Monitored, before: Mapping[str, Any] | None, folder: Path, epochs: int) -> None:
    """Args:
        before: the callback's state in the checkpoint that a run goes on from; None where the run had none.
        folder: of its checkpoints.
        epochs: that it has done.

    Raises:
        UserError: the best weights are to be exported, and those of the epochs that are done can't be among them.
    """
    if before is None or (before["metric"], before["mode"]) != (monitored.metric, monitored.mode):
        if not epochs:
            return
        kept = "the run has kept no best checkpoint"
        kept = kept if before is None else f"it was kept by {before['metric']} ({before['mode']})"
        mend = "" if before is None else f"checkpoint.monitor={before['metric']} checkpoint.mode={before['mode']}, or "
        raise UserError(
            f"checkpoint.export=best by {monitored.metric} ({monitored.mode}): in the {counted(epochs, 'epoch')} that "
            f"{'is' if epochs == 1 else 'are'} done {kept}, so the best of all is not known; "
            f"resume with {mend}checkpoint.export=last"
        )
    if before["best"] and not (folder / BEST).is_file():
        raise UserError(
            f"{folder / BEST} is gone, and checkpoint.export=best may need it: resume with checkpoint.export=last"
        )


def of(trainer: pl.Trainer) -> BestCheckpoint | None:
    """The callback of a trainer that keeps a best checkpoint."""
    found = [one for one in trainer.callbacks if isinstance(one, BestCheckpoint)]  # type: ignore[attr-defined]
    return found[0] if found else None


def steered(trainer: pl.Trainer, exported: str) -> dict[str, Any]:
    """What a result says of early stopping and of the best checkpoint, null where there was none.

    Args:
        exported: which weights are, "best" or "last".
    """
    kept = of(trainer)
    return {
        "stopped_early": stopped_early(trainer),
        "checkpoint": None if kept is None else {"exported": exported, "best": kept.described()},
    }


def restore(trainer: pl.Trainer, cohort: Cohort) -> int:
    """Give the networks the weights of the best checkpoint; returns its step.

    Raises:
        UserError: there is none, or it can't be read.
    """
    kept = of(trainer)
    if kept is None or not kept.best:
        raise UserError(
            "checkpoint.export=best: no epoch had a finite metric, so there is no best checkpoint; "
            "resume the run with checkpoint.export=last"
        )
    try:
        content = checkpoints.read(kept.path)
    except (OSError, ValueError) as error:
        raise UserError(f"{kept.path} can't be used ({error}): resume the run with checkpoint.export=last") from None
    if content["global_step"] != kept.best["step"]:
        raise UserError(
            f"{kept.path} is of step {content['global_step']} and should be of step {kept.best['step']}: "
            "resume the run with checkpoint.export=last"
        )
    cohort.load_state_dict(content["state_dict"])
    if weight_average.of(trainer) is not None:
        weight_average.put(cohort, content["callbacks"][weight_average.KEY]["averages"])
    if cohort.validated_at != content["global_step"]:
        cohort.validated_at = None
    if trainer.is_global_zero:
        told = (kept.best["step"], kept.monitored.metric, kept.best["value"])
        log.info("the best weights are measured and exported: those of step %d, with %s %.4g", *told)
    return int(content["global_step"])
