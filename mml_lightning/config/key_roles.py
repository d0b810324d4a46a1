"""What a key of the config means: one table, read by fingerprints, resume, estimates, reports and pipelines.

A key that is not here (a user's own, or one of a reader) decides weights: what is not known to be harmless is not.
A key of conf/ must be here. The longest prefix counts.
"""

from __future__ import annotations

import re
from enum import Flag, auto


class Role(Flag):
    """What changes with a value."""

    COSMETIC = 0
    """No number: where things are read and written, what is said, which runs a job consists of."""
    WEIGHTS = auto()
    """The weights of a stage: it is part of their fingerprint."""
    SPEED = auto()
    """The time of a training step, or the wait for data."""
    MEASUREMENT = auto()
    """What is measured after training: two results compare if it is equal."""
    RESUMABLE = auto()
    """Weights, but a resumed run may change it: how long, where, and where its first weights came from long ago."""
    MACHINE = auto()
    """Where and how a stage was computed, not what: an alias takes a network whatever it was."""
    SAME_ROW = auto()
    """No number of a table: runs that differ in it stand in one row."""


COSMETIC, WEIGHTS, SPEED, MEASUREMENT = Role.COSMETIC, Role.WEIGHTS, Role.SPEED, Role.MEASUREMENT
RESUMABLE, MACHINE, SAME_ROW = Role.RESUMABLE, Role.MACHINE, Role.SAME_ROW

ROLES: dict[str, Role] = {
    "aliases": COSMETIC,
    "backbone": WEIGHTS | SPEED,
    "balance": WEIGHTS,
    "batch_norm": WEIGHTS,
    "callbacks": COSMETIC,
    "callbacks.checkpoint": SAME_ROW,
    "callbacks.checkpoint_every_minutes": SAME_ROW,
    "callbacks.checkpoint_every_steps": SAME_ROW,
    "callbacks.epoch_lines": SAME_ROW,
    "callbacks.lr_monitor": SAME_ROW,
    "callbacks.progress_bar": SAME_ROW,
    "callbacks.speed_every_steps": SAME_ROW,
    "catalogue": COSMETIC,
    "checkpoint": WEIGHTS | RESUMABLE,
    "ckpt": MEASUREMENT,
    "ema": WEIGHTS,
    "experiment": COSMETIC,
    "flow": WEIGHTS | SPEED,
    "flow.on_the_fly": WEIGHTS | SPEED | RESUMABLE | MACHINE,
    "fusion": WEIGHTS | MEASUREMENT,
    "hydra": SAME_ROW,
    "init": WEIGHTS | RESUMABLE,
    "loading": COSMETIC,
    "loss": WEIGHTS,
    "logger": SAME_ROW,
    "metrics": MEASUREMENT,
    "mix": WEIGHTS,
    "modality": WEIGHTS | SPEED,
    "name": COSMETIC,
    "nonfinite": WEIGHTS | RESUMABLE,
    "objective": WEIGHTS,
    "optimizer": WEIGHTS,
    "paths": SAME_ROW,
    "pipeline": SAME_ROW,
    "phases": WEIGHTS | SPEED,
    "placement": SPEED | MACHINE,
    "repeat": WEIGHTS,
    "resume": SAME_ROW,
    "resume_force": COSMETIC,
    "sampling": WEIGHTS | SPEED,
    "sampling.num_segments": WEIGHTS | SPEED | MEASUREMENT,
    "schedule": WEIGHTS | RESUMABLE,
    "seed": WEIGHTS | SAME_ROW,
    "seeds": COSMETIC,
    "setup": WEIGHTS,
    "sources": WEIGHTS,
    "split": MEASUREMENT,
    "stage": WEIGHTS,
    "statistics": WEIGHTS,
    "step": SPEED | RESUMABLE | MACHINE,
    "tables": COSMETIC,
    "tags": SAME_ROW,
    "test": MEASUREMENT | SAME_ROW,
    "transforms": WEIGHTS | SPEED,
    "transforms.antialias": WEIGHTS | SPEED | MEASUREMENT,
    "transforms.output": WEIGHTS | SPEED | MEASUREMENT,
    "transforms.reduced_decode": WEIGHTS | SPEED | MEASUREMENT,
    "transforms.short_side": WEIGHTS | SPEED | MEASUREMENT,
    "trusted": COSMETIC,
    "views": MEASUREMENT,
    "data.absent": COSMETIC,
    "data.annotations": WEIGHTS,
    "data.batch_size": WEIGHTS | SPEED,
    "data.cache": SPEED,
    "data.cache_mb": COSMETIC,
    "data.class_pattern": WEIGHTS,
    "data.classes": COSMETIC,
    "data.columns": WEIGHTS,
    "data.decoder": WEIGHTS | SPEED,
    "data.empty": COSMETIC,
    "data.eval_batch_size": SAME_ROW,
    "data.extensions": WEIGHTS,
    "data.file_pattern": WEIGHTS,
    "data.files": WEIGHTS,
    "data.first_frame": COSMETIC,
    "data.flow": COSMETIC,
    "data.fps": WEIGHTS,
    "data.frames": COSMETIC,
    "data.id": WEIGHTS,
    "data.images": WEIGHTS,
    "data.index": SAME_ROW,
    "data.interval_ends": WEIGHTS,
    "data.label": WEIGHTS,
    "data.label_separator": WEIGHTS,
    "data.labels": WEIGHTS,
    "data.max_bad_share": COSMETIC,
    "data.min_frames": WEIGHTS,
    "data.mirrored": WEIGHTS,
    "data.missing": WEIGHTS,
    "data.name": WEIGHTS | SPEED,
    "data.pattern": WEIGHTS,
    "data.quarantine": COSMETIC,
    "data.reader": SPEED,
    "data.root": SAME_ROW,
    "data.separator": WEIGHTS,
    "data.sources": WEIGHTS,
    "data.span_margin": WEIGHTS,
    "data.split": WEIGHTS,
    "data.splits": WEIGHTS,
    "data.test": COSMETIC,
    "data.train": COSMETIC,
    "data.unpaired": WEIGHTS,
    "data.verify_counts": WEIGHTS,
    "data.videos": COSMETIC,
    "data.workers": SAME_ROW,
    "trainer.accelerator": COSMETIC,
    "trainer.accumulate_grad_batches": WEIGHTS,
    "trainer.deterministic": WEIGHTS | RESUMABLE | MACHINE,
    "trainer.devices": WEIGHTS | RESUMABLE | MACHINE,
    "trainer.limit_epochs": WEIGHTS | MACHINE,
    "trainer.limit_test_batches": MEASUREMENT,
    "trainer.limit_train_batches": WEIGHTS | MACHINE,
    "trainer.limit_val_batches": MEASUREMENT,
    "trainer.max_time": WEIGHTS | RESUMABLE | MACHINE,
    "trainer.num_nodes": WEIGHTS | RESUMABLE | MACHINE,
    "trainer.num_threads": SAME_ROW,
    "trainer.precision": WEIGHTS,
    "trainer.strategy": WEIGHTS | RESUMABLE | MACHINE,
    "trainer.validations": COSMETIC,
}


def role(key: str) -> Role | None:
    """Of the longest prefix of `key` that has one; None of a key that nobody knows."""
    parts = key.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((ROLES[prefix] for prefix in prefixes if prefix in ROLES), None)


def keys_with(wanted: Role) -> tuple[str, ...]:
    """All that have a role."""
    return tuple(key for key, roles in ROLES.items() if wanted in roles)


def _without(unwanted: Role, group: str = "") -> tuple[str, ...]:
    """Keys of the top level, or names in a group, that lack a role."""
    return tuple(name for key, name in _names(group) if unwanted not in ROLES[key])


def _names(group: str) -> list[tuple[str, str]]:
    if not group:
        return [(key, key) for key in ROLES if "." not in key]
    return [(key, key.removeprefix(f"{group}.")) for key in ROLES if key.startswith(f"{group}.")]


# What can't change the weights of a stage: keys of the config, of its `data` (their fingerprint speaks for the files)
# and of its `trainer`.
COSMETIC_KEYS = _without(WEIGHTS)
COSMETIC_DATA = _without(WEIGHTS, "data")
COSMETIC_TRAINER = _without(WEIGHTS, "trainer")
RESUMABLE_KEYS = keys_with(RESUMABLE)
LENGTH_OF_PHASE = re.compile(r"phases\.\d+\.(epochs|schedule)(\.|$)")
"""As `schedule`: resumable, unless a phase that has begun would have begun at another time."""
SPEED_KEYS = tuple(name for key, name in _names("") if SPEED in ROLES[key])
SPEED_DATA = tuple(name for key, name in _names("data") if SPEED in ROLES[key])
MACHINE_KEYS = tuple(key for key in keys_with(MACHINE) if not key.startswith("trainer."))
TRAINER_OF_RECIPE = tuple(n for key, n in _names("trainer") if WEIGHTS in ROLES[key] and MACHINE not in ROLES[key])
WATCHING = ("default", "lr_monitor", "none", "throughput")
"""Options of conf/callbacks that change no number."""
COSMETIC_OVERRIDES = re.compile(rf"({'|'.join(map(re.escape, keys_with(SAME_ROW)))})([./@].*)?$")
"""Overrides that set no row of a table apart. (The fingerprint of the data tells which files they were.)"""
