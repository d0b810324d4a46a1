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
from mml_lightning.utils.errors import UserError


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
    if made is None or not made.learned:
        return made
    stored = [entry.get("fusion") for entry in entries.values()]
    known = next((one for one in stored if one), None)
    named = f"fusion={cfg.fusion.name} of {' and '.join(networks)}"
    if known is None:
        raise UserError(f"{named} has to be trained with them (stage=fusion): use fusion=average or fusion=none")
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
        own.load_state_dict(known["state_dict"])
    except Exception as error:  # load_state_dict raises several types
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{named}: its file is damaged ({reason}); use fusion=none") from None
    if own.num_classes != classes or own.widths != widths(networks):
        raise UserError(f"{named}: it was trained for other classes or networks; use fusion=none")
    return own


def joint(cfg: Settings, names: Sequence[str], fusion: Fusion | None) -> dict[str, Any]:
    """What a cohort of the networks `names` is given beside them: `fusion`, if all of those it is of are there, and
    `gate`."""
    fused = fusion if config_fusion.fuses(cfg, names) else None
    return {"fusion": fused, "gate": config_fusion.gate(cfg, names) if fused is not None else None}


def _equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    states = one["state_dict"], other["state_dict"]
    return states[0].keys() == states[1].keys() and all(bool((states[0][k] == states[1][k]).all()) for k in states[0])
