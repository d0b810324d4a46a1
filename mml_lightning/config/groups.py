"""The groups of conf/ that code reads by name, with the names and values that they have there. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mml_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from mml_lightning.data.records.intervals import Ends
    from mml_lightning.sampling import Mode, Policy
    from mml_lightning.transforms.testing import Rule


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
    """`clips` and `val_clips`: segments of a video that are looked at in training and in validation."""

    mode: Mode
    num_segments: int
    dense_length: int
    stride: int
    policy: Policy
    shared: bool
    clips: int = 1
    val_clips: int = 1
    bn_per_clip: bool = False


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
    segments: int = 0

    @property
    def clips(self) -> int:
        """Of a video, each of which has `crops`."""
        return self.uniform + self.dense + self.strided + self.segments


@dataclass(frozen=True)
class Fusion:
    """How the outputs of the peers are fused, see :mod:`mml_lightning.fusion`.

    Args:
        rule: how; None: that of `name`.
        gate: which peers are used where.
        threshold, joint: of gate=random.
        policy: of gate=policy, options of :class:`mml_lightning.fusion.policy.Policy`.
        skip: `mask`: every peer sees every segment in evaluation; `real`: those only in which it is used.
        proxy: {modality: modality that the policy sees instead of it}, which has no peer of its own.
        renormalise, hidden, dropout: as of :class:`mml_lightning.fusion.fuse.Fusion`.
        weight_decay: of what it learns; None: that of the run.
    """

    name: str = "none"
    rule: str | None = None
    renormalise: bool | None = None
    weight_decay: float | None = None
    hidden: int = 2048
    dropout: float = 0.5
    gate: str = "none"
    threshold: float = 0.5
    joint: bool = False
    policy: Mapping[str, Any] = field(default_factory=dict)
    proxy: Mapping[str, str] = field(default_factory=dict)
    skip: str = "mask"


@dataclass(frozen=True)
class Balance:
    """How peers that learn together are balanced, see :mod:`mml_lightning.objectives.balance`."""

    name: str = "none"
    alpha: float = 0.1
    noise: bool = True
    curves: Mapping[str, Any] | None = None


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
class Phase:
    """A part of a stage, see :mod:`mml_lightning.config.phases`.

    Args:
        train: parts of peers that learn, `<peer>` or `<peer>.<part>`; None: all that the objective does not freeze.
        epochs: how many it takes; None: a share of those that no phase claims.
        share: how many shares of them.
        alternate: it takes turns with the phase before it, an epoch each.
        frozen: mode of what does not learn, `eval` or `train`.
        optimizer, schedule, objective: settings in which it differs from those of the run.
    """

    name: str
    train: Sequence[str] | None = None
    epochs: int | None = None
    share: int = 1
    alternate: bool = False
    frozen: str = "eval"
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    objective: Mapping[str, Any] = field(default_factory=dict)


OF_PHASE = ("optimizer", "schedule", "objective")
"""Groups of which a phase may have its own."""


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
class Ema:
    """Averages of weights, and which weights a run leaves."""

    decay: float | None = None
    weights: str = "averaged"


@dataclass(frozen=True)
class Checkpoint:
    """Which weights are kept beside the last ones, and which of them a run leaves."""

    monitor: str | None = None
    mode: str | None = None
    export: str = "last"


@dataclass(frozen=True)
class Callbacks:
    """What ours do; :mod:`mml_lightning.config.lightning_nodes` reads what else a config calls."""

    epoch_lines: bool = True  # as in conf/callbacks/default.yaml: callbacks=early_stopping alone brings none of these
    progress_bar: bool | str = "auto"
    checkpoint: bool = True
    checkpoint_every_steps: int | None = None
    checkpoint_every_minutes: float | None = 15
    speed_every_steps: int | None = None


@dataclass(frozen=True)
class Logger:
    """The CSV log is always written; :mod:`mml_lightning.config.lightning_nodes` reads what else a config calls."""

    wandb: bool = False
    project: str = "mml_lightning"
    entity: str | None = None
    mode: str = "auto"


@dataclass(frozen=True)
class Step:
    compile: bool | str
    checkpointing: bool
    keep_memory: bool | str
    side_by_side: bool | str = "auto"


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
    ahead: bool = True


GROUPS: dict[str, type[Any]] = {
    **{"paths": Paths, "data": Data, "backbone": Backbone, "init": Init, "sampling": Sampling, "views": Views},
    **{"transforms": Transforms, "objective": Objective, "optimizer": Optimizer, "schedule": Schedule},
    **{"trainer": Trainer, "callbacks": Callbacks, "logger": Logger, "step": Step, "loading": Loading},
    **{"stage": Stage, "setup": Setup, "pipeline": Pipeline, "fusion": Fusion, "balance": Balance},
    **{"checkpoint": Checkpoint, "ema": Ema},
}
