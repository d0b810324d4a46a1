"""What a run is steered by: the metrics that `checkpoint` and callbacks monitor, known before it trains."""

from __future__ import annotations

import difflib
import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mml_lightning.config import lightning_nodes, limits
from mml_lightning.config.instantiate import LIGHTNING, lies_in
from mml_lightning.config.settings import Settings
from mml_lightning.config.targets import TARGET, current
from mml_lightning.data.records.records import Dataset, rows
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.monitored import Monitored, metrics_of, mode_of
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.progress import counted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Monitors:
    """What was settled before a run.

    Args:
        objective: the metric that the run returns to a sweep.
        best: the metric of the best checkpoint; None where none is kept.
        callbacks: nodes of the config, monitors and modes filled in.
        told: lines for the plan.
    """

    objective: Monitored
    best: Monitored | None
    callbacks: Mapping[str, Mapping[str, Any]]
    told: tuple[str, ...]

    def measured(self, *metrics: Mapping[str, Any]) -> dict[str, Any]:
        """The objective for `result.json`; its value is that of the first `metrics` that have it, null where none
        does."""
        found = next((float(one[self.objective.metric]) for one in metrics if self.objective.metric in one), None)
        return {"metric": self.objective.metric, "mode": self.objective.mode, "value": found}


def settle(cfg: Settings, cohort: Cohort, data: Dataset) -> Monitors:
    """Every metric that is monitored, where none is named the first of val.

    Raises:
        UserError: a metric that the run does not have, `checkpoint.export=best` without checkpoints, or a callback
            that may not be called.
    """
    known, nodes = metrics_of(cohort, limits.measures(cfg, "val")), lightning_nodes.nodes(cfg, "callbacks")
    wanted = cfg.checkpoint
    kept = wanted.monitor is not None or wanted.export == "best"
    own = [name for name, node in nodes.items() if not lies_in(current(str(node[TARGET])), LIGHTNING)]
    choose = functools.partial(_chosen, known=known, own=own)
    usual = choose("checkpoint", wanted.monitor, wanted.mode)
    if wanted.export == "best" and not cfg.callbacks.checkpoint:
        raise UserError("checkpoint.export=best needs checkpoints, and callbacks.checkpoint=false writes none")
    kept = kept and cfg.callbacks.checkpoint
    guessed = " (guessed)" if wanted.monitor is None else ""
    told = [f"best.ckpt by {usual}{guessed}; the {wanted.export} weights are exported"] if kept else []
    if cfg.ema.decay is not None:
        told.append(f"ema.decay={cfg.ema.decay:g}: the {cfg.ema.weights} weights are measured and exported")
    filled = {}
    for name, node in nodes.items():
        takes = lightning_nodes.parameters(cfg, node)
        filled[name] = dict(node)
        if {"monitor", "mode"} <= takes and (node.get("monitor") or name == "early_stopping" or _stops(node)):
            key = f"callbacks.{name}"
            one = choose(key, node.get("monitor"), node.get("mode"), usual=usual)
            filled[name] |= {"monitor": one.metric, "mode": one.mode}
            if one.metric.startswith("train/") and "check_on_train_epoch_end" in takes:
                filled[name].setdefault("check_on_train_epoch_end", True)  # when it is known
            told.append(f"{key} by {one}{'' if node.get('monitor') else ' (guessed)'}")
            _check_pace(cfg, key, filled[name], takes, usual if kept else None)
    if (kept or filled) and cfg.test and (same := _common(data)):
        told.append(f"{same}: a choice by val is then a choice by the reported numbers")
    return Monitors(usual, usual if kept else None, filled, tuple(told))


def _common(data: Dataset) -> str:
    """Whether val and test have videos in common, in words; nothing where they have none."""
    val, test = ({str(row[1]) for row in rows(data.splits.get(split, ()))} for split in ("val", "test"))
    if not val & test:
        return ""
    return "val is the test split" if val == test else f"{len(val & test)} of {len(val)} videos of val are in test too"


def _check_pace(cfg: Settings, key: str, node: Mapping[str, Any], takes: set[str], best: Monitored | None) -> None:
    """Say of what stops a run early if it can't.

    Args:
        node: with its monitor. takes: what it may have. best: the metric of the best checkpoint, if one is kept.

    Raises:
        UserError: it looks where nothing is measured, or ends a run where what is best is not.
    """
    every, metric = limits.validation_interval(cfg), node["monitor"]
    after_epochs = "check_on_train_epoch_end" in takes and bool(node.get("check_on_train_epoch_end"))
    seldom = f"val is measured after every {counted(every, 'epoch')} only: set trainer.validations=null"
    if after_epochs and every > 1 and metric.startswith("val/"):
        raise UserError(f"{key}.check_on_train_epoch_end=true asks for {metric} after every epoch, and {seldom}")
    if after_epochs and every > 1 and best is not None and best.metric.startswith("val/"):
        raise UserError(f"{key} by {metric} may end the run where {best.metric} is not known, and {seldom}")
    patience = node.get("patience", 3)  # Lightning's own
    measured = limits.validations(cfg) if metric.startswith("val/") else limits.epochs(cfg)
    if "patience" in takes and isinstance(patience, int) and measured < patience + 2:
        few = f"trainer.validations={cfg.trainer.validations}" if measured < limits.epochs(cfg) else "its epochs"
        log.warning(
            "%s can't end this run early: patience=%d needs at least %d measurements of %s for that, and there are %d "
            "(%s); lower the patience%s",
            *(key, patience, patience + 2, metric, measured, few),
            ", or set trainer.validations=null" if measured < limits.epochs(cfg) else "",
        )


def _stops(node: Mapping[str, Any]) -> bool:
    return str(node[TARGET]).rpartition(".")[2] == "EarlyStopping"


def _chosen(
    key: str, metric: str | None, mode: str | None, known: list[str], own: list[str], usual: Monitored | None = None
) -> Monitored:
    """Args:
    own: callbacks that are none of Lightning's: they may log metrics that nobody knows before.
    usual: what is monitored where nothing is named.
    """
    if mode not in (None, "max", "min"):
        raise UserError(f"{key}.mode={mode} is unknown; use max, min, or null, which goes by the metric's name")
    if metric is None:
        return usual if usual is not None and mode is None else Monitored(known[0], mode or mode_of(known[0]))
    if str(metric).startswith("test/"):
        raise UserError(
            f"{key}.monitor={metric}: the test split is not evaluated during training; use one of {_list(known)}"
        )
    if metric not in known:
        alike = difflib.get_close_matches(str(metric), known, n=1, cutoff=0.7)
        meant = f"did you mean {alike[0]}? " if alike else ""
        if not own:
            raise UserError(f"{key}.monitor={metric} is not a metric of this run; {meant}there are {_list(known)}")
        log.warning(
            "%s.monitor=%s is not a built-in metric (%s): does %s log it?", key, metric, meant, " or ".join(own)
        )
    if mode is not None and mode != mode_of(metric):
        log.warning("%s.mode=%s: %s is usually better %s", key, mode, metric, "higher" if mode == "min" else "lower")
    return Monitored(str(metric), mode or mode_of(metric))


def _list(known: list[str]) -> str:
    return ", ".join(known)
