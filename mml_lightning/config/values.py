"""Values of the config that would fail late or oddly, checked before anything is built. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from mml_lightning.config import backbones, known_keys, lightning_nodes, limits, phases
from mml_lightning.config.settings import Settings
from mml_lightning.utils.errors import UserError, check_choice
from mml_lightning.utils.files import FOLDER_NAME

LEAST: dict[str, tuple[type, float]] = {
    "seed": (int, 0),
    "balance.alpha": (float, 0),
    "fusion.hidden": (int, 1),
    "fusion.weight_decay": (float, 0),
    "fusion.threshold": (float, 0),
    "fusion.dropout": (float, 0),
    "repeat": (int, 0),
    "stage.copies": (int, 1),
    "schedule.epochs": (int, 1),
    "optimizer.lr": (float, 0),
    "optimizer.weight_decay": (float, 0),
    "data.batch_size": (int, 1),
    "data.eval_batch_size": (int, 1),
    "data.workers": (int, 0),
    "data.max_bad_share": (float, 0),
    "data.cache_mb": (int, 0),
    "trainer.accumulate_grad_batches": (int, 1),
    "trainer.num_threads": (int, 1),
    "sampling.num_segments": (int, 1),
    "sampling.dense_length": (int, 1),
    "sampling.stride": (int, 1),
    "transforms.output": (int, 1),
    "transforms.short_side": (int, 1),
    **{f"sampling.{key}": (int, 1) for key in ("clips", "val_clips")},
    **{f"views.{key}": (int, 0) for key in ("uniform", "dense", "strided", "segments")},
    **{f"views.{key}": (int, 1) for key in ("dense_length", "stride", "crops")},
    "pipeline.jobs": (int, 1),
    "trainer.validations": (int, 1),
    "trainer.limit_epochs": (int, 1),
    "callbacks.speed_every_steps": (int, 1),
}
"""Numbers that would fail late or oddly: their kind and least value."""
NULLABLE = (
    "fusion.weight_decay",
    "trainer.num_threads",
    "trainer.validations",
    "trainer.limit_epochs",
    "callbacks.speed_every_steps",
)
ABSENT_NUMBERS = (
    *("sampling.clips", "sampling.val_clips", "views.segments"),
    *("balance.alpha", "fusion.hidden", "fusion.weight_decay", "fusion.threshold", "fusion.dropout"),
)  # not in every config
CHOICES: dict[str, tuple[str, ...]] = {
    "balance.name": ("none", "ogm_ge", "gblend"),
    "batch_norm.freeze": ("none", "partial", "stats", "all"),
    "checkpoint.export": ("last", "best"),
    "data.cache": ("none", "ram"),  # what becomes of decoded videos
    "data.decoder": ("decord", "pyav"),
    "data.interval_ends": ("inclusive", "exclusive"),
    "data.labels": ("clip", "video"),  # what a training target tells where labels are timed
    "data.missing": ("error", "mask"),
    "data.quarantine": ("use", "ignore"),
    "ema.weights": ("averaged", "trained"),
    "loss.class_weights": ("none", "sqrt", "linear", "inverse"),
    "logger.mode": ("auto", "online", "offline"),
    "nonfinite.policy": ("skip", "stop", "ignore"),
    "optimizer.groups": ("tsn", "slowfast", "plain"),
    "placement": ("shared", "peer"),
    "sampling.mode": ("uniform", "dense", "random", "strided", "segments"),
    "sampling.policy": ("code", "paper", "fixed"),
    "schedule.interval": ("epoch", "step"),
    "split": ("val", "test"),
    "step.memory_format": ("auto", "contiguous", "channels_last"),
    "transforms.mode": ("multiscale", "inverse_uniform", "uniform_jitter"),
    "transforms.policy": ("code", "paper", "fixed"),
    "transforms.reduced_decode": ("never", "auto"),
    "views.crop_rule": ("fixed", "tsm", "slowfast"),
    "views.ensemble": ("probs", "logits"),
    "views.policy": ("code", "paper", "fixed"),
    "views.pooling": ("logits", "probs", "max"),
}
"""Words that are chosen from a list; what builds on them has the same lists (tests/config/test_values.py)."""
ABSENT = object()
POSITIVE = ("loading.timeout", "loading.memory_gb", "loading.stall", "optimizer.clip_norm")
NAMES = ("data.name", "backbone.name", "stage.name", "objective.name", "setup.name", "views.name", "name")
SWITCHES = (
    "test",
    "init.new_head",
    "optimizer.fc_lr5",
    "optimizer.flow_stem_lr5",
    "logger.wandb",
    "callbacks.checkpoint",
    "callbacks.epoch_lines",
    "sampling.shared",
    "sampling.bn_per_clip",
    *("balance.noise", "fusion.joint"),
    "pipeline.ahead",
)


SHIFTS = (True, False, "online")  # of backbones of ours: mml_lightning.backbones.temporal_shift.shifts_online
OURS = "mml_lightning.backbones."
ABSENT_SWITCHES = (
    *("balance.noise", "fusion.joint"),
    "sampling.bn_per_clip",
    "logger.wandb",
    "callbacks.checkpoint",
    "callbacks.epoch_lines",
    "pipeline.ahead",
)  # not in every config


def check_values(cfg: Settings) -> None:
    """Raises:
    UserError: a setting is unknown, one of :data:`LEAST` is no number or too small, a switch is neither true nor
        false, a word is not one of :data:`CHOICES`, `name` can't name a folder, or a phase is wrong.
    """
    known_keys.check(cfg)
    _check_values(cfg)
    phases.check(cfg)
    for number, phase in enumerate(cfg.phases):
        try:
            _check_values(phases.settings_of_phase(cfg, number))
        except UserError as error:
            raise UserError(f"phases.{number} ({phase.name}): {error}") from None


def _check_values(cfg: Settings) -> None:
    for key in SWITCHES:
        value = cfg.get(key, ABSENT)
        if not isinstance(value, bool) and not (value is ABSENT and key in ABSENT_SWITCHES):
            raise UserError(f"{key}={value} must be true or false")
    for key in (*NAMES, *(f"backbone.{name}.name" for name in backbones.own(cfg))):
        value = cfg.get(key)
        if not isinstance(value, str) or not FOLDER_NAME.fullmatch(value):
            raise UserError(f"{key}={value!r} must be a folder name: use letters, digits and any of . _ + = , @ -")
    for key, (kind, least) in LEAST.items():
        value = cfg.get(key, ABSENT if key in ABSENT_NUMBERS else None)
        if (value is None and key in NULLABLE) or value is ABSENT:
            continue
        kinds = (int,) if kind is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not value >= least:
            raise UserError(f"{key}={value} must be a {'whole ' if kind is int else ''}number from {least:g}")
    for key in POSITIVE:
        value = cfg.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
            raise UserError(f"{key}={value} must be a number above 0, or null")
    _check_shift(cfg)
    _check_mix(cfg)
    decay = cfg.ema.decay
    if decay is not None and (isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 < decay < 1):
        raise UserError(f"ema.decay={decay} must be a number between 0 and 1, or null")
    if decay is not None and cfg.placement == "peer":
        raise UserError("ema.decay needs placement=shared: with placement=peer no rank has all weights")
    for key, known in CHOICES.items():
        if (value := cfg.get(key, ABSENT)) is not ABSENT:  # some are keys of some options only
            check_choice(key, value, known)
    limits.check(cfg)
    lightning_nodes.check(cfg)
    _check_averages(cfg)


def _check_averages(cfg: Settings) -> None:
    if cfg.ema.decay is not None and cfg.get("batch_norm.precise"):
        raise UserError("batch_norm.precise measures the trained weights, and ema.decay averages them: leave out one")


def _check_shift(cfg: Settings) -> None:
    for word in ("backbone", *(f"backbone.{name}" for name in backbones.own(cfg))):
        net = cfg.get(f"{word}.net")
        if not isinstance(net, Mapping) or not str(net.get("_target_")).startswith(OURS):
            continue
        if net.get("shift", True) not in SHIFTS:
            raise UserError(f"{word}.net.shift={net['shift']} is unknown; use true, false or online")
        for key in ("nonlocal_blocks", "temporal_pool"):
            if net.get("shift") == "online" and net.get(key):
                raise UserError(f"{word}.net.shift=online: {word}.net.{key} looks at later frames; set it to false")


def _check_mix(cfg: Settings) -> None:
    used = [key for key in ("mix.mixup", "mix.cutmix") if cfg.get(key) is not None]
    for key, most in [*((key, float("inf")) for key in used), ("mix.probability", 1.0)]:
        value = cfg.get(key, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
            raise UserError(f"{key}={value} must be a number above 0{' up to 1' if most == 1 else ', or null'}")


def check_job(cfg: Settings) -> None:
    """What can be known to be wrong with a job before torch is imported.

    Raises:
        UserError: a value is wrong, or the stage of a single run does not fit its modalities.
    """
    check_values(cfg)
    if not cfg.measures_only and not cfg.declares_runs:
        check_stage(cfg)


def check_stage(cfg: Settings) -> None:
    """Raises:
    UserError: a stage has too few modalities, or lessons and one network.
    """
    chosen, stage = list(cfg.modality), cfg.stage
    if not chosen:
        raise UserError("modality=[] is empty; use modality=[rgb]")
    if len(chosen) < int(stage.modalities):
        raise UserError(
            f"stage={stage.name} needs two or more modalities (have {chosen}): modality=[rgb,flow]; "
            "for one use stage=ml"
        )
    several = len(chosen) * int(stage.copies) > 1
    if not several and (cfg.objective.edges or any(phase.objective.get("edges") for phase in cfg.phases)):
        raise UserError(
            f"objective={cfg.objective.name} needs two peers, the run has one; use stage=ml, or objective=cross_entropy"
        )
