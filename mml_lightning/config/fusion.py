"""The group `fusion`: how the outputs of the peers become one, and whether a stage teaches it. Imports no Lightning."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mml_lightning.config.settings import Settings
from mml_lightning.evaluation.metrics import ENSEMBLE, FUSED
from mml_lightning.fusion.fuse import LEARNED, RULES, Fusion
from mml_lightning.fusion.gates import Gate, RandomGate
from mml_lightning.fusion.policy import Policy
from mml_lightning.modalities import Modality
from mml_lightning.utils.errors import UserError, check_choice
from mml_lightning.utils.seeds import keyed_seed

log = logging.getLogger(__name__)

NONE = "none"
SKIP = ("mask", "real")
GATES = (NONE, "random", "policy")
RESERVED = (ENSEMBLE, FUSED, "fusion", "gate")


def rule(cfg: Settings) -> str:
    """How outputs are fused; none where they are not.

    Raises:
        UserError: it is unknown.
    """
    chosen = NONE if cfg.fusion.name == NONE else cfg.fusion.rule or cfg.fusion.name
    check_choice("fusion", chosen, (NONE, *RULES))
    return chosen


def fuses(cfg: Settings, names: Sequence[str]) -> bool:
    """Whether the outputs of the peers `names` are fused; that one network is not, is said.

    Raises:
        UserError: `fusion` is unknown, or a peer has the name of something else.
    """
    if taken := [name for name in RESERVED if name in names]:
        known = f"{', '.join(RESERVED[:-1])} or {RESERVED[-1]}"
        raise UserError(f"a modality can't be named {known}, which mean something else: rename {taken[0]}")
    if rule(cfg) == NONE:
        return False
    if len(names) < 2:
        log.info("fusion=%s: only one network, %s, nothing to fuse", cfg.fusion.name, names[0])
    return len(names) > 1


def is_taught(values: Mapping[str, Any]) -> bool:
    """Whether labels or lessons of a plain config teach what the peers are fused to, in some phase: then its weights
    depend on `fusion`, and those of each peer on all the others."""
    if (values.get("balance") or {}).get("name") == "gblend":
        return True
    own = values.get("objective") or {}
    phases = values.get("phases") or ()
    phases = phases.values() if isinstance(phases, Mapping) else phases
    graphs = [own, *({**own, **(phase.get("objective") or {})} for phase in phases)]
    return any(map(_teaches, graphs))


def _teaches(graph: Mapping[str, Any]) -> bool:
    students = (edge.get("students") for edge in graph.get("edges") or () if isinstance(edge, Mapping))
    return any(FUSED in _names(named) for named in (graph.get("labels"), *students))


def _names(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [name for name, factor in value.items() if factor]
    return [value] if isinstance(value, str) else list(value or ())


def learns(cfg: Settings) -> bool:
    """Whether fusing has parameters of its own."""
    return rule(cfg) in LEARNED


def gate_learns(cfg: Settings) -> bool:
    """Whether a policy is trained with the peers."""
    return rule(cfg) != NONE and cfg.fusion.gate == "policy"


def fusion(cfg: Settings, peers: Mapping[str, int], num_classes: Mapping[str, int]) -> Fusion | None:
    """How the outputs of the peers are fused; None where they are not.

    Args:
        peers: {peer: width of its pooled features}.

    Raises:
        UserError: `fusion` is wrong.
    """
    if not fuses(cfg, list(peers)):
        return None
    own = cfg.fusion
    try:
        return Fusion(rule(cfg), peers, num_classes, own.renormalise, own.hidden, own.dropout, own.weight_decay)
    except ValueError as error:
        raise UserError(f"fusion={own.name}: {error}") from None


def gate(cfg: Settings, names: Sequence[str], modalities: Mapping[str, Modality] | None = None) -> Gate | None:
    """Which peers count in which segments; None: all that have seen the video.

    Args:
        modalities: of each peer, and by their names those that only a policy looks at.

    Raises:
        UserError: `fusion.gate` is unknown, or an option of it.
    """
    check_choice("fusion.gate", cfg.fusion.gate, GATES)
    if rule(cfg) == NONE or len(names) < 2 or cfg.fusion.gate == NONE:
        return None
    if cfg.fusion.gate == "policy":
        return policy(cfg, names, modalities or {})
    if cfg.fusion.threshold > 1:
        raise UserError(f"fusion.threshold={cfg.fusion.threshold:g} must be a number from 0 to 1")
    return RandomGate(names, cfg.fusion.threshold, cfg.fusion.joint, cfg.draw_seed)


def check_mask(cfg: Settings) -> None:
    """Raises:
    UserError: peers would be computed in part in a run that trains them, whose scores of each need all.
    """
    check_choice("fusion.skip", cfg.fusion.skip, SKIP)
    if cfg.fusion.skip != "mask":
        raise UserError(
            "fusion.skip=real is for eval.py and mml predict: a training run measures every peer; leave it out"
        )


def policy(cfg: Settings, names: Sequence[str], modalities: Mapping[str, Modality]) -> Policy:
    """AdaMML's policy of the peers `names`.

    Raises:
        UserError: an option is unknown or wrong.
    """
    looks_at = {name: cfg.fusion.proxy.get(modalities[name].name, modalities[name].name) for name in names}
    if unknown := [seen for seen in looks_at.values() if seen not in modalities]:
        have = ",".join([*cfg.modality, unknown[0]])
        raise UserError(f"fusion.proxy: the run does not read {unknown[0]}: use modality=[{have}]")
    seen = {name: modalities[name] for name in looks_at.values()}
    pictures = {name: modality.preparation.spectrogram is None for name, modality in seen.items()}
    channels = {name: modality.channels for name, modality in seen.items()}
    options = dict(cfg.plain("fusion").get("policy") or {})
    try:
        torch.manual_seed(keyed_seed(cfg.draw_seed, "gate", size=7))
        return Policy(looks_at, channels, pictures, seed=cfg.draw_seed, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"fusion.policy: {str(error).removeprefix('Policy.__init__() ')}") from None


def identity(cfg: Settings) -> Any:
    """How a run is fused, as two results must agree in it; None where it is not. A name alone where all else is as it
    was when there was no more."""
    chosen = cfg.fusion
    if rule(cfg) == NONE or (len(cfg.modality) == 1 and cfg.stage.copies == 1):  # one network is not fused
        return None
    plain = rule(cfg) == "average" and chosen.renormalise in (None, True) and chosen.gate == NONE
    if plain:
        return "average"
    own: dict[str, Any] = {"name": chosen.name, "rule": rule(cfg), "renormalise": chosen.renormalise}
    if chosen.gate != NONE:
        own |= {"gate": chosen.gate, "threshold": chosen.threshold, "joint": chosen.joint}
    if chosen.gate == "policy":
        own |= {"policy": dict(cfg.plain("fusion").get("policy") or {}), "proxy": dict(chosen.proxy)}
    return own
