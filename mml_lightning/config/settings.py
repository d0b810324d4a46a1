"""The settings of a run in types: what the composed config says, resolved once.

Each group of conf/ that code reads by name is a dataclass with the same names. Keys that belong to what a config calls
(a reader, a network, a schedule), and the whole that hashes and records are made of, are read with `plain`.
Values are as they were typed until :func:`mml_lightning.config.values.check_values` has seen them. Imports no torch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar, cast

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException

from mml_lightning.config import resolvers
from mml_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from mml_lightning.data.records.intervals import Ends
    from mml_lightning.sampling import Mode, Policy
    from mml_lightning.transforms.testing import Rule

REQUIRED = "???"  # as OmegaConf writes a value that has to be typed
DEPENDENT = "${???}"  # what is made of one
Group = TypeVar("Group")


@dataclass(frozen=True)
class Paths:
    """Where runs write; `output_dir` is empty outside of a job."""

    root: str
    zoo: str
    cache: str
    output_dir: str


@dataclass(frozen=True)
class Data:
    """How a dataset is read and batched; what its reader takes is `plain("data")`."""

    name: str
    reader: Mapping[str, Any]
    decoder: str
    batch_size: int
    eval_batch_size: int
    workers: int
    cache: str
    cache_mb: int
    max_bad_share: float
    quarantine: str
    span_margin: float
    missing: str
    labels: str = "clip"
    interval_ends: Ends = "inclusive"


@dataclass(frozen=True)
class Backbone:
    """A network; modalities that have another one are in `peers`, each with the option of conf/backbone/ it is of."""

    name: str
    net: Mapping[str, Any]
    option: str | None = None
    peers: Mapping[str, Backbone] = field(default_factory=dict)


@dataclass(frozen=True)
class Init:
    """Where peers start; a word per modality is in `peers`."""

    base: str
    file: str | None
    new_head: bool
    copies: str | None
    runs: Sequence[str] = ()
    peers: Mapping[str, Any] = field(default_factory=dict)

    def of(self, modality: str) -> str:
        """The word for the peers of a modality.

        Raises:
            UserError: there is none.
        """
        if modality not in self.peers:
            raise UserError(f"init.{modality} is missing: let conf/modality/{modality}.yaml set it to ${{init.all}}")
        return str(self.peers[modality])


@dataclass(frozen=True)
class Sampling:
    mode: Mode
    num_segments: int
    dense_length: int
    stride: int
    policy: Policy
    shared: bool


@dataclass(frozen=True)
class Transforms:
    """What the crops of training take beside these is `plain("transforms")`."""

    output: int
    short_side: int
    antialias: bool
    mirror_labels: bool
    reduced_decode: str


@dataclass(frozen=True)
class Views:
    name: str
    uniform: int
    dense: int
    strided: int
    dense_length: int
    stride: int
    policy: Policy
    crops: int
    crop_rule: Rule
    full_resolution: bool
    pooling: str
    ensemble: str


@dataclass(frozen=True)
class Objective:
    name: str
    edges: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Optimizer:
    groups: str
    lr: float
    weight_decay: float
    clip_norm: float | None
    fc_lr5: bool
    flow_stem_lr5: bool


@dataclass(frozen=True)
class Schedule:
    epochs: int
    interval: str


@dataclass(frozen=True)
class Trainer:
    """The group `trainer`, with the settings of Lightning's that a plus may add and that we read."""

    accelerator: str
    devices: int | str | Sequence[int]
    strategy: str
    num_nodes: int
    precision: str
    accumulate_grad_batches: int
    deterministic: bool | str
    limit_train_batches: int | float | None
    limit_val_batches: int | float | None
    limit_test_batches: int | float | None
    validations: int | None
    num_threads: int | None
    limit_epochs: int | None = None
    max_steps: int = -1
    max_time: Any = None

    def limit(self, split: str) -> int | float | None:
        """`limit_<split>_batches`"""
        found: int | float | None = getattr(self, f"limit_{split}_batches")
        return found


@dataclass(frozen=True)
class Callbacks:
    epoch_lines: bool
    progress_bar: bool | str
    checkpoint: bool
    checkpoint_every_steps: int | None
    checkpoint_every_minutes: float | None
    speed_every_steps: int | None


@dataclass(frozen=True)
class Logger:
    wandb: bool
    project: str = "mml_lightning"
    entity: str | None = None
    mode: str = "auto"


@dataclass(frozen=True)
class Step:
    compile: bool | str
    checkpointing: bool
    keep_memory: bool | str


@dataclass(frozen=True)
class Loading:
    timeout: float | None
    memory_gb: float | None
    stall: float | None


@dataclass(frozen=True)
class Stage:
    name: str
    copies: int
    modalities: int


@dataclass(frozen=True)
class Setup:
    name: str


@dataclass(frozen=True)
class Pipeline:
    name: str
    runs: Sequence[Mapping[str, Any]]
    jobs: int
    dry: bool


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
    paths: Paths
    data: Data
    backbone: Backbone
    init: Init
    sampling: Sampling
    transforms: Transforms
    views: Views
    objective: Objective
    optimizer: Optimizer
    schedule: Schedule
    trainer: Trainer
    callbacks: Callbacks
    logger: Logger
    step: Step
    loading: Loading
    stage: Stage
    setup: Setup
    pipeline: Pipeline
    node: DictConfig = field(repr=False, compare=False)
    resolved: Mapping[str, Any] = field(repr=False, compare=False)
    ckpt: str | None = None
    split: str = "test"

    @property
    def measures_only(self) -> bool:
        """Whether it is a measurement of networks that are there (`eval.py`)."""
        return self.ckpt is not None

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
                raise UserError(f"{key} is missing in the config; don't delete it")
            found = found[part]
        _require(found, key)
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


GROUPS: dict[str, type[Any]] = {
    **{"paths": Paths, "data": Data, "backbone": Backbone, "init": Init, "sampling": Sampling, "views": Views},
    **{"transforms": Transforms, "objective": Objective, "optimizer": Optimizer, "schedule": Schedule},
    **{"trainer": Trainer, "callbacks": Callbacks, "logger": Logger, "step": Step, "loading": Loading},
    **{"stage": Stage, "setup": Setup, "pipeline": Pipeline},
}


def settings_of(cfg: DictConfig) -> Settings:
    """The settings that a composed config says. The config is not to be changed any more.

    Raises:
        UserError: an interpolation leads nowhere, a group is no table, or a key is missing.
    """
    resolvers.register()  # it may be unpickled in another process
    resolved = resolve(cfg)
    values = {key: resolved[key] for key in (f.name for f in fields(Settings)) if key in resolved}
    for key, kind in GROUPS.items():
        if key in values:
            values[key] = _group(kind, values[key], key)
    return _made(Settings, {**values, "node": cfg, "resolved": resolved}, "")


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """A config in dicts, lists and values; a required value that is missing is :data:`REQUIRED`.

    Raises:
        UserError: an interpolation leads nowhere.
    """
    try:
        found = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except (MissingMandatoryValue, InterpolationToMissingValueError):
        found = _gaps_kept(cfg)
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from None
    return cast(dict[str, Any], found)


def explain(error: OmegaConfBaseException) -> str:
    """One line; a required value is named as it is typed."""
    text = str(error).splitlines()[0]
    if "mandatory" not in text.lower():
        return text
    return _is_required(str(error.full_key))


def _is_required(key: str) -> str:
    return f"{key} is required: {key}=..."


def _gaps_kept(node: Any) -> Any:
    if not isinstance(node, DictConfig | ListConfig):
        return node
    if node._is_none() or node._is_missing():
        return None if node._is_none() else REQUIRED
    keys: list[Any] = list(node.keys()) if isinstance(node, DictConfig) else list(range(len(node)))
    found = {}
    for key in keys:
        try:
            found[key] = _gaps_kept(node[key])
        except MissingMandatoryValue:
            found[key] = REQUIRED
        except InterpolationToMissingValueError:
            found[key] = DEPENDENT
        except OmegaConfBaseException as error:
            raise UserError(explain(error)) from None
    return found if isinstance(node, DictConfig) else list(found.values())


def _require(value: Any, key: str) -> None:
    gaps = list(_gaps(value, key))
    if gaps:  # what is to be typed comes before what is made of it
        raise UserError(_is_required(min(gaps, key=lambda gap: gap[1] != REQUIRED)[0]))


def _gaps(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _gaps(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _gaps(item, f"{key}[{number}]")
    elif value in (REQUIRED, DEPENDENT):
        yield key, value


def _group(kind: type[Group], values: Any, key: str) -> Group:
    if not isinstance(values, Mapping):
        raise UserError(f"{key}={values} must be a table of settings, as in conf/")
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    chosen = {name: value for name, value in values.items() if name in names}
    if kind is Init:
        chosen["peers"] = {name: value for name, value in values.items() if name not in names}
    if kind is Backbone:
        own = {name: value for name, value in values.items() if isinstance(value, Mapping) and "option" in value}
        chosen["peers"] = {name: _group(Backbone, value, f"{key}.{name}") for name, value in own.items()}
    return _made(kind, chosen, f"{key}.")


def _made(kind: type[Group], values: Mapping[str, Any], prefix: str) -> Group:
    for one in fields(kind):  # type: ignore[arg-type]
        if one.name not in values and one.default is MISSING and one.default_factory is MISSING:
            raise UserError(f"{prefix}{one.name} is missing in the config; don't delete it")
    return kind(**values)
