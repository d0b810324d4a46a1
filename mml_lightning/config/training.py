"""Config to objective, optimiser and cohort; `peers` makes the networks, `data` the data. Nothing is written here."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mml_lightning.backbones.batch_norm import silenced
from mml_lightning.backbones.cost import feature_shapes
from mml_lightning.backbones.peer import Peer
from mml_lightning.config import balance, fusion, instantiate, known_keys, objective
from mml_lightning.config import data as config_data
from mml_lightning.config import phases as config_phases
from mml_lightning.config.objective import Lessons
from mml_lightning.config.peers import PeerSpec, describe_peers
from mml_lightning.config.revisions import revisions
from mml_lightning.config.settings import Settings
from mml_lightning.data.records.decoder import frames_reader
from mml_lightning.data.records.records import SPLITS, Dataset, rows
from mml_lightning.evaluation.metrics import Scoring
from mml_lightning.fusion.policy import Policy
from mml_lightning.modalities import Modality
from mml_lightning.objectives.graph import Objective
from mml_lightning.training.balance import GradientModulation
from mml_lightning.training.batch_norm import NormSettings
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.execution import StepSettings
from mml_lightning.training.mixing import Mixing
from mml_lightning.training.nonfinite_gradients import NonFiniteSettings
from mml_lightning.training.optimiser_plan import OptimiserPlan
from mml_lightning.training.parameter_groups import fused
from mml_lightning.training.phases import WHOLE, Phase, check_reached, modules_of
from mml_lightning.utils.errors import UserError

log = logging.getLogger(__name__)


def cohort(
    cfg: Settings,
    specs: Sequence[PeerSpec],
    nets: Mapping[str, Peer],
    provenance: Mapping[str, Mapping[str, Any]],
    data: Dataset,
    kind: type[Cohort] = Cohort,
) -> Cohort:
    """The LightningModule of the stage, of a `kind`.

    Raises:
        UserError: the objective's graph, the optimiser or the scoring is wrong, or frozen batch norms silence a peer.
    """
    lessons = objective.lessons(cfg, list(nets))
    for one in lessons:
        one.graph.supervised = objective.weighted_loss(cfg, one.graph.supervised, data)
        prepare_features(cfg, one.graph, nets, {spec.name: spec.modality for spec in specs})
    balance.check(cfg, [one.graph for one in lessons], any(head.multi_label for head in data.heads.values()))
    learn = {name for one in lessons for name in one.parts}
    _check_freeze(batch_norm_settings(cfg).freeze, {name: net for name, net in nets.items() if name in learn})
    flow_peers = [spec.name for spec in specs if spec.modality.source == "flow"]
    fused = fusion.fusion(cfg, widths(nets), data.num_classes)
    looked_at = config_data.modalities(cfg)
    fusion.check_mask(cfg)
    gate = fusion.gate(cfg, list(nets), {**looked_at, **{spec.name: spec.modality for spec in specs}})
    joint = {name: part for name, part in (("fusion", fused), ("gate", gate)) if part is not None}
    declared = phases(cfg, lessons, {**nets, **joint}, provenance, flow_peers) if cfg.phases else []
    return kind(
        peers=nets,
        modalities={spec.name: spec.modality for spec in specs},
        objective=lessons[0].graph,
        plan=declared[0].plan if declared else optimiser_plan(cfg, provenance, flow_peers),
        phases=declared,
        ids={split: [row.id for row in rows(data.splits.get(split, ()))] for split in SPLITS},
        multi_label={head: value.multi_label for head, value in data.heads.items()},
        freeze_bn=batch_norm_settings(cfg).freeze,
        scoring=scoring(cfg),
        classes={head: value.classes for head, value in data.heads.items()},
        views=cfg.plain("views"),
        seed=cfg.draw_seed,
        max_views=cfg.data.eval_batch_size,
        fusion=fused,
        gate=gate,
        proxies={name: one for name, one in looked_at.items() if name in config_phases.proxies(cfg)},
        mixing=mixing(cfg, specs),
        modulation=modulation(cfg),
        bn_per_clip=cfg.sampling.bn_per_clip,
        description={
            "config": cfg.plain(),
            "peers": describe_peers(cfg, specs, nets, data),
            **({"fusion": fused.arch} if fused is not None and (fused.learned or gate is not None) else {}),
            **({"gate": gate.arch} if isinstance(gate, Policy) else {}),
            "data": {"fingerprint": data.fingerprint(), "decoder": frames_reader(data, cfg.data.decoder)},
            "revisions": revisions(cfg.plain(), data),
        },
    )


def modulation(cfg: Settings) -> GradientModulation | None:
    """What balances the gradients of the peers; None where nothing does."""
    own = cfg.balance
    return GradientModulation(own.alpha, own.noise, cfg.draw_seed) if own.name == "ogm_ge" else None


def mixing(cfg: Settings, specs: Sequence[PeerSpec]) -> Mixing | None:
    """Mixup and CutMix; None where the config has no `mix`.

    Raises:
        UserError: CutMix, and a network looks at no pictures.
    """
    if not cfg.get("mix"):
        return None
    side, made = int(cfg.transforms.output), known_keys.taken(cfg, "mix")
    if made.get("cutmix") is not None:
        kinds = config_data.sources(cfg)
        for name, modality in ((spec.name, spec.modality) for spec in specs):
            if len(modality.input_shape(kinds[modality.source].segment(modality, (side, side))[0])) != 3:  # [C, H, W]
                raise UserError(f"mix.cutmix cuts pictures, and {name} looks at none: leave it out, or use mix.mixup")
    return Mixing(**made, side=side)


def phases(
    cfg: Settings,
    lessons: Sequence[Lessons],
    nets: Mapping[str, nn.Module],
    origins: Mapping[str, Mapping[str, Any]],
    flow_peers: Sequence[str],
) -> list[Phase]:
    """The phases of a stage that declares some. A new classifier is new in the first phase that trains it.

    Raises:
        UserError: a part is unknown or has nothing to learn, a lesson reaches nothing that learns, or an optimiser or
            schedule is wrong.
    """
    made: list[Phase] = []
    old: set[str] = set()  # peers whose classifier has learned in an earlier phase
    for one in lessons:
        assert one.span is not None
        number, name, first, epochs, stride = dataclasses.astuple(one.span)
        known = {peer: dict(told, fresh_head=told["fresh_head"] and peer not in old) for peer, told in origins.items()}
        try:
            plan = optimiser_plan(config_phases.settings_of_phase(cfg, number), known, flow_peers)
            trains = {peer: _modules(nets[peer], peer, parts) for peer, parts in one.parts.items()}
            trains_all = cfg.phases[number].frozen == "train"
            made.append(Phase(name, first, epochs, one.graph, plan, trains, one.words, stride, trains_all))
            check_reached(made[-1])
        except ValueError as error:
            raise UserError(f"phases.{number} ({name}): {error}") from None
        old |= {peer for peer in trains if peer in origins and made[-1].reaches(peer, "heads")}
    return made


def widths(nets: Mapping[str, Peer]) -> dict[str, int]:
    """{peer: width of its pooled features}"""
    return {name: int(net.net.feature_dim) for name, net in nets.items()}  # type: ignore[arg-type]


def _modules(net: nn.Module, name: str, parts: Sequence[str]) -> tuple[str, ...]:
    """The modules of a peer that its parts name.

    Raises:
        ValueError: one names none, or has nothing to learn.
    """
    found: list[str] = []
    for part in parts:
        try:
            modules = modules_of(net, part)
        except ValueError as error:
            raise ValueError(f"train={name}.{part}: {error}") from None
        if not any(True for module in modules for _ in net.get_submodule(module).parameters()):
            raise ValueError(f"train={name}.{part} has nothing to learn")
        found += modules
    return WHOLE if "" in found else tuple(dict.fromkeys(found))


def prepare_features(
    cfg: Settings, graph: Objective, nets: Mapping[str, Peer], modalities: Mapping[str, Modality]
) -> None:
    """Where networks differ, their features may too: told now, and not at the first step. Learned maps between them are
    made here.

    Raises:
        UserError: a lesson compares features that can't be compared.
    """
    kinds = {json.dumps({**net.arch, "in_channels": None}, sort_keys=True, default=str) for net in nets.values()}
    if not any(edge.project for edge in graph.edges) and (not graph.edges or len(kinds) == 1):
        return
    frames, side = int(cfg.sampling.num_segments), int(cfg.transforms.output)
    try:
        clips = {name: (frames, *modality.input_shape((0, side, side))) for name, modality in modalities.items()}
        shapes = {name: feature_shapes(net, clips[name]) for name, net in nets.items()}
        graph.check_features(shapes)
        for name, learned in graph.projections(shapes, cfg.draw_seed).items():
            have = nets[name].projections  # another phase may have the same map: it goes on learning
            have.update({key: projection for key, projection in learned.items() if key not in have})
    except ValueError as error:
        raise UserError(f"objective={cfg.objective.name}: {error}") from None


def _check_freeze(freeze: str, nets: Mapping[str, Peer]) -> None:
    for name, net in nets.items():
        if layers := silenced(net, freeze):
            raise UserError(
                f"batch_norm.freeze={freeze} would keep {len(layers)} batch norms of {name} at zero for good (first "
                f"{layers[0]}), and their blocks would never contribute; start from trained weights, or use "
                "batch_norm.freeze=stats"
            )


def batch_norm_settings(cfg: Settings) -> NormSettings:
    """How batch norms work.

    Raises:
        UserError: a value of `batch_norm` is unknown or contradicts another, or `data.missing`.
    """
    made = NormSettings(**known_keys.taken(cfg, "batch_norm"))
    if cfg.data.missing == "mask" and (made.sync or made.group_size is not None):
        raise UserError(
            "batch_norm.sync and batch_norm.group_size normalise over groups of one size, but with data.missing=mask a "
            "batch has any number of samples of a modality; leave them at their defaults, or set data.missing=error"
        )
    return made


def execution_settings(cfg: Settings) -> StepSettings:
    """How networks are computed.

    Raises:
        UserError: a value of `step` is unknown.
    """
    return StepSettings(**known_keys.taken(cfg, "step"))


def nonfinite_settings(cfg: Settings) -> NonFiniteSettings:
    """What happens to steps whose gradients are not finite.

    Raises:
        UserError: a value of `nonfinite` is unknown.
    """
    try:
        return NonFiniteSettings(**known_keys.taken(cfg, "nonfinite"))
    except TypeError as error:
        raise UserError(f"nonfinite: {error}") from None


def scoring(cfg: Settings) -> Scoring:
    """How logits become numbers: of `views` and `metrics`.

    Raises:
        UserError: a choice is unknown.
    """
    try:
        return Scoring(cfg.views.pooling, cfg.views.ensemble, **known_keys.taken(cfg, "metrics"))
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from None


def optimiser_plan(
    cfg: Settings, provenance: Mapping[str, Mapping[str, Any]], flow_peers: Sequence[str] = ()
) -> OptimiserPlan:
    """Optimiser and schedule; TSN's faster head applies to the peers whose head is new (`optimizer.fc_lr5`)."""
    epochs = int(cfg.schedule.epochs)
    factor = functools.partial(instantiate.instantiate(cfg.plain("schedule.factor"), cfg.trusted), epochs=epochs)
    fresh = [name for name, where in provenance.items() if where["fresh_head"]]
    optimizer = instantiate.instantiate(cfg.plain("optimizer.optimizer"), cfg.trusted)
    optimizer = fused(optimizer, str(cfg.trainer.precision))
    group = {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.1, "weight_decay": 0.0}
    try:  # now, not when training begins
        optimizer([group])
        float(factor(0.0))
    except Exception as error:  # optimisers and schedules check their settings in many ways
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"optimizer or schedule: {reason}") from None
    return OptimiserPlan(
        optimizer=optimizer,
        groups=cfg.optimizer.groups,
        lr=float(cfg.optimizer.lr),
        weight_decay=float(cfg.optimizer.weight_decay),
        factor=factor,
        epochs=epochs,
        clip_norm=cfg.optimizer.clip_norm,
        fresh_heads=frozenset(fresh if cfg.optimizer.fc_lr5 else ()),
        fast_stems=frozenset(flow_peers if cfg.optimizer.flow_stem_lr5 else ()),
        interval=cfg.schedule.interval,
    )
