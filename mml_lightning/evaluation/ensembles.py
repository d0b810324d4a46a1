"""Ensembles of networks from their score dumps, enumerated and compared on one set of videos.

    rows = enumerate_ensembles({"rgb": [Member("ce", dump), ..], "flow": [Member("ml", other), ..]}).rows

Legend: N videos, V views, K classes. Videos are joined by id, never by position. All numbers are percent but `q`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mml_lightning.evaluation.ensemble_members import CommonVideos, EnsembleMember, held_out, join, unique_names
from mml_lightning.evaluation.metrics import Scoring, by_class, mean_average_precision
from mml_lightning.evaluation.metrics import ensembles as arithmetic
from mml_lightning.evaluation.metrics.ensembles import Members
from mml_lightning.evaluation.metrics.pooling import LOG_HALF
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.threads import one_thread


@dataclass(frozen=True)
class Row:
    """One ensemble, or one network alone.

    Args:
        members: names.
        weights: in the same order, summing to 1.
        metrics: as :func:`mml_lightning.evaluation.metrics.measure` names them, without `loss` and `ece`.
        gain: over the best of its members, in the metric that rows are sorted by.
        oracle: one label: videos that at least one member has right. Several: the mean over classes of the average
            precision of the member that is best at it.
        disagreement: decisions where exactly one of two members is right, mean over the pairs; None for one network.
        q: Yule's Q of two members' being right, mean over the pairs: 1 for the same mistakes, 0 for independent ones.
        position: among the ensembles from 0; equal ones share the mean of theirs.
    """

    members: tuple[str, ...]
    weights: tuple[float, ...]
    metrics: Mapping[str, float]
    gain: float = 0.0
    oracle: float | None = None
    disagreement: float | None = None
    q: float | None = None
    position: float | None = None


@dataclass(frozen=True)
class Ensembles:
    """What :func:`measure_ensembles` found.

    Args:
        metric: which one `gain` and the order are about.
        scoring: how scores came about.
        videos: how many the numbers are about.
        singles: each network alone, in the order given.
        rows: the ensembles, best first; of equals in the order given.
        rank_sums: {name: sum of its ensembles' positions}, see :func:`ensembles.rank_sums`.
        groups: {name: group}.
        disagreement, q: of every two networks, in the order of `singles`; see :class:`Row`.
        missing: {name: ids that it lacks and another has}: in no number.
        searched: how many videos the weights were searched on; 0: they were not.
        notes: what else a reader should know.
    """

    metric: str
    scoring: Scoring
    videos: int
    singles: list[Row]
    rows: list[Row]
    rank_sums: dict[str, float]
    groups: dict[str, str]
    disagreement: list[list[float]]
    q: list[list[float]]
    missing: Mapping[str, list[str]] = field(default_factory=dict)
    searched: int = 0
    notes: list[str] = field(default_factory=list)


def enumerate_ensembles(groups: Mapping[str, Sequence[EnsembleMember]], **options: Any) -> Ensembles:
    """Every ensemble that has one member of each group: RGB x Flow, RGB x Flow x Diff. Options are those of
    :func:`measure_ensembles`.

    Raises:
        UserError: as there, or a group without a member.
    """
    for name, members in groups.items():
        if not members:
            raise UserError(f"group {name} has no member; give it at least one score dump")
    flat = [replace(member, group=name) for name, members in groups.items() for member in members]
    return measure_ensembles(flat, one_per_group([member.group for member in flat]), **options)


def one_per_group(groups: Sequence[str]) -> list[Members]:
    """All choices of one member of each group; `groups` holds the group of every member."""
    sets = [[place for place, other in enumerate(groups) if other == group] for group in dict.fromkeys(groups)]
    return list(itertools.product(*sets))


def subsets(count: int, sizes: Sequence[int]) -> list[Members]:
    """All choices of so many of `count` members, for each of the `sizes`."""
    return [chosen for size in sizes for chosen in itertools.combinations(range(count), size)]


def measure_ensembles(
    members: Sequence[EnsembleMember],
    ensembles: Sequence[Members],
    *,
    metric: str | None = None,
    scoring: Scoring | None = None,
    weights: Mapping[str, float] | None = None,
    search: str | None = None,
    fold: float = 0.5,
    intersect: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> Ensembles:
    """Measure ensembles of members, given as places in `members`.

    Args:
        metric: to sort by; default `top1`, or `map` with several labels per video.
        scoring: default: that of the first dump.
        weights: {name of a member or of a group: weight}; 1 where nothing is named.
        search: search each ensemble's weights: "val" on the members' `held_out` dumps, "fold" on a share of the videos,
            chosen by a hash of their ids, which is then in no number.
        fold: that share.
        intersect: compare on the videos that all have scores for, where some lack some.
        advance: called once per ensemble whose weights were searched.

    Raises:
        UserError: two members of one name, classes or labels differ, videos are missing and `intersect` is off, an
            unknown metric, weight or way to search, or no video that is labelled.
    """
    names = unique_names(members)
    scoring = scoring or members[0].dump.scoring
    joined = join(members, intersect)
    shares = _shares(members, weights)
    searched: list[list[float]] | None = None
    used = 0
    if search is not None:
        other, joined = held_out(members, joined, search, fold)
        used = len(other.ids)
        with one_thread():
            searched = _search(other, ensembles, scoring, advance)
    with one_thread():  # many small steps: threads would wait for each other
        singles, rows, apart, q = _measure(joined, ensembles, shares, searched, scoring)
    metric = _metric(metric, singles[0].metrics, joined.multi_label)
    quality = [row.metrics[metric] for row in rows]
    sums, places = arithmetic.rank_sums(quality, ensembles, len(members)), arithmetic.positions(quality)
    rows = [_with_gain(row, place, singles, metric) for row, place in zip(rows, places, strict=True)]
    return Ensembles(
        metric=metric,
        scoring=scoring,
        videos=len(joined.ids),
        singles=singles,
        rows=sorted(rows, key=lambda row: -row.metrics[metric]),
        rank_sums=dict(zip(names, sums, strict=True)),
        groups={member.name: member.group for member in members},
        disagreement=apart.tolist(),
        q=q.tolist(),
        missing=joined.missing,
        searched=used,
        notes=joined.notes,
    )


def _shares(members: Sequence[EnsembleMember], weights: Mapping[str, float] | None) -> list[float]:
    """A weight per member.

    Raises:
        UserError: a weight of nobody, or one that is negative or not finite.
    """
    weights = weights or {}
    known = {member.name for member in members} | {member.group for member in members}
    for name, weight in weights.items():
        if name not in known:
            raise UserError(f"weights name {name}; the members are {', '.join(m.name for m in members)}")
        if not 0 < weight < float("inf"):
            raise UserError(f"weight {name}={weight:g} must be a finite number above 0; to exclude it, leave it out")
    return [weights.get(member.name, weights.get(member.group, 1.0)) for member in members]


def _search(
    held: CommonVideos, ensembles: Sequence[Members], scoring: Scoring, advance: Callable[[], None]
) -> list[list[float]]:
    found = []
    for chosen in ensembles:
        blocks = [scores for scores, _ in held.blocks(chosen, scoring)]
        scores = torch.cat(blocks, dim=1)
        found.append(arithmetic.search_weights(scores, held.target, held.multi_label, scoring)[0])
        advance()
    return found


def _measure(
    joined: CommonVideos,
    ensembles: Sequence[Members],
    shares: Sequence[float],
    searched: Sequence[Sequence[float]] | None,
    scoring: Scoring,
) -> tuple[list[Row], list[Row], Tensor, Tensor]:
    """Each member alone, the ensembles in the order given (without gains), disagreement and Q of every two members."""
    alone: list[Members] = [(place,) for place in range(len(joined.members))]
    numbers = _several_labels if joined.multi_label else _one_label
    metrics, right, oracle = numbers(joined, alone if searched else [*alone, *ensembles], shares, scoring)
    for chosen, given in zip(ensembles, searched or (), strict=False):
        part = replace(joined, members=[joined.members[m] for m in chosen], rows=[joined.rows[m] for m in chosen])
        metrics += numbers(part, [tuple(range(len(chosen)))], given, scoring)[0]
    weights = [*alone, *(searched or [[shares[m] for m in chosen] for chosen in ensembles])]
    apart, q = 100 * arithmetic.disagreement(right), arithmetic.q_statistic(right)
    rows = []
    for place, (chosen, values) in enumerate(zip([*alone, *ensembles], metrics, strict=True)):
        own = weights[place] if place >= len(alone) else (1.0,)
        pairs = list(itertools.combinations(chosen, 2))
        rows.append(
            Row(
                members=tuple(joined.members[m].name for m in chosen),
                weights=tuple(weight / sum(own) for weight in own),
                metrics=values,
                oracle=oracle(chosen),
                disagreement=_mean([float(apart[pair]) for pair in pairs]),
                q=_mean([float(q[pair]) for pair in pairs]),
            )
        )
    return rows[: len(alone)], rows[len(alone) :], apart, q


Numbers = tuple[list[dict[str, float]], Tensor, Callable[[Members], float]]
"""Metrics of each ensemble, which decisions each member has right (bool [M, ..]), and the oracle of an ensemble."""


def _one_label(
    joined: CommonVideos, ensembles: Sequence[Members], shares: Sequence[float], scoring: Scoring
) -> Numbers:
    blocks = joined.blocks(range(len(joined.members)), scoring)
    measured = arithmetic.measure_single_label(blocks, ensembles, shares)
    right = measured.right
    return measured.metrics, right, lambda chosen: 100 * float(right[list(chosen)].any(dim=0).double().mean())


def _several_labels(
    joined: CommonVideos, ensembles: Sequence[Members], shares: Sequence[float], scoring: Scoring
) -> Numbers:
    blocks = [scores for scores, _ in joined.blocks(range(len(joined.members)), scoring)]
    scores = list(torch.cat(blocks, dim=1))
    metrics = arithmetic.measure_multi_label(scores, joined.target, ensembles, scoring, shares)
    right = torch.stack([((each > LOG_HALF) == (joined.target > 0)).flatten() for each in scores])
    named = {str(place): each for place, each in enumerate(scores)}
    precision = torch.stack(list(by_class(named, joined.target, True, scoring)[1].values()))  # [M, K]
    return (
        metrics,
        right,
        lambda chosen: mean_average_precision(precision[list(chosen)].amax(dim=0), scoring.empty_class),
    )


def _metric(wanted: str | None, have: Mapping[str, float], multi_label: bool) -> str:
    metric = wanted or ("map" if multi_label else "top1")
    if metric not in have:
        raise UserError(f"metric {metric} is unknown here; use one of {', '.join(have)}")
    return metric


def _with_gain(row: Row, position: float, singles: Sequence[Row], metric: str) -> Row:
    best = max(single.metrics[metric] for single in singles if single.members[0] in row.members)
    return replace(row, gain=row.metrics[metric] - best, position=position)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
