"""Config to objective, optimiser and cohort; `peers` makes the networks, `data` the data. Nothing is written here."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig

from mml_lightning.backbones.batch_norm import silenced
from mml_lightning.backbones.peer import Peer
from mml_lightning.config import instantiate
from mml_lightning.config.instantiate import to_container
from mml_lightning.config.peers import PeerSpec, describe_peers
from mml_lightning.config.revisions import revisions
from mml_lightning.data.records.decoder import frames_reader
from mml_lightning.data.records.records import SPLITS, Dataset, rows
from mml_lightning.evaluation.metrics import Scoring
from mml_lightning.objectives.graph import Objective
from mml_lightning.training.batch_norm import NormSettings
from mml_lightning.training.cohort import Cohort, OptimiserPlan
from mml_lightning.training.execution import StepSettings
from mml_lightning.training.nonfinite_gradients import NonFiniteSettings
from mml_lightning.training.parameter_groups import fused
from mml_lightning.utils.errors import UserError


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
    _check_freeze(
        batch_norm_settings(cfg).freeze, {name: net for name, net in nets.items() if name not in graph.frozen}
    )
    return Cohort(
        peers=nets,
        modalities={spec.name: spec.modality for spec in specs},
        objective=graph,
        plan=optimiser_plan(cfg, provenance, [spec.name for spec in specs if spec.modality.source == "flow"]),
        ids={split: [row.id for row in rows(data.splits.get(split, ()))] for split in SPLITS},
        multi_label={head: value.multi_label for head, value in data.heads.items()},
        freeze_bn=batch_norm_settings(cfg).freeze,
        scoring=scoring(cfg),
        classes={head: value.classes for head, value in data.heads.items()},
        views=to_container(cfg.views),
        seed=instantiate.draw_seed(cfg),
        max_views=cfg.data.eval_batch_size,
        description={
            "config": to_container(cfg),
            "peers": describe_peers(cfg, specs, nets, data),
            "data": {"fingerprint": data.fingerprint(), "decoder": frames_reader(data, cfg.data.decoder)},
            "revisions": revisions(to_container(cfg), data),
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


def batch_norm_settings(cfg: DictConfig) -> NormSettings:
    """How batch norms work.

    Raises:
        UserError: a value of `batch_norm` is unknown or contradicts another, or `data.missing`.
    """
    made = NormSettings(**to_container(cfg.batch_norm))
    if cfg.data.get("missing") == "mask" and (made.sync or made.group_size is not None):
        raise UserError(
            "batch_norm.sync and batch_norm.group_size normalise over groups of one size, but with data.missing=mask a "
            "batch has any number of samples of a modality; leave them at their defaults, or set data.missing=error"
        )
    return made


def execution_settings(cfg: DictConfig) -> StepSettings:
    """How networks are computed.

    Raises:
        UserError: a value of `step` is unknown.
    """
    return StepSettings(**to_container(cfg.step))


def nonfinite_settings(cfg: DictConfig) -> NonFiniteSettings:
    """What happens to steps whose gradients are not finite.

    Raises:
        UserError: a value of `nonfinite` is unknown.
    """
    try:
        return NonFiniteSettings(**to_container(cfg.nonfinite))
    except TypeError as error:
        raise UserError(f"nonfinite: {error}") from None


def objective(cfg: DictConfig, names: Sequence[str]) -> Objective:
    """The lesson graph of the run.

    Raises:
        UserError: it names a peer the run does not have, or an unknown field.
    """
    try:
        declared = to_container(cfg.objective)
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
        return Scoring(cfg.views.pooling, cfg.views.ensemble, **to_container(cfg.metrics))
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
    factor = functools.partial(instantiate.instantiate(cfg.schedule.factor), epochs=epochs)
    fresh = [name for name, where in provenance.items() if where["fresh_head"]]
    optimizer = fused(instantiate.instantiate(cfg.optimizer.optimizer), str(cfg.trainer.precision))
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
