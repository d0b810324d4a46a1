"""Ensembles in tables: the networks of each cell, their scores joined by video id, seed by seed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mml_lightning.report.table_spec import Layout, Network, Place, views_name

if TYPE_CHECKING:
    from mml_lightning.evaluation.ensemble_members import EnsembleMember
    from mml_lightning.report.measured import Measured, Values

Key = tuple[str, ...]


def key_of(place: Place) -> Key:
    """What tells the ensemble of a cell: its members, and how they are measured."""
    return tuple(_name(network, place.views) for network in place.networks)


def cells(table: Layout, measured: Measured) -> dict[Key, Values]:
    """Numbers of all cells that hold an ensemble, as far as the scores of their members are there."""
    places = [place for place in itertools.chain.from_iterable(table.places) if len(place.networks) > 1]
    found: dict[Key, Values] = {}
    for seed in measured.seeds if places else ():
        members = _members(places, measured, seed)
        whole = {key_of(place): None for place in places if all(name in members for name in key_of(place))}
        for key, metrics in _measure(list(whole), members).items():
            for metric, value in metrics.items():
                found.setdefault(key, {}).setdefault(metric, {})[seed] = value
    return found


def rank_sums(table: Layout, measured: Measured) -> dict[Key, Values]:
    """Sums of the positions of all choices of one network per group, best first, counted from 0; seeds for which a
    network is missing have none."""
    found: dict[Key, Values] = {}
    for seed in measured.seeds if table.ranks else ():
        places = [list(group.values()) for group in table.ranks.values()]
        members = _members(itertools.chain.from_iterable(places), measured, seed)
        keys = [[key_of(place)[0] for place in group] for group in places]
        if all(key in members for group in keys for key in group):
            for name, value in _rank(keys, members).items():
                found.setdefault((name,), {}).setdefault("positions", {})[seed] = value
    return found


def _members(places: Any, measured: Measured, seed: int) -> dict[str, EnsembleMember]:
    """The networks of the places whose scores are there."""
    from mml_lightning.evaluation.ensemble_members import EnsembleMember

    found: dict[str, EnsembleMember] = {}
    for place in places:
        for network in place.networks:
            name = _name(network, place.views)
            dump = None if name in found else measured.dump(network, place.views, seed)
            if dump is not None:
                found[name] = EnsembleMember(name, dump, network.peer)
    return found


def _measure(keys: Sequence[Key], members: Mapping[str, EnsembleMember]) -> dict[Key, Mapping[str, float]]:
    if not keys:
        return {}
    from mml_lightning.evaluation.ensembles import measure_ensembles

    used = [members[name] for name in dict.fromkeys(itertools.chain.from_iterable(keys))]
    places = {member.name: place for place, member in enumerate(used)}
    rows = measure_ensembles(used, [tuple(places[name] for name in key) for key in keys], intersect=True).rows
    return {row.members: row.metrics for row in rows}


def _rank(groups: Sequence[Sequence[str]], members: Mapping[str, EnsembleMember]) -> dict[str, float]:
    from mml_lightning.evaluation.ensembles import enumerate_ensembles

    chosen = {str(number): [members[name] for name in names] for number, names in enumerate(groups)}
    return enumerate_ensembles(chosen, intersect=True).rank_sums


def _name(network: Network, views: Mapping[str, Any] | None) -> str:
    return str(network) if views is None else f"{network}@{views_name(views)}"
