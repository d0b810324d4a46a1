"""Settings that were typed and that this job does nothing with are refused by name. Imports no torch.

What stands in a file, or has come from an earlier run, is not looked at: only a person who types a setting expects
something of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mml_lightning.config.known_keys import read_by_reader
from mml_lightning.config.lightning_nodes import nodes
from mml_lightning.config.saved_overrides import key_of
from mml_lightning.config.settings import Settings
from mml_lightning.utils.errors import UserError


@dataclass(frozen=True)
class Belongs:
    """Settings of a thing that a job may not have.

    Args:
        keys: the settings, or tables of them.
        lacks: whether a job lacks the thing.
        switches: what chooses the thing. Where one is typed beside them, as in a sweep over it, nothing is said.
        why: what is lacking, and what to type.
    """

    keys: tuple[str, ...]
    lacks: Callable[[Settings], bool]
    switches: tuple[str, ...]
    why: str


def _mixes(cfg: Settings) -> bool:
    return cfg.get("mix.mixup") is not None or cfg.get("mix.cutmix") is not None


def _starts_fresh(cfg: Settings) -> bool:
    return {cfg.init.base, *map(str, cfg.init.peers.values())} == {"scratch"}


OF_TRAINING: tuple[Belongs, ...] = (
    Belongs(
        ("pipeline.dry", "pipeline.jobs"),
        lambda cfg: not cfg.is_pipeline and (cfg.pipeline.dry or cfg.pipeline.jobs != 1),
        (),
        "this is a single run, which would train: choose pipeline=..., experiment=... or seeds=..., or leave it out",
    ),
    Belongs(
        ("resume_force",),
        lambda cfg: not cfg.resume and cfg.resume_force,
        (),
        "nothing is resumed: type resume=<run directory> too",
    ),
    Belongs(("catalogue",), lambda cfg: not cfg.tables, (), "no table refers to its runs: choose experiment=..."),
    Belongs(("ema.weights",), lambda cfg: cfg.ema.decay is None, ("ema", "ema.decay"), "set ema.decay=0.999 too"),
    Belongs(
        ("mix.probability",),
        lambda cfg: not _mixes(cfg),
        ("mix", "mix.mixup", "mix.cutmix"),
        "set mix.mixup=0.2 or mix.cutmix=1.0 too",
    ),
    Belongs(
        ("balance.alpha", "balance.noise"),
        lambda cfg: cfg.balance.name != "ogm_ge",
        ("balance", "balance.name"),
        "no gradient is modulated: set balance=ogm_ge too",
    ),
    Belongs(
        ("balance.curves",),
        lambda cfg: cfg.balance.name != "gblend",
        ("balance", "balance.name"),
        "nothing is blended: set balance=gblend too",
    ),
    Belongs(
        ("fusion.threshold", "fusion.joint"),
        lambda cfg: cfg.fusion.gate != "random",
        ("fusion", "fusion.gate"),
        "nothing is drawn: set fusion.gate=random too",
    ),
    Belongs(
        ("fusion.policy", "fusion.proxy"),
        lambda cfg: cfg.fusion.gate != "policy",
        ("fusion", "fusion.gate"),
        "no policy decides: choose fusion=adamml too",
    ),
    Belongs(
        ("fusion.hidden", "fusion.dropout"),
        lambda cfg: (cfg.fusion.rule or cfg.fusion.name) != "fc2",
        ("fusion", "fusion.name", "fusion.rule"),
        "no layers are learned: choose fusion=fc2 too",
    ),
    Belongs(
        ("fusion.weight_decay",),
        lambda cfg: (cfg.fusion.rule or cfg.fusion.name) not in ("weighted", "class_weighted", "fc2"),
        ("fusion", "fusion.name", "fusion.rule"),
        "nothing is learned: choose fusion=weighted, class_weighted or fc2 too",
    ),
    Belongs(
        ("fusion.gate", "fusion.renormalise", "fusion.rule"),
        lambda cfg: cfg.fusion.name == "none",
        ("fusion", "fusion.name"),
        "outputs are not fused: choose fusion=average or another one",
    ),
    Belongs(
        ("checkpoint.mode",),
        lambda cfg: cfg.checkpoint.monitor is None and cfg.checkpoint.export == "last" and not nodes(cfg, "callbacks"),
        ("checkpoint", "checkpoint.monitor", "checkpoint.export", "callbacks"),
        "nothing is monitored: set checkpoint.monitor=... too",
    ),
    Belongs(
        ("checkpoint.monitor",),
        lambda cfg: not cfg.callbacks.checkpoint and not nodes(cfg, "callbacks"),
        (),
        "no checkpoint is kept: leave out callbacks=none or callbacks.checkpoint=false",
    ),
    Belongs(
        ("callbacks.checkpoint_every_steps", "callbacks.checkpoint_every_minutes"),
        lambda cfg: not cfg.callbacks.checkpoint,
        ("callbacks.checkpoint",),
        "no checkpoint is kept: set callbacks.checkpoint=true too",
    ),
    Belongs(
        ("nonfinite.stop_after", "nonfinite.keep_batch"),
        lambda cfg: cfg.get("nonfinite.policy") == "ignore",
        (),
        "leave out nonfinite.policy=ignore",
    ),
    Belongs(
        ("init.file", "init.new_head", "init.copies"),
        _starts_fresh,
        ("init", "init.base", "init.all"),
        "all networks start from random weights: choose init=...",
    ),
    Belongs(
        ("flow",),
        lambda cfg: not any(modality.get("source") == "flow" for modality in cfg.modality.values()),
        ("modality",),
        "no network looks at it: choose modality=[rgb,flow]",
    ),
)
ALWAYS: tuple[Belongs, ...] = (
    Belongs(
        ("data.cache_mb",),
        lambda cfg: cfg.data.cache == "none",
        ("data.cache",),
        "no video is kept: set data.cache=ram",
    ),
    Belongs(
        ("logger.project", "logger.entity", "logger.mode"),
        lambda cfg: not cfg.logger.wandb,
        ("logger", "logger.wandb"),
        "set logger=wandb too",
    ),
    Belongs(
        ("views.dense_length",),
        lambda cfg: cfg.views.dense == 0,
        ("views", "views.dense"),
        "there is no dense clip: set views.dense=1 too",
    ),
    Belongs(
        ("views.stride",),
        lambda cfg: cfg.views.strided + cfg.views.segments == 0,
        ("views", "views.strided", "views.segments"),
        "there is no strided clip: set views.strided=1 too",
    ),
)
UNREAD_BY_EVAL = (
    *("pipeline", "catalogue", "resume", "resume_force", "seeds", "test", "placement"),
    *("nonfinite", "callbacks.checkpoint", "callbacks.checkpoint_every_steps", "callbacks.checkpoint_every_minutes"),
    *("callbacks.speed_every_steps", "trainer.accumulate_grad_batches", "trainer.limit_epochs", "trainer.validations"),
    *("trainer.limit_train_batches", "trainer.limit_val_batches", "trainer.max_steps", "trainer.max_time"),
)
"""Settings of a training that no measurement asks for."""
UNREAD_OF_FILES = (
    *("batch_norm", "checkpoint", "data.batch_size", "ema", "init", "loss", "mix", "objective", "optimizer", "phases"),
    *("repeat", "schedule", "stage", "balance"),
)
"""And those by which an alias finds the networks that were trained with them: a file is what it is."""
WEIGHTS = (".pt", ".ckpt")


def check(cfg: Settings, typed: Sequence[str], sweep: bool = False) -> None:
    """Args:
        typed: overrides that were typed for this job.
        sweep: whether it is one of several, which return what is monitored.

    Raises:
        UserError: one of them does nothing here.
    """
    words = [word for word in typed if not word.startswith("~")]
    keys = list(dict.fromkeys(map(key_of, words)))
    if unread := next((key for key in keys if key.startswith("data.") and not read_by_reader(cfg, key)), None):
        raise UserError(f"{unread} does nothing here: the reader of data={cfg.data.name} does not ask for it")
    if cfg.measures_only:
        _check_measurement(cfg, keys)
    elif cfg.is_pipeline:
        return  # each of its runs has settings of its own
    rules = ALWAYS if cfg.measures_only else (*OF_TRAINING, *ALWAYS)
    for rule in rules:
        found = next((key for key in keys if _below(key, rule.keys)), None)
        if found is None or any(_below(key, rule.switches) for key in keys if key not in rule.keys):
            continue
        if not (sweep and found.startswith("checkpoint.")) and rule.lacks(cfg):
            raise UserError(f"{found} does nothing here: {rule.why}")


def _check_measurement(cfg: Settings, keys: Sequence[str]) -> None:
    given = str(cfg.ckpt)
    of_file = "/" in given or given.endswith(WEIGHTS)
    unread = (*UNREAD_BY_EVAL, *(UNREAD_OF_FILES if of_file else ()))
    called = tuple(f"callbacks.{name}" for name in nodes(cfg, "callbacks"))
    for key in keys:
        if _below(key, (*unread, *called)):
            raise UserError(f"{key} is of the training, and an evaluation does nothing with it: leave it out")
        if key == "callbacks" and called:
            raise UserError(f"{called[0]} takes part in trainings only: leave it out of callbacks=...")


def _below(key: str, tables: Sequence[str]) -> bool:
    return any(f"{key}.".startswith(f"{table}.") for table in tables)
