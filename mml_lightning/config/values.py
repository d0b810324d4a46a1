"""Values of the config that would fail late or oddly, checked before anything is built."""

from __future__ import annotations

from mml_lightning.config import backbones, limits
from mml_lightning.config.settings import Settings
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import FOLDER_NAME

LEAST: dict[str, tuple[type, float]] = {
    "seed": (int, 0),
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
    **{f"views.{key}": (int, 0) for key in ("uniform", "dense", "strided")},
    **{f"views.{key}": (int, 1) for key in ("dense_length", "stride", "crops")},
    "trainer.validations": (int, 1),
    "trainer.limit_epochs": (int, 1),
    "callbacks.speed_every_steps": (int, 1),
}
"""Numbers that would fail late or oddly: their kind and least value."""
NULLABLE = ("trainer.num_threads", "trainer.validations", "trainer.limit_epochs", "callbacks.speed_every_steps")
POSITIVE = ("loading.timeout", "loading.memory_gb", "loading.stall")
NAMES = ("name", "data.name", "backbone.name", "stage.name", "objective.name", "setup.name", "views.name")
SWITCHES = (
    "test",
    "init.new_head",
    "optimizer.fc_lr5",
    "optimizer.flow_stem_lr5",
    "logger.wandb",
    "callbacks.checkpoint",
    "callbacks.epoch_lines",
    "sampling.shared",
)


def check_values(cfg: Settings) -> None:
    """Raises:
    UserError: one of :data:`LEAST` is no number or too small, a switch is neither true nor false, or `name` can't name
        a folder.
    """
    for key in SWITCHES:
        value = cfg.get(key)
        if not isinstance(value, bool):
            raise UserError(f"{key}={value} must be true or false")
    for key in (*NAMES, *(f"backbone.{name}.name" for name in backbones.own(cfg))):
        value = cfg.get(key)
        if not isinstance(value, str) or not FOLDER_NAME.fullmatch(value):
            raise UserError(f"{key}={value!r} names a folder: use letters, digits and any of . _ + = , @ -")
    for key, (kind, least) in LEAST.items():
        value = cfg.get(key)
        if value is None and key in NULLABLE:
            continue
        kinds = (int,) if kind is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not value >= least:
            raise UserError(f"{key}={value} must be a {'whole ' if kind is int else ''}number from {least:g}")
    for key in POSITIVE:
        value = cfg.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
            raise UserError(f"{key}={value} must be a number above 0, or null")
    limits.check(cfg)
