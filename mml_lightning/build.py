"""Config to peers, objective and cohort; `build_data` makes the data, `nodes` calls `instantiate`.

Nothing is written here. Peers are named after their modality: rgb, flow, and rgb_1 for a second rgb network.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from mml_lightning import build_data, limits, nodes, weights
from mml_lightning.backbones.batch_norm import silenced
from mml_lightning.backbones.peer import Peer
from mml_lightning.backbones.registry import BUILDERS
from mml_lightning.cohort import Cohort, OptimiserPlan
from mml_lightning.data.images import frames_reader
from mml_lightning.data.records import SPLITS, Dataset, rows
from mml_lightning.errors import UserError
from mml_lightning.files import FOLDER_NAME
from mml_lightning.metrics import Scoring
from mml_lightning.modalities import Modality
from mml_lightning.nodes import plain
from mml_lightning.nonfinite import NonFiniteSettings
from mml_lightning.norms import NormSettings
from mml_lightning.objectives.graph import Objective
from mml_lightning.optim import fused
from mml_lightning.revisions import revisions
from mml_lightning.step import StepSettings
from mml_lightning.weights import Origin

# What the command that makes an origin does not take over from the command that needs it.
OWN = re.compile(
    r"[+~]*((stage|init|objective|pipeline|catalogue|tables|name|tags|resume|resume_force|seeds?|repeat|hydra)\b"
    r"(?!\.(base|file|runs)\b)|modality=|trainer=smoke\b|trainer\.(limit_|max_(steps|time)\b))"
)
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


def check_values(cfg: DictConfig) -> None:
    """Raises:
    UserError: one of :data:`LEAST` is no number or too small, a switch is neither true nor false, or `name` can't name
        a folder.
    """
    for key in SWITCHES:
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, bool):
            raise UserError(f"{key}={value} must be true or false")
    for key in NAMES:
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, str) or not FOLDER_NAME.fullmatch(value):
            raise UserError(f"{key}={value!r} names a folder: use letters, digits and any of . _ + = , @ -")
    for key, (kind, least) in LEAST.items():
        value = OmegaConf.select(cfg, key)
        if value is None and key in NULLABLE:
            continue
        kinds = (int,) if kind is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not value >= least:
            raise UserError(f"{key}={value} must be a {'whole ' if kind is int else ''}number from {least:g}")
    for key in POSITIVE:
        value = OmegaConf.select(cfg, key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
            raise UserError(f"{key}={value} must be a number above 0, or null")
    limits.check(cfg)


@dataclass(frozen=True)
class PeerSpec:
    """A peer before its network exists."""

    name: str
    modality: Modality
    origin: Origin


def peer_specs(cfg: DictConfig, overrides: Sequence[str]) -> list[PeerSpec]:
    """The peers of the stage with their origins, which may be yet to train (:func:`require_origins`) and, of aliases,
    yet to be found (:class:`mml_lightning.lineage.Lineage`).

    Raises:
        UserError: the stage does not fit the modalities, an origin is unknown, or two peers of one modality would start
            (and stay) identical.
    """
    chosen = build_data.modalities(cfg)
    needed, copies, stage = int(cfg.stage.modalities), int(cfg.stage.copies), cfg.stage.name
    if not chosen:
        raise UserError("modality=[] leaves nothing to train; use modality=[rgb]")
    if len(chosen) < needed:
        raise UserError(
            f"stage={stage} needs two or more modalities (have {list(chosen)}): modality=[rgb,flow]; "
            "for one use stage=ml"
        )
    if cfg.objective.edges and len(chosen) * copies < 2:
        raise UserError(
            f"objective={cfg.objective.name} teaches between peers but the run has one; "
            "use stage=ml, or objective=cross_entropy"
        )
    find = functools.partial(resolve, cfg, shared(cfg, overrides))
    specs = []
    for modality in chosen.values():
        for number in range(copies):
            copy = f"_{number}" if number else ""
            name = f"{modality.name}{copy}"
            own = cfg.init.copies if number and cfg.init.copies else cfg.init[modality.name]
            init = str(own).replace("{modality}", modality.name)
            origin = find(init, modality.name, copy)
            if origin.init == weights.KINETICS:
                weights.kinetics_file(cfg.init.file)
            specs.append(PeerSpec(name, modality, origin))
    _refuse_twins(specs)
    return specs


def shared(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """What a command that makes first weights takes over from the present one: its stage and limits are its own."""
    several = bool(cfg.tables or cfg.pipeline.runs)  # an experiment that is one of tables or a pipeline
    return [o for o in overrides if not OWN.match(o) and not (several and o.startswith("experiment="))]


def resolve(cfg: DictConfig, kept: Sequence[str], init: str, modality: str, copy: str = "") -> Origin:
    """What `init` means in a config, see :func:`mml_lightning.weights.resolve`.

    Raises:
        UserError: as there, or `aliases` or `init.runs` is wrong.
    """
    zoo = Path(cfg.paths.zoo) / cfg.data.name / cfg.backbone.name
    chosen = weights.chosen_entries(cfg.init.runs)
    return weights.resolve(init, modality, copy, weights.aliases(plain(cfg.aliases)), zoo, kept, cfg.seed, chosen)


def require_origins(specs: Sequence[PeerSpec], coming: Set[Path] = frozenset()) -> None:
    """Raises:
    UserError: the weights of a peer are not there, nor among those `coming`; names the command that makes them.
    """
    # the second network first: the command that makes it makes the first one too
    for spec in sorted(specs, key=lambda spec: spec.name, reverse=True):
        if spec.origin.key not in coming:
            weights.require(spec.origin, f"init.{spec.name}")


def _refuse_twins(specs: Sequence[PeerSpec]) -> None:
    seen: dict[tuple[str, Path], str] = {}
    for spec in specs:
        if spec.origin.key is None:
            continue
        key = (spec.modality.name, spec.origin.key)
        if key in seen:
            raise UserError(
                f"peers {seen[key]} and {spec.name} would start from the same weights, {spec.origin.key}: identical "
                "networks never differ, so there is nothing to teach; give them different files or init=scratch"
            )
        seen[key] = spec.name


def peers(
    cfg: DictConfig, specs: Sequence[PeerSpec], data: Dataset
) -> tuple[dict[str, Peer], dict[str, dict[str, Any]]]:
    """Networks and their provenance. The seed of a peer depends on the run's seed and the peer's name alone."""
    classes = {head: list(value.classes) for head, value in data.heads.items()}
    nets: dict[str, Peer] = {}
    provenance = {}
    for spec in specs:
        torch.manual_seed(_peer_seed(nodes.draw_seed(cfg), spec.name))
        make = nodes.make(cfg.backbone.net)
        try:
            net = make(in_channels=spec.modality.channels, num_classes=data.num_classes)
        except (TypeError, ValueError) as error:
            raise UserError(f"backbone={cfg.backbone.name}: {error}") from None
        _check_activation(cfg, net, data)
        if net.arch.get("builder") not in BUILDERS:
            raise UserError(
                f"backbone={cfg.backbone.name}: its networks could not be loaded again; list its function in "
                "BUILDERS of mml_lightning/backbones/registry.py and name it as `builder` in `arch`"
            )
        provenance[spec.name] = weights.fill(
            net,
            spec.origin,
            spec.name,
            spec.modality.name,
            classes,
            getattr(net.net, "pretrained", None) or cfg.backbone.net.get("depth", cfg.backbone.name),
            cfg.init.file,
            bool(cfg.init.new_head),
        )
        nets[spec.name] = net
    return nets, provenance


def _check_activation(cfg: DictConfig, net: Peer, data: Dataset) -> None:
    if net.arch.get("eval_pool") != "sliding":
        return
    for head, value in data.heads.items():
        right = "sigmoid" if value.multi_label else "softmax"
        if net.arch["activation"] != right:
            labels = "several labels" if value.multi_label else "one label"
            raise UserError(
                f"backbone={cfg.backbone.name}: head {head} has {labels} per video, so sliding windows need "
                f"backbone.net.activation={right}"
            )


def cohort(
    cfg: DictConfig,
    specs: Sequence[PeerSpec],
    nets: Mapping[str, Peer],
    provenance: Mapping[str, Mapping[str, Any]],
    data: Dataset,
) -> Cohort:
    """The LightningModule of the stage.

    Raises:
        UserError: the objective's graph, the optimiser or the scoring is wrong, or frozen batch norms silence a peer.
    """
    graph = objective(cfg, list(nets))
    _check_freeze(norms(cfg).freeze, {name: net for name, net in nets.items() if name not in graph.frozen})
    return Cohort(
        peers=nets,
        modalities={spec.name: spec.modality for spec in specs},
        objective=graph,
        plan=optimiser_plan(cfg, provenance, [spec.name for spec in specs if spec.modality.source == "flow"]),
        ids={split: [row[0] for row in rows(data.splits.get(split, ()))] for split in SPLITS},
        multi_label={head: value.multi_label for head, value in data.heads.items()},
        freeze_bn=norms(cfg).freeze,
        scoring=scoring(cfg),
        classes={head: value.classes for head, value in data.heads.items()},
        views=plain(cfg.views),
        seed=nodes.draw_seed(cfg),
        max_views=cfg.data.eval_batch_size,
        description={
            "config": plain(cfg),
            "peers": describe_peers(cfg, specs, nets, data),
            "data": {"fingerprint": data.fingerprint(), "decoder": frames_reader(data, cfg.data.decoder)},
            "revisions": revisions(plain(cfg), data),
        },
    )


def _check_freeze(freeze: str, nets: Mapping[str, Peer]) -> None:
    for name, net in nets.items():
        if layers := silenced(net, freeze):
            raise UserError(
                f"batch_norm.freeze={freeze} would keep {len(layers)} batch norms of {name} at zero for good (first "
                f"{layers[0]}), and their blocks would never contribute; start from trained weights, or use "
                "batch_norm.freeze=stats"
            )


def describe_peers(
    cfg: DictConfig, specs: Sequence[PeerSpec], nets: Mapping[str, Peer], data: Dataset
) -> dict[str, dict[str, Any]]:
    """What a zoo file or a checkpoint needs to rebuild each peer, in plain values."""
    classes = {head: list(value.classes) for head, value in data.heads.items()}
    multi_label = {head: value.multi_label for head, value in data.heads.items()}
    return {
        spec.name: {
            "arch": nets[spec.name].arch,
            "modality": {"name": spec.modality.name, **plain(cfg.modality[spec.modality.name])},
            "classes": classes,
            "multi_label": multi_label,
        }
        for spec in specs
    }


def norms(cfg: DictConfig) -> NormSettings:
    """How batch norms work.

    Raises:
        UserError: a value of `batch_norm` is unknown or contradicts another, or `data.missing`.
    """
    made = NormSettings(**plain(cfg.batch_norm))
    if cfg.data.get("missing") == "mask" and (made.sync or made.group_size is not None):
        raise UserError(
            "batch_norm.sync and batch_norm.group_size normalise over groups of one size, but with data.missing=mask a "
            "batch has any number of samples of a modality; leave them at their defaults, or set data.missing=error"
        )
    return made


def step(cfg: DictConfig) -> StepSettings:
    """How networks are computed.

    Raises:
        UserError: a value of `step` is unknown.
    """
    return StepSettings(**plain(cfg.step))


def nonfinite(cfg: DictConfig) -> NonFiniteSettings:
    """What happens to steps whose gradients are not finite.

    Raises:
        UserError: a value of `nonfinite` is unknown.
    """
    try:
        return NonFiniteSettings(**plain(cfg.nonfinite))
    except TypeError as error:
        raise UserError(f"nonfinite: {error}") from None


def objective(cfg: DictConfig, names: Sequence[str]) -> Objective:
    """The lesson graph of the run.

    Raises:
        UserError: it names a peer the run does not have, or an unknown field.
    """
    try:
        declared = plain(cfg.objective)
        graph = {key: declared[key] for key in ("edges", "supervised_weight", "frozen", "headed") if key in declared}
        return Objective(names, **graph)
    except ValueError as error:
        raise UserError(str(error)) from None


def scoring(cfg: DictConfig) -> Scoring:
    """How logits become numbers: of `views` and `metrics`.

    Raises:
        UserError: a choice is unknown.
    """
    try:
        return Scoring(cfg.views.pooling, cfg.views.ensemble, **plain(cfg.metrics))
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from None


def optimiser_plan(
    cfg: DictConfig, provenance: Mapping[str, Mapping[str, Any]], flow_peers: Sequence[str] = ()
) -> OptimiserPlan:
    """Optimiser and schedule; TSN's faster head applies to the peers whose head is new (`optimizer.fc_lr5`)."""
    epochs = int(cfg.schedule.epochs)
    if cfg.optimizer.groups not in ("tsn", "slowfast", "plain"):
        raise UserError(f"optimizer.groups={cfg.optimizer.groups!r} is unknown; use tsn, slowfast or plain")
    if cfg.schedule.interval not in ("epoch", "step"):
        raise UserError(f"schedule.interval={cfg.schedule.interval!r} is unknown; use epoch or step")
    factor = functools.partial(nodes.make(cfg.schedule.factor), epochs=epochs)
    fresh = [name for name, where in provenance.items() if where["fresh_head"]]
    optimizer = fused(nodes.make(cfg.optimizer.optimizer), str(cfg.trainer.precision))
    group = {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.1, "weight_decay": 0.0}
    try:  # now, not when training begins
        optimizer([group])
        float(factor(0.0))
        clip = None if cfg.optimizer.clip_norm is None else float(cfg.optimizer.clip_norm)
    except Exception as error:  # optimisers and schedules check their settings in many ways
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"optimizer={cfg.optimizer.name} or schedule={cfg.schedule.name}: {reason}") from None
    return OptimiserPlan(
        optimizer=optimizer,
        groups=cfg.optimizer.groups,
        lr=float(cfg.optimizer.lr),
        weight_decay=float(cfg.optimizer.weight_decay),
        factor=factor,
        epochs=epochs,
        clip_norm=clip,
        fresh_heads=frozenset(fresh if cfg.optimizer.fc_lr5 else ()),
        fast_stems=frozenset(flow_peers if cfg.optimizer.flow_stem_lr5 else ()),
        interval=cfg.schedule.interval,
    )


def _peer_seed(seed: int, name: str) -> int:
    return (seed * 1_000_003 + sum((i + 1) * ord(c) for i, c in enumerate(name))) % 2**31
