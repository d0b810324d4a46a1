"""Config to the lesson graph: who teaches whom, in each phase. Imports no Lightning: plans are made without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from mml_lightning.config import balance, fusion, phases, plugins
from mml_lightning.config.settings import Settings
from mml_lightning.data.records.records import Dataset, rows
from mml_lightning.objectives.efficiency import Efficiency
from mml_lightning.objectives.graph import CROSS_ENTROPY, Objective
from mml_lightning.objectives.supervised import SEVERAL, Supervised, class_weights, weighs_classes
from mml_lightning.utils.errors import UserError


class Lessons(NamedTuple):
    """What a phase of a stage is about, or the whole stage.

    Args:
        span: when; None of a stage without phases.
        graph: who learns from whom.
        parts: {peer, "fusion" or "gate": its parts that learn, as they are typed; "" for all of it}.
    """

    span: phases.Span | None
    graph: Objective
    parts: dict[str, list[str]]

    @property
    def words(self) -> tuple[str, ...]:
        """The parts as they are typed."""
        return tuple(f"{peer}.{part}" if part else peer for peer, parts in self.parts.items() for part in parts)


def objective(cfg: Settings, names: Sequence[str], resting: Sequence[str] = (), gate_learns: bool = False) -> Objective:
    """The lesson graph of the run.

    Args:
        resting: peers that only teach, beside those that the config freezes.
        gate_learns: whether the use of peers has its price (`objective.efficiency`).

    Raises:
        UserError: it names a peer the run does not have, or an unknown field.
    """
    try:
        declared = cfg.plain("objective")
        words = ("edges", "supervised_weight", "frozen", "headed", "labels")
        graph = {key: declared[key] for key in words if key in declared}
        graph["edges"] = plugins.edges(graph.get("edges", ()), cfg.trusted)
        graph["fused"] = fusion.fuses(cfg, names)
        if gate_learns and declared.get("efficiency"):
            graph["efficiency"] = _efficiency(declared["efficiency"], names)
        if cfg.balance.name == "gblend":
            graph["labels"] = balance.blended(cfg, names)
        return Objective(names, supervised=loss(cfg), **(graph | ({"frozen": [*resting]} if resting else {})))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from None


def _efficiency(declared: Any, names: Sequence[str]) -> Efficiency:
    """Raises:
    UserError, ValueError: an option is unknown or wrong.
    """
    if not isinstance(declared, Mapping) or not set(declared) <= {"penalty", "weights", "gamma"}:
        raise UserError(f"objective.efficiency={declared} must have penalty, weights and gamma, or be null")
    return Efficiency(list(names), **declared)


def loss(cfg: Settings) -> Supervised:
    """How logits are compared with labels; all classes count alike.

    Raises:
        ValueError: the loss or one of its options is unknown.
    """
    declared = cfg.plain("loss") if cfg.get("loss") else {}  # a run of an earlier version has none
    options = {key: value for key, value in declared.items() if key not in ("name", "class_weights")}
    return Supervised(str(declared["name"]), options) if declared else CROSS_ENTROPY


def weighted_loss(cfg: Settings, made: Supervised, data: Dataset) -> Supervised:
    """A loss that weighs classes as `loss.class_weights` says, by the training list.

    Raises:
        UserError: it is one of several labels per video and the data have one, or it takes no weights.
    """
    single = [name for name, head in data.heads.items() if not head.multi_label]
    if made.name in SEVERAL and single:
        raise UserError(
            f"loss={made.name} is for several labels per video, data={data.name} has one: use loss=cross_entropy or "
            "loss=focal"
        )
    rule = str(cfg.get("loss.class_weights") or "none")
    if rule == "none":
        return made
    if not weighs_classes(made.name):
        raise UserError(f"loss={made.name} takes no weights of classes: leave out loss.class_weights")
    weights = {}
    for name, head in data.heads.items():
        counts = torch.zeros(len(head.classes), dtype=torch.int64)
        for row in rows(data.splits["train"]):
            counts[list(row.target[name])] += 1  # type: ignore[arg-type]  # several labels
        weights[len(head.classes)] = class_weights(rule, counts)
    return dataclasses.replace(made, weights=weights)


def lessons(cfg: Settings, names: Sequence[str]) -> list[Lessons]:
    """Those of each phase; of the stage, where it has none.

    Raises:
        UserError: as :func:`objective`, or a phase trains what its objective freezes.
    """
    if not cfg.phases:
        graph = objective(cfg, names, gate_learns=fusion.gate_learns(cfg))
        _check_learned(cfg, [graph])
        learn = [*(peer for peer in names if peer not in graph.frozen), *_joint(cfg, graph)]
        return [Lessons(None, graph, {part: [""] for part in learn})]
    found = [_of_phase(cfg, span, names) for span in phases.spans(cfg)]
    _check_learned(cfg, [one.graph for one in found])
    return found


def _check_learned(cfg: Settings, graphs: Sequence[Objective]) -> None:
    """Raises:
    UserError: nothing teaches a fusion that has something to learn.
    """
    if fusion.learns(cfg) and any(len(graph.peers) > 1 for graph in graphs) and not any(g.joins for g in graphs):
        raise UserError(
            f"fusion={cfg.fusion.name} learns, and nothing teaches it: use stage=fusion or objective=fusion, "
            "objective.labels=[all,fused], or fusion=average"
        )


def _joint(cfg: Settings, graph: Objective) -> list[str]:
    """What learns beside the peers, where labels teach what they are fused to."""
    if not graph.joins:
        return []
    return [*(["fusion"] if fusion.learns(cfg) else []), *(["gate"] if fusion.gate_learns(cfg) else [])]


def never_trained(cfg: Settings, names: Sequence[str]) -> frozenset[str]:
    """The peers that only teach, all along."""
    return frozenset(names).difference(*(one.parts for one in lessons(cfg, names)))


def _of_phase(cfg: Settings, span: phases.Span, names: Sequence[str]) -> Lessons:
    where = f"phases.{span.number}"
    own = phases.settings_of_phase(cfg, span.number)
    try:
        graph = objective(own, names)
        typed = cfg.phases[span.number].train
        parts: dict[str, list[str]] = {}
        words = ["all"] if typed is None else typed
        beside = [part for part in _joint(cfg, graph) if "all" in words and part not in words]
        for word in [*words, *(part for part in beside if typed is None or part == "fusion")]:
            peers, part = phases.of_peer(cfg, word, f"{where}.train")
            if word.partition(".")[0] in graph.frozen:
                raise UserError(f"{where}.train: {word} is frozen by objective={own.objective.name}: leave out one")
            for peer in peers:
                if peer not in graph.frozen:
                    parts.setdefault(peer, []).append(part)
        if {"fusion", "gate"} & set(parts) and not graph.joins:
            raise UserError(
                f"{where}.train: nothing teaches what the peers are fused to: {where}.objective.labels=fused"
            )
        resting = [peer for peer in names if peer not in parts]
        graph = objective(own, names, resting, "gate" in parts)
        return Lessons(span, graph, {part: parts[part] for part in (*names, "fusion", "gate") if part in parts})
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith(where) else f"{where} ({span.name}): {text}") from None
