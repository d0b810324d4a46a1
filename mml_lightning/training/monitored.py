"""Metrics that a run can be steered by: their names before it has any, which way is better, and early stopping."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, Timer
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason

from mml_lightning.evaluation.metrics import FUSED, measure, pool_peers
from mml_lightning.training.cohort import Cohort

log = logging.getLogger(__name__)

HIGHER = ("top1", "top5", "mean_class", "map", "map_weighted", "map_samples")
"""Last words of metrics of which more is better; of all others (losses, calibration errors) less is."""


@dataclass(frozen=True)
class Monitored:
    """A metric and which way is better: "max" or "min"."""

    metric: str
    mode: str

    def better(self, value: float, than: float | None) -> bool:
        """A NaN is never better, and any number is better than none."""
        if value != value or than is None:
            return value == value
        return value > than if self.mode == "max" else value < than

    def __str__(self) -> str:
        return f"{self.metric}, {'higher' if self.mode == 'max' else 'lower'} is better"


def mode_of(metric: str) -> str:
    """Which way a metric of this name is better."""
    return "max" if metric.rpartition("/")[2] in HIGHER else "min"


def metrics_of(cohort: Cohort, val: bool) -> list[str]:
    """Names of the metrics that a run has while it trains, those of val first.

    Args:
        val: whether val is measured.
    """
    return [*(_of_val(cohort) if val else ()), *_of_train(cohort)]


def _of_val(cohort: Cohort) -> Iterator[str]:
    """By measuring two videos that nobody has seen."""
    for head, multi_label in cohort.multi_label.items():
        prefix = "val" if len(cohort.multi_label) == 1 else f"val/{head}"
        classes = {name: int(peer.num_classes[head]) for name, peer in cohort.peers.items()}  # type: ignore[union-attr,index,operator]
        logits = {name: torch.randn(2, 1, count) for name, count in classes.items()}
        if cohort.fusion is not None:
            logits[FUSED] = next(iter(logits.values())).clone()
        count = next(iter(classes.values()))
        target = torch.eye(count, dtype=torch.int64)[:2] if multi_label else torch.tensor([0, min(1, count - 1)])
        found = measure(pool_peers(logits, multi_label, cohort.scoring), target, multi_label, cohort.scoring)
        for peer, metrics in found.items():
            yield from (f"{prefix}/{peer}/{metric}" for metric in metrics)


def _of_train(cohort: Cohort) -> Iterator[str]:
    yield "train/loss"
    names: list[str] = []
    labelled = dict.fromkeys(name for phase in cohort.phases for name in phase.objective.labels)
    learners = dict.fromkeys(name for phase in cohort.phases for name in phase.objective.learners)
    edges = [edge for phase in cohort.phases for edge in phase.objective.edges]
    if cohort.modulation is not None:
        names += [f"train/{name}/balance" for name in cohort.learners if name in cohort.peers]
    for head, multi_label in cohort.multi_label.items():
        suffix = "" if len(cohort.multi_label) == 1 else f"_{head}"
        names += [f"train/{peer}/{'bce' if multi_label else 'ce'}{suffix}" for peer in labelled]
        names += [f"train/{edge.student}/{edge.term}{suffix}" for edge in edges]
        if not multi_label:
            own = "" if len(cohort.multi_label) == 1 else f"{head}/"
            names += [f"train/{peer}/{own}top1" for peer in learners]
    yield from dict.fromkeys(names)


def stays_stopped(trainer: pl.Trainer, checkpoint: dict[str, Any]) -> bool:
    """Whether early stopping had ended the run of a checkpoint, and would by the settings of now.

    The patience is that of now: Lightning's callback would go on with the one of the checkpoint, which is changed here.
    """
    stopped = False
    for callback in _early(trainer):
        state = checkpoint.get("callbacks", {}).get(callback.state_key)
        if state is None:
            continue
        reason = state.get("stopping_reason", EarlyStoppingReason.PATIENCE_EXHAUSTED.value)  # of earlier Lightnings
        ended = "stopped_early" in checkpoint and reason != EarlyStoppingReason.NOT_STOPPED.value
        if state["patience"] != callback.patience:
            told = (callback.monitor, state["patience"], callback.patience, state["wait_count"])
            log.warning("early stopping by %s had patience %s and has %s now; %s measurements brought nothing", *told)
            state["patience"] = callback.patience
            if ended and reason == EarlyStoppingReason.PATIENCE_EXHAUSTED.value:
                ended = state["wait_count"] >= callback.patience
                if not ended:
                    state |= {"stopping_reason": EarlyStoppingReason.NOT_STOPPED.value, "stopping_reason_message": None}
        stopped |= ended
    return stopped


def _early(trainer: pl.Trainer) -> list[EarlyStopping]:
    return [one for one in trainer.callbacks if isinstance(one, EarlyStopping)]  # type: ignore[attr-defined]


def out_of_time(trainer: pl.Trainer) -> bool:
    """Whether a timer (`trainer.max_time`, or a callback) has ended the training."""
    timers = [one for one in trainer.callbacks if isinstance(one, Timer)]  # type: ignore[attr-defined]
    left = [seconds for timer in timers if (seconds := timer.time_remaining()) is not None]
    return trainer.should_stop and min(left, default=1.0) <= 0


def stopped_early(trainer: pl.Trainer) -> str | None:
    """Why early stopping has ended the training, in Lightning's words; None where it has not."""
    for callback in _early(trainer):
        if callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
            told = str(callback.stopping_reason_message or callback.stopping_reason.name.lower())
            return told.removesuffix(" Signaling Trainer to stop.")
    return None
