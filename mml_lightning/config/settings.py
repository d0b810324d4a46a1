"""The settings of a run in types: what the composed config says, resolved once.

Each group of conf/ that code reads by name is a dataclass with the same names. Keys that belong to what a config calls
(a reader, a network, a schedule), and the whole that hashes and records are made of, are read with `plain`.
Values are as they were typed until :func:`mml_lightning.config.values.check_values` has seen them. Imports no torch.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

from omegaconf import DictConfig

from mml_lightning.config import groups, resolvers
from mml_lightning.config.resolve import require, resolve
from mml_lightning.utils.errors import UserError

Group = TypeVar("Group")


@dataclass(frozen=True)
class Settings:
    """All settings of a run. `ckpt` and `split` are those of a measurement (`eval.py`).

    It can be pickled, and :func:`mml_lightning.config.compose.changed` makes another one of it.
    """

    name: str
    seed: int
    seeds: Any
    repeat: int
    test: bool
    resume: str | None
    resume_force: bool
    placement: str
    tags: Sequence[str]
    trusted: Sequence[str]
    modality: Mapping[str, Mapping[str, Any]]
    aliases: Mapping[str, Any]
    tables: Mapping[str, Any]
    catalogue: Mapping[str, Any]
    paths: groups.Paths
    data: groups.Data
    backbone: groups.Backbone
    init: groups.Init
    sampling: groups.Sampling
    transforms: groups.Transforms
    views: groups.Views
    objective: groups.Objective
    optimizer: groups.Optimizer
    schedule: groups.Schedule
    trainer: groups.Trainer
    callbacks: groups.Callbacks
    logger: groups.Logger
    step: groups.Step
    loading: groups.Loading
    stage: groups.Stage
    setup: groups.Setup
    pipeline: groups.Pipeline
    node: DictConfig = field(repr=False, compare=False)
    resolved: Mapping[str, Any] = field(repr=False, compare=False)
    fusion: groups.Fusion = field(default_factory=groups.Fusion)
    balance: groups.Balance = field(default_factory=groups.Balance)
    phases: tuple[groups.Phase, ...] = ()
    checkpoint: groups.Checkpoint = field(default_factory=groups.Checkpoint)
    ema: groups.Ema = field(default_factory=groups.Ema)
    ckpt: str | None = None
    split: str = "test"

    @property
    def measures_only(self) -> bool:
        """Whether it is a measurement of networks that are there (`eval.py`)."""
        return self.ckpt is not None

    @property
    def declares_runs(self) -> bool:
        """Whether a pipeline or tables say which runs a job consists of."""
        return bool(self.pipeline.runs or self.tables)

    @property
    def is_pipeline(self) -> bool:
        """Whether a job is more than one run."""
        return self.declares_runs or self.seeds is not None

    @property
    def draw_seed(self) -> int:
        """What all that a run draws is keyed by: its seed, or another one for an independent run beside it."""
        return int((self.seed + 1_000_003 * self.repeat) % 2**31)

    def plain(self, key: str = "") -> Any:
        """The resolved config, or what stands at a dotted key of it, in dicts, lists and values that the caller may
        change.

        Raises:
            UserError: there is no such key, or a required value is missing.
        """
        found: Any = self.resolved
        for part in filter(None, key.split(".")):
            if not isinstance(found, Mapping) or part not in found:
                raise UserError(f"{key} is missing in the config; do not delete it")
            found = found[part]
        require(found, key)
        return copy.deepcopy(found)

    def get(self, key: str, default: Any = None) -> Any:
        """What stands at a dotted key, without a look at required values; the default where there is none."""
        found: Any = self.resolved
        for part in key.split("."):
            if not isinstance(found, Mapping) or part not in found:
                return default
            found = found[part]
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return settings_of, (self.node,)


def settings_of(cfg: DictConfig) -> Settings:
    """The settings that a composed config says. The config is not to be changed any more.

    Raises:
        UserError: an interpolation leads nowhere, a group is no table, or a key is missing.
    """
    resolvers.register()  # it may be unpickled in another process
    resolved = resolve(cfg)
    values = {key: resolved[key] for key in (f.name for f in fields(Settings)) if key in resolved}
    for key, kind in groups.GROUPS.items():
        if key in values:
            values[key] = _group(kind, values[key], key)
    if "phases" in values:
        values["phases"] = _phases(values["phases"])
    return _made(Settings, {**values, "node": cfg, "resolved": resolved}, "")


def _phases(declared: Any) -> tuple[groups.Phase, ...]:
    """What a config says, in types.

    Raises:
        UserError: it is no list of tables, or a table has what no phase has.
    """
    if not isinstance(declared, list):
        raise UserError(f"phases={declared} must be a list of tables, as in conf/stage/lp_ft.yaml, or []")
    known = [one.name for one in fields(groups.Phase)]
    for number, one in enumerate(declared):
        where = f"phases.{number}"
        if not isinstance(one, Mapping):
            raise UserError(f"{where}={one} must be a table with {', '.join(known)}")
        if unknown := [key for key in one if key not in known]:
            raise UserError(f"unknown setting {where}.{unknown[0]} of a phase; there are {', '.join(known)}")
        if "name" not in one:
            raise UserError(f"{where}.name is missing: give every phase a name of its own")
        for group in groups.OF_PHASE:
            if not isinstance(one.get(group) or {}, Mapping):
                raise UserError(f"{where}.{group}={one[group]} must be a table of settings of {group}")
    return tuple(
        groups.Phase(**{key: value for key, value in one.items() if value is not None or key == "epochs"})
        for one in declared
    )


def _group(kind: type[Group], values: Any, key: str) -> Group:
    if not isinstance(values, Mapping):
        raise UserError(f"{key}={values} must be a table of settings, as in conf/")
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    chosen = {name: value for name, value in values.items() if name in names}
    if kind is groups.Init:
        chosen["peers"] = {name: value for name, value in values.items() if name not in names}
    if kind is groups.Backbone:
        own = {name: value for name, value in values.items() if isinstance(value, Mapping) and "option" in value}
        chosen["peers"] = {name: _group(groups.Backbone, value, f"{key}.{name}") for name, value in own.items()}
    return _made(kind, chosen, f"{key}.")


def _made(kind: type[Group], values: Mapping[str, Any], prefix: str) -> Group:
    for one in fields(kind):  # type: ignore[arg-type]
        if one.name not in values and one.default is MISSING and one.default_factory is MISSING:
            raise UserError(f"{prefix}{one.name} is missing in the config; do not delete it")
    return kind(**values)
