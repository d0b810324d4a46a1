"""Callbacks and loggers that a config calls: `callbacks.<name>: {_target_: ...}` and `logger.<name>: {_target_: ...}`.

They are Lightning's own, or of a trusted package. Imports no torch until one is made.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from mml_lightning.config import instantiate
from mml_lightning.config.groups import GROUPS
from mml_lightning.config.settings import Settings
from mml_lightning.config.targets import TARGET, current
from mml_lightning.utils.errors import UserError

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from pytorch_lightning.loggers import Logger

NEEDS = {"TensorBoardLogger": ("tensorboard", "tensorboard"), "MLFlowLogger": ("mlflow", "mlflow")}
"""Loggers of Lightning: the module that they import, and the extra of this package that brings it."""
OURS = {
    "ModelSummary": "leave it out: the plan names the peers and their sizes",
    "RichModelSummary": "leave it out: the plan names the peers and their sizes",
    "WandbLogger": "use logger=wandb, which continues its record after a resume",
    "StochasticWeightAveraging": "use ema.decay=0.999; this callback changes the schedule and the length of a run",
    "CSVLogger": "leave it out: logs/metrics.csv is always written, and exact after a resume",
}
"""Classes of Lightning whose part something of ours has."""

STEERS = {
    "EarlyStopping": True,
    "GradientAccumulationScheduler": True,
    "Timer": True,
    **dict.fromkeys(("LearningRateMonitor", "DeviceStatsMonitor", "RichProgressBar", "TQDMProgressBar"), False),
}
"""Callbacks of Lightning that write nothing, so that files may name them, and whether they change weights."""


def nodes(cfg: Settings, group: str) -> dict[str, dict[str, Any]]:
    """What a group calls, by name, as plain values."""
    own = {field.name for field in fields(GROUPS[group])}
    found = {str(key): value for key, value in cfg.plain(group).items() if str(key) not in own}
    return {key: dict(value) for key, value in found.items() if isinstance(value, Mapping) and TARGET in value}


def check(cfg: Settings) -> None:
    """Raises:
    UserError: a callback or logger is one of :data:`OURS`, or what it imports is not installed; `checkpoint` has a
        monitor that is no name, or an unknown mode.
    """
    kept = cfg.checkpoint
    if kept.mode not in (None, "max", "min"):
        raise UserError(
            f"checkpoint.mode={kept.mode} is unknown; use max, min, or null, which goes by the metric's name"
        )
    if not isinstance(kept.monitor, str | None):
        raise UserError(f"checkpoint.monitor={kept.monitor} must be the name of a metric, as val/rgb/top1, or null")
    if len(cfg.phases) > 1 and kept.export == "best":
        raise UserError("checkpoint.export=best could take the networks of an early phase: leave it out with phases")
    for group in ("callbacks", "logger"):
        for name, node in nodes(cfg, group).items():
            target = current(str(node[TARGET]))
            if len(cfg.phases) > 1 and target.endswith(".EarlyStopping"):
                raise UserError(f"{group}.{name} could end the run before its last phase: leave it out with phases")
            if not instantiate.lies_in(target, instantiate.LIGHTNING):
                continue
            last = target.rpartition(".")[2]
            if last in OURS:
                raise UserError(f"{group}.{name}.{TARGET}={target}: {OURS[last]}")
            module, extra = NEEDS.get(last, ("", ""))
            if module and importlib.util.find_spec(module) is None:
                raise UserError(f"logger.{name} needs {module}: pip install 'mml_lightning[{extra}]'")


def callbacks(cfg: Settings, filled: Mapping[str, Mapping[str, Any]]) -> list[pl.Callback]:
    """The callbacks that a config calls.

    Args:
        filled: their nodes as :func:`mml_lightning.engine.monitors.fill` gives them.

    Raises:
        UserError: one can't be made, or is no callback.
    """
    from pytorch_lightning import Callback

    return [_made(cfg, f"callbacks.{name}", node, Callback) for name, node in filled.items()]


def loggers(cfg: Settings) -> list[Logger]:
    """The loggers that a config calls.

    Raises:
        UserError: one can't be made, or is no logger.
    """
    from pytorch_lightning.loggers import Logger

    return [_made(cfg, f"logger.{name}", node, Logger) for name, node in nodes(cfg, "logger").items()]


def parameters(cfg: Settings, node: Mapping[str, Any]) -> set[str]:
    """The names of what the class of a node takes.

    Raises:
        UserError: it may not be called, or can't be found.
    """
    found = instantiate.trusted_object(str(node[TARGET]), (*instantiate.LIGHTNING, *cfg.trusted))
    try:
        return set(inspect.signature(found).parameters)
    except (TypeError, ValueError):  # of something else than a class or function; making it will tell
        return set()


def _made(cfg: Settings, key: str, node: Mapping[str, Any], kind: type[Any]) -> Any:
    try:
        made = instantiate.instantiate(node, (*instantiate.LIGHTNING, *cfg.trusted))
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    if not isinstance(made, kind):
        raise UserError(f"{key}.{TARGET}={node[TARGET]} is a {type(made).__name__}, not a {kind.__name__} of Lightning")
    return made
