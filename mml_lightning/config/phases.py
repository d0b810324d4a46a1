"""The node `phases` of the config: what each phase of a stage trains, for how long and how. Imports no torch.

A phase that leaves something out has it from the run: all that learns, an equal share of the epochs that no phase
claims, and the groups `optimizer`, `schedule` and `objective`, of which it may change single settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mml_lightning.config import groups
from mml_lightning.config.compose import changed
from mml_lightning.config.settings import Settings
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import FOLDER_NAME

CALLED = "_target_"
FROZEN = ("eval", "train")
WHO = ("all", "first", "rest")
JOINT = ("fusion", "gate")
"""Parts of a stage that belong to no peer."""


@dataclass(frozen=True)
class Span:
    """When a phase is on.

    Args:
        number: its place among the phases, from 0; first: its first epoch, from 0; epochs: how many; stride: 2 where it
            takes turns with another phase, else 1.
    """

    number: int
    name: str
    first: int
    epochs: int
    stride: int = 1


def spans(cfg: Settings) -> list[Span]:
    """The phases of a stage and when each is on; none where it declares none.

    Raises:
        UserError: they don't add up to `schedule.epochs`.
    """
    declared = [{key: getattr(phase, key) for key in ("epochs", "share", "alternate")} for phase in cfg.phases]
    lengths = lengths_of(declared, int(cfg.schedule.epochs))
    found: list[Span] = []
    for number, phase in enumerate(cfg.phases):
        turns = phase.alternate or (number + 1 < len(cfg.phases) and cfg.phases[number + 1].alternate)
        first = found[-1].first + 1 if phase.alternate else sum(lengths[:number])
        found.append(Span(number, phase.name, first, lengths[number], 2 if turns else 1))
    return found


def lengths_of(declared: Sequence[Mapping[str, Any]], epochs: int) -> list[int]:
    """Epochs of each phase: as declared, or shares of what is left. Phases that take turns have equally many.

    Args:
        declared: `epochs`, `share` and `alternate` of each phase; what is missing is as by default.

    Raises:
        UserError: they don't add up to `epochs`, leave nothing for one, or those of two that take turns differ.
    """
    own: list[int | None] = [phase.get("epochs") for phase in declared]
    shares = [phase.get("share", 1) for phase in declared]
    pairs = [number for number, phase in enumerate(declared) if phase.get("alternate")]
    for second in pairs:
        own[second - 1] = own[second] = own[second] if own[second - 1] is None else own[second - 1]
        if declared[second].get("epochs") not in (None, own[second]) or shares[second - 1] != shares[second]:
            what = "epochs" if shares[second - 1] == shares[second] else "share"
            raise UserError(f"phases.{second} takes turns with phases.{second - 1}: give both the same {what}")
    if not pairs and set(shares) <= {1}:
        return shared_out(own, epochs)
    waiting = [number for number, length in enumerate(own) if length is None]
    left = epochs - sum(filter(None, own))
    lengths = {number: max(1, left * shares[number] // sum(shares[n] for n in waiting)) for number in waiting}
    over = left - sum(lengths.values())
    alone = [number for number in waiting if number not in pairs and number + 1 not in pairs]
    if alone and 0 <= over < len(waiting):
        lengths[alone[-1]] += over  # two that take turns stay equally long
    elif over:
        told = " + ".join("?" if length is None else str(length) for length in own)
        raise UserError(
            f"phases: their epochs ({told}) don't add up to the schedule.epochs={epochs} of the run: use another "
            "schedule.epochs, or phases.<n>.epochs=<number>"
        )
    return [lengths[number] if length is None else length for number, length in enumerate(own)]


def shared_out(declared: Sequence[int | None], epochs: int) -> list[int]:
    """Epochs of each phase: as declared, or an equal share of what is left, a longer one for the first ones.

    Raises:
        UserError: they don't add up to `epochs`, or leave nothing for one.
    """
    if not declared:
        return []
    left, waiting = epochs - sum(filter(None, declared)), sum(length is None for length in declared)
    if left < waiting or (left and not waiting):
        told = " + ".join("?" if length is None else str(length) for length in declared)
        least = epochs - left + waiting
        more = f", or null for the epochs of one of them{' too' if waiting else ''}" if least <= epochs else ""
        raise UserError(
            f"phases: their epochs ({told}) don't add up to the schedule.epochs={epochs} of the run: use "
            f"schedule.epochs={least}{' or more' if waiting else ''}, phases.<n>.epochs=<number>{more}"
        )
    shares = iter(left // waiting + (number < left % waiting) for number in range(waiting))
    return [next(shares) if length is None else length for length in declared]


def settings_of_phase(cfg: Settings, number: int) -> Settings:
    """The settings of a run that is this phase alone: its own optimiser, schedule and objective.

    Raises:
        UserError: a phase sets what there is not.
    """
    phase = cfg.phases[number]
    values: dict[str, Any] = {"phases": [], "schedule.epochs": spans(cfg)[number].epochs}
    for group in groups.OF_PHASE:
        own = getattr(phase, group)
        if own:
            epochs = {"epochs": values["schedule.epochs"]} if group == "schedule" else {}
            values[group] = _merged(cfg.plain(group), own, f"phases.{number}.{group}") | epochs
    return changed(cfg, values)


def _merged(base: Mapping[str, Any], own: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A group with some settings of its own. What another function is called with begins anew."""
    if CALLED in own and own[CALLED] != base.get(CALLED):
        return dict(own)
    if unknown := [key for key in own if key not in base and CALLED not in base]:
        raise UserError(f"unknown setting {where}.{unknown[0]}; there are {', '.join(base)}")
    return {**base, **{key: _value(base.get(key), value, f"{where}.{key}") for key, value in own.items()}}


def _value(base: Any, own: Any, where: str) -> Any:
    return _merged(base, own, where) if isinstance(base, Mapping) and isinstance(own, Mapping) else own


def check(cfg: Settings) -> None:
    """Raises:
    UserError: a name is no name or stands twice, a number is none, a peer is unknown, or epochs don't add up.
    """
    names = [phase.name for phase in cfg.phases]
    for number, phase in enumerate(cfg.phases):
        where = f"phases.{number}"
        if not isinstance(phase.name, str) or not FOLDER_NAME.fullmatch(phase.name):
            raise UserError(f"{where}.name={phase.name!r} must be a word: letters, digits and any of . _ + = , @ -")
        if names.index(phase.name) != number:
            raise UserError(f"{where}.name={phase.name} is already the name of another phase: give each its own name")
        if phase.epochs is not None and not _is_number(phase.epochs):
            raise UserError(f"{where}.epochs={phase.epochs} must be a whole number from 1, or null for what is left")
        if not _is_list_of_words(phase.train):
            raise UserError(f"{where}.train={phase.train} must be a list of parts such as [rgb.head], or null for all")
        for word in phase.train or ():
            of_peer(cfg, word, f"{where}.train")
        if not _is_number(phase.share):
            raise UserError(f"{where}.share={phase.share} must be a whole number from 1")
        if phase.alternate not in (True, False) or (
            phase.alternate and (not number or cfg.phases[number - 1].alternate)
        ):
            raise UserError(f"{where}.alternate={phase.alternate}: true takes turns with the phase before, else false")
        if phase.frozen not in FROZEN:
            raise UserError(f"{where}.frozen={phase.frozen} is unknown: use one of {', '.join(FROZEN)}")
        if "epochs" in phase.schedule:
            raise UserError(f"{where}.schedule.epochs: say how long a phase is with {where}.epochs")
    spans(cfg)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_list_of_words(value: Any) -> bool:
    return value is None or (isinstance(value, list) and bool(value) and all(isinstance(word, str) for word in value))


def of_peer(cfg: Settings, word: str, where: str) -> tuple[list[str], str]:
    """The peers that a trained part is of (or `fusion` or `gate`), and its name in them; "" for all of them.

    Raises:
        UserError: the run has no such peer.
    """
    peers = names_of_peers(cfg)
    who, _, part = word.partition(".")
    joint = [name for name in JOINT if cfg.fusion.name != "none"]
    chosen = {"all": peers, "first": peers[:1], "rest": peers[1:]}.get(who, [who] if who in (*peers, *joint) else [])
    if not chosen:
        fused = "; fusion and gate are parts where fusion=... fuses their outputs" if who in JOINT else ""
        raise UserError(
            f"{where}: {word} matches no peer; the run has {', '.join(peers)}: use one of those or {', '.join(WHO)}, "
            f"with a part of it after a dot, such as all.head{fused}"
        )
    return chosen, part


def names_of_peers(cfg: Settings) -> list[str]:
    """The peers of a run: every modality, with a number for further networks of it."""
    copies = range(int(cfg.stage.copies))
    seen_only = proxies(cfg)
    chosen = [modality for modality in cfg.modality if modality not in seen_only]
    return [f"{modality}_{number}" if number else modality for modality in chosen for number in copies]


def proxies(cfg: Settings) -> list[str]:
    """Modalities that a policy looks at instead of others, and that have no peer of their own."""
    return [name for name in cfg.modality if name in cfg.fusion.proxy.values()]


def identity(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The phases of a plain config by their numbers, as they decide weights: epochs told, whoever counted them.

    Args:
        values: as :meth:`Settings.plain` gives them, of any version.
    """
    declared = list(values.get("phases") or ())
    if not declared:
        return {}
    lengths = lengths_of(declared, int(values["schedule"]["epochs"]))
    return {str(n): {**phase, "epochs": lengths[n]} for n, phase in enumerate(declared)}
