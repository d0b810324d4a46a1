"""What cuts a run short, told before it starts and after it has ended; and which settings of the trainer are ours.

A limited run shows that something works. Its networks stay in its own directory: no alias finds them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mml_lightning.config.settings import Settings
from mml_lightning.utils.errors import UserError

if TYPE_CHECKING:
    import pytorch_lightning as pl

BATCHES = ("limit_train_batches", "limit_val_batches", "limit_test_batches")
EXTRAS = ("max_steps", "max_time", "benchmark", "detect_anomaly", "inference_mode", "profiler")
"""Settings of Lightning's Trainer that may be added with a plus."""
INSTEAD = {
    "fast_dev_run": "use trainer=smoke",
    "overfit_batches": "use trainer.limit_train_batches=..., or data with as few videos",
    "max_epochs": "use schedule.epochs=..., or trainer.limit_epochs=... for the first ones only",
    "min_epochs": "use schedule.epochs=...",
    "min_steps": "use schedule.epochs=...",
    "callbacks": "use callbacks=..., and its settings callbacks.<name>=...",
    "logger": "use logger=..., and its settings logger.<name>=...",
    "plugins": "use trainer.precision and trainer.strategy; checkpoints have a writer of their own",
    "gradient_clip_val": "use optimizer.clip_norm=..., which clips each peer separately",
    "gradient_clip_algorithm": "use optimizer.clip_norm=..., which clips each peer separately",
    "check_val_every_n_epoch": "use trainer.validations=... (number of validations in total)",
    "val_check_interval": "use trainer.validations=... (number of validations in total)",
    "num_sanity_val_steps": "use mml check, which reads all data in advance",
    "log_every_n_steps": "logs/metrics.csv has a row for every tenth step; for speed use callbacks.speed_every_steps",
    "enable_checkpointing": "use callbacks.checkpoint=false",
    "enable_progress_bar": "use callbacks.progress_bar=...",
    "enable_model_summary": "remove it: the plan lists the peers and their sizes",
    "use_distributed_sampler": "remove it: batches are already split over the ranks",
    "sync_batchnorm": "use batch_norm.sync=true",
    "default_root_dir": "use paths.root=..., or hydra.run.dir=... for one run",
    "reload_dataloaders_every_n_epochs": "remove it: every epoch is already sampled anew",
    "barebones": "use callbacks=none logger=none",
    "limit_predict_batches": "use trainer.limit_test_batches; eval.py evaluates and saves the scores",
    "enable_autolog_hparams": "remove it: loggers get the whole config",
    "model_registry": "remove it: networks go to the zoo (paths.zoo)",
}


def check(cfg: Settings) -> None:
    """Raises:
    UserError: a setting of the trainer that ours would contradict or that nobody knows, a limit of the wrong kind, or
        limits that leave no step.
    """
    trainer = cfg.plain("trainer")
    for key in map(str, trainer):
        if key in INSTEAD:
            raise UserError(f"trainer.{key} conflicts with what a run sets itself: {INSTEAD[key]}")
        if key not in OURS and key not in EXTRAS:
            raise UserError(
                f"unknown setting trainer.{key}; there are {', '.join(OURS)}; +trainer. takes {_words(EXTRAS)}"
            )
    for key in BATCHES:
        least = 1 if key == BATCHES[0] else 0
        value = trainer.get(key)
        if value is not None and not _is_limit(value, least):
            told = "no training step (for evaluation use eval.py): " if value == 0 else ""
            raise UserError(f"trainer.{key}={value}: {told}use a whole number from {least}, a share up to 1.0, or null")
    steps = trainer.get("max_steps", -1)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps == 0 or steps < -1:
        raise UserError(f"trainer.max_steps={steps} must be a whole number from 1: without a step nothing is trained")


OURS = (
    *("accelerator", "devices", "strategy", "num_nodes", "precision", "accumulate_grad_batches", "deterministic"),
    *("limit_epochs", *BATCHES, "validations", "num_threads"),
)


def _words(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def _is_limit(value: Any, least: int) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value >= least if isinstance(value, int) else (0 < value <= 1 or (value == 0 and least == 0))


def epochs(cfg: Settings) -> int:
    """How many will be trained: those of the schedule, or its first ones (`trainer.limit_epochs`)."""
    planned = int(cfg.schedule.epochs)
    return planned if cfg.trainer.limit_epochs is None else min(planned, int(cfg.trainer.limit_epochs))


def validation_interval(cfg: Settings) -> int:
    """Epochs from one validation to the next: `trainer.validations` of them at most, the end among them."""
    planned = epochs(cfg)
    return math.ceil(planned / (cfg.trainer.validations or planned))


def validations(cfg: Settings) -> int:
    """How often a whole run measures val."""
    return math.ceil(epochs(cfg) / validation_interval(cfg)) if measures(cfg, "val") else 0


def batches(cfg: Settings, videos: int) -> int:
    """Batches of an epoch: all, or as many as `trainer.limit_train_batches` leaves."""
    every, limit = videos // int(cfg.data.batch_size), cfg.trainer.limit_train_batches
    if limit is None:
        return every
    return min(every, limit) if isinstance(limit, int) else int(every * limit)


def declared(cfg: Settings, videos: int) -> list[str]:
    """Settings that will cut the training of a run on so many videos short, in words.

    Raises:
        UserError: they leave no step.
    """
    every, left = videos // int(cfg.data.batch_size), batches(cfg, videos)
    if every and not left:
        raise UserError(
            f"trainer.limit_train_batches={cfg.trainer.limit_train_batches} leaves none of {every} batches: no "
            "training step; raise it"
        )
    found = []
    if left < every:
        found.append(f"trainer.limit_train_batches={cfg.trainer.limit_train_batches}")
    if epochs(cfg) < int(cfg.schedule.epochs):
        found.append(f"trainer.limit_epochs={cfg.trainer.limit_epochs}")
    steps = cfg.trainer.max_steps
    parts = int(cfg.trainer.accumulate_grad_batches)
    if steps != -1 and steps < epochs(cfg) * math.ceil(left / parts):
        found.append(f"trainer.max_steps={steps}")
    return found


def trained(
    cfg: Settings, trainer: pl.Trainer, videos: int, stopped: bool = False, out_of_time: bool = False
) -> list[str]:
    """What has cut a training short that has ended, in words; nothing of a whole one.

    Args:
        stopped: by early stopping, which is a part of the recipe.
        out_of_time: whether a timer of Lightning's has run out.

    Raises:
        UserError: no step was made.
    """
    if not trainer.global_step:
        raise UserError(
            "no training step was made, nothing is exported; raise trainer.max_time or whatever ended the run"
        )
    found = declared(cfg, videos)
    if not found and not stopped and (trainer.should_stop or trainer.current_epoch < int(cfg.schedule.epochs)):
        found = [time_limit(cfg) if out_of_time else "stopped early"]
    return found


def time_limit(cfg: Settings) -> str:
    """The setting that limits the time of a training: `trainer.max_time`, or a timer among the callbacks."""
    if cfg.trainer.max_time:
        return f"trainer.max_time={cfg.trainer.max_time}"
    callbacks = {key: node for key, node in cfg.plain("callbacks").items() if is_timer(node)}
    return next((f"callbacks.{key}.duration={node.get('duration')}" for key, node in callbacks.items()), "its timer")


def is_timer(node: Any) -> bool:
    """Whether a node of `callbacks` calls Lightning's timer."""
    return isinstance(node, Mapping) and str(node.get("_target_")).endswith(".callbacks.Timer")


def measures(cfg: Settings, split: str) -> bool:
    """Whether val or test is measured at all: a limit of no batch leaves it out, and nothing is kept of it."""
    return bool(cfg.trainer.limit(split) != 0)


def check_share(cfg: Settings, split: str, batches: int) -> None:
    """Raises:
    UserError: a share of the `batches` of val or test that leaves none of them.
    """
    share = cfg.trainer.limit(split)
    if isinstance(share, float) and 0 < share < 1 and not int(share * batches):
        raise UserError(
            f"trainer.limit_{split}_batches={share} leaves none of {batches} {'batch' if batches == 1 else 'batches'}; "
            "raise it, or use 0 to skip it"
        )


def measured(
    cfg: Settings, counts: dict[str, dict[str, int]], unreadable: dict[str, Any], loop: str | None = None
) -> list[str]:
    """Settings that left videos of val or test unmeasured: they change no weight, but the numbers.

    Args:
        counts: {split: {"videos": measured, "of": all}}. unreadable: {split: those that can't be read}.
        loop: "test" where every split was measured by that loop of Lightning, as eval.py does.
    """
    found = []
    for split, count in counts.items():
        limit = cfg.trainer.limit(loop or split)
        if limit is not None and count["videos"] + len(unreadable.get(split) or ()) < count["of"]:
            found.append(f"trainer.limit_{loop or split}_batches={limit}")
    return found
