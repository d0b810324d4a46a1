"""The fusion of networks that are used outside of their run: the one that was trained with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mml_lightning.backbones.peer import Peer
from mml_lightning.config import fusion as config_fusion
from mml_lightning.config.settings import Settings
from mml_lightning.config.training import widths
from mml_lightning.data.records.records import Head
from mml_lightning.fusion.fuse import Fusion
from mml_lightning.fusion.gates import Gate
from mml_lightning.fusion.policy import Policy
from mml_lightning.modalities import Modality
from mml_lightning.utils.errors import UserError, check_choice
from mml_lightning.zoo.fusions import GATE


def of_networks(
    cfg: Settings, entries: Mapping[str, Mapping[str, Any]], networks: Mapping[str, Peer], heads: Mapping[str, Head]
) -> Fusion | None:
    """How the outputs of networks are fused; None where they are not.

    Args:
        entries: what the networks were loaded from.
        heads: classes that are scored.

    Raises:
        UserError: `fusion` is wrong, or has learned nothing with these networks.
    """
    classes = {head: len(value.classes) for head, value in heads.items()}
    made = config_fusion.fusion(cfg, widths(networks), classes)
    if made is None or not (made.learned or config_fusion.gate_learns(cfg)):
        return made
    stored = [entry.get("fusion") for entry in entries.values()]
    known = next((one for one in stored if one), None)
    named = f"fusion={cfg.fusion.name} of {' and '.join(networks)}"
    if known is None:
        stage = "adamml" if config_fusion.gate_learns(cfg) else "fusion"
        raise UserError(f"{named} has to be trained with them (stage={stage}): use fusion=average or fusion=none")
    arch = known["arch"]
    if any(not one or one["arch"] != arch or not _equal(one, known) for one in stored):
        raise UserError(f"{named}: they are of several runs, with a fusion each; use fusion=average or fusion=none")
    if set(arch["peers"]) != set(networks) or arch["rule"] != made.rule:
        raise UserError(
            f"{named}: they were trained with fusion={arch['rule']} of {' and '.join(arch['peers'])}; "
            f"use all of these and fusion={arch['rule']}, or fusion=none"
        )
    try:
        own = Fusion(**arch)
        own.load_state_dict({k: value for k, value in known["state_dict"].items() if not k.startswith(GATE)})
    except Exception as error:  # load_state_dict raises several types
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{named}: its file is damaged ({reason}); use fusion=none") from None
    if own.num_classes != classes or own.widths != widths(networks):
        raise UserError(f"{named}: it was trained for other classes or networks; use fusion=none")
    return own


def learned(
    cfg: Settings,
    entries: Mapping[str, Mapping[str, Any]],
    networks: Mapping[str, Peer],
    heads: Mapping[str, Head],
    modalities: Mapping[str, Modality],
) -> tuple[Fusion | None, Policy | None]:
    """:func:`of_networks` and :func:`policy_of_networks`."""
    fused = of_networks(cfg, entries, networks, heads)
    return fused, policy_of_networks(cfg, entries, modalities) if fused is not None else None


def policy_of_networks(
    cfg: Settings, entries: Mapping[str, Mapping[str, Any]], modalities: Mapping[str, Modality]
) -> Policy | None:
    """The policy that was trained with networks, which decides as `fusion.policy.eval_policy` says; None where there is
    none.

    Args:
        entries: what the networks were loaded from.
        modalities: of each.

    Raises:
        UserError: no policy was trained with them, its file is damaged, or it looks at what nobody reads.
    """
    if not config_fusion.gate_learns(cfg) or len(entries) < 2:
        return None
    known: Mapping[str, Any] = next((entry["fusion"] for entry in entries.values() if entry.get("fusion")), {})
    named = f"fusion={cfg.fusion.name} of {' and '.join(entries)}"
    if "gate" not in known:
        raise UserError(f"{named}: no policy was trained with them (stage=adamml): use fusion=average or fusion=none")
    try:
        made = Policy(**known["gate"] | {k: v for k, v in cfg.fusion.policy.items() if k == "eval_policy"})
        state = known["state_dict"]
        made.load_state_dict({k.removeprefix(GATE): value for k, value in state.items() if k.startswith(GATE)})
    except Exception as error:  # load_state_dict raises several types
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{named}: the file of its policy is damaged ({reason}); use fusion=none") from None
    seen = {modality.name for modality in modalities.values()}
    if unread := [name for name in made.looks_at.values() if name not in seen]:
        raise UserError(f"{named}: its policy looks at {unread[0]}, which none of them reads; use fusion=average")
    return made.eval()


def joint(cfg: Settings, names: Sequence[str], fusion: Fusion | None, gate: Gate | None) -> dict[str, Any]:
    """What a cohort of the networks `names` is given beside them: `fusion`, if all of those it is of are there, and
    `gate`, the one that was learned or that of the config.

    Raises:
        UserError: `fusion.skip` is unknown, or nothing would be skipped.
    """
    check_choice("fusion.skip", cfg.fusion.skip, config_fusion.SKIP)
    if fusion is None or not config_fusion.fuses(cfg, names):
        fusion, gate = None, None
    else:
        gate = gate if gate is not None else config_fusion.gate(cfg, names)
    if gate is not None:
        gate.skips = cfg.fusion.skip == "real"
    elif cfg.fusion.skip == "real":
        raise UserError("fusion.skip=real: nothing decides what is skipped; use fusion=adamml or fusion=random")
    return {"fusion": fusion, "gate": gate}


def _equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    states = one["state_dict"], other["state_dict"]
    return states[0].keys() == states[1].keys() and all(bool((states[0][k] == states[1][k]).all()) for k in states[0])
