"""Many ensembles at once: which networks go well together. Legend: M networks, E ensembles, N videos, b videos of a
block, K classes.

Scores stream through in blocks of videos, so that memory does not grow with their number; ensembles that begin with the
same networks share the sum of those. An ensemble is a tuple of places in the list of networks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mml_lightning.evaluation.metrics.classification import target_rank
from mml_lightning.evaluation.metrics.pooling import ensemble
from mml_lightning.evaluation.metrics.protocol import Scoring, measure

Members = tuple[int, ...]
STEPS = 10  # of the grid of weights of two and three networks
FACTORS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # tried for each weight in turn where there are more
ROUNDS = 10


@dataclass(frozen=True)
class Measured:
    """What :func:`measure_single_label` counts.

    Args:
        metrics: per ensemble {"top1", "top5" (from six classes on), "mean_class"}, percent.
        right: bool [M, N], whether each network alone is right.
    """

    metrics: list[dict[str, float]]
    right: Tensor


def measure_single_label(
    blocks: Iterable[tuple[Tensor, Tensor]], ensembles: Sequence[Members], weights: Sequence[float] | None = None
) -> Measured:
    """Accuracies of ensembles whose score is the weighted sum of their networks' scores.

    Args:
        blocks: (scores [M, b, K], finite and in float64; target int64 [b]) of some videos each. Scores are what is
            averaged: probabilities, or logits.
        ensembles: in any order; the sums of common beginnings are computed once.
        weights: of the M networks; None: all 1.

    Raises:
        ValueError: no block.
    """
    tree = _tree(ensembles)
    hits = top5 = seen = None
    right = []
    for scores, target in blocks:
        if weights is not None:
            scores = scores * torch.tensor(list(weights), dtype=scores.dtype)[:, None, None]
        if hits is None:
            classes = scores.shape[-1]
            hits, top5 = torch.zeros(len(ensembles), classes), torch.zeros(len(ensembles))
            seen = torch.zeros(classes)
        assert hits is not None and top5 is not None and seen is not None
        seen += torch.bincount(target, minlength=len(seen))
        right.append(target_rank(scores.flatten(0, 1), target.repeat(len(scores))).view(len(scores), -1) == 0)
        index = target[None, :, None].expand(len(scores), -1, 1)
        owns, others = scores.gather(2, index).squeeze(2), scores.scatter(2, index, -torch.inf)
        for (rows, own), (_, rivals) in zip(_sums(owns, tree), _sums(others, tree), strict=True):
            rank = _ranks(own, rivals, target)
            hits.index_add_(0, rows, _by_class(rank == 0, target, len(seen)))
            top5.index_add_(0, rows, (rank < 5).sum(dim=1).to(top5.dtype))
    if hits is None or top5 is None or seen is None:
        raise ValueError("ensembles need at least one video")
    total = seen.sum()
    columns = {"top1": hits.double().sum(dim=1) / total}
    if len(seen) > 5:
        columns["top5"] = top5.double() / total
    columns["mean_class"] = (hits.double() / seen).nanmean(dim=1)
    values = torch.stack(list(columns.values()), dim=1).mul(100).tolist()
    return Measured([dict(zip(columns, row, strict=True)) for row in values], torch.cat(right, dim=1))


def measure_multi_label(
    scores: Sequence[Tensor],
    target: Tensor,
    ensembles: Sequence[Members],
    scoring: Scoring,
    weights: Sequence[float] | None = None,
) -> list[dict[str, float]]:
    """`map`, `map_weighted`, `map_samples` in percent of every ensemble, one after the other.

    Args:
        scores: log-sigmoids [N, K] of the M networks.
        target: multi-hot [N, K].
    """
    result: list[dict[str, float]] = []
    for members in ensembles:
        shares = None if weights is None else [weights[m] for m in members]
        mixed = ensemble([scores[m] for m in members], shares, scoring.ensemble, multi_label=True)
        result += measure({"": mixed}, target, True, scoring).values()
    return result


def positions(quality: Sequence[float]) -> list[float]:
    """Positions from 0 after sorting by descending quality. Equal qualities share the mean of theirs, so that all add
    up to n (n - 1) / 2 whatever ties."""
    order = sorted(range(len(quality)), key=lambda i: -quality[i])
    found = [0.0] * len(quality)
    start = 0
    for _, run in itertools.groupby(order, key=lambda i: quality[i]):
        tied = list(run)
        for i in tied:
            found[i] = start + (len(tied) - 1) / 2
        start += len(tied)
    return found


def rank_sums(quality: Sequence[float], ensembles: Sequence[Members], networks: int) -> list[float]:
    """Sum of the positions of the ensembles that each network is part of; the smaller the better. Where each ensemble
    has one network per group, the sums of each group add up to n (n - 1) / 2."""
    sums = [0.0] * networks
    for position, members in zip(positions(quality), ensembles, strict=True):
        for member in members:
            sums[member] += position
    return sums


def disagreement(right: Tensor) -> Tensor:
    """Share of decisions where exactly one of two networks is right, float64 [M, M]; `right` bool [M, N] (Skalak 1996;
    Kuncheva and Whitaker, Machine Learning 51, 2003, section 3.1.3)."""
    both, one, other, neither = _agreement(right)
    return (one + other) / (both + one + other + neither)


def q_statistic(right: Tensor) -> Tensor:
    """Yule's Q of two networks' being right, float64 [M, M] (Kuncheva and Whitaker 2003, section 3.1.1): 1 for the same
    mistakes, 0 for independent ones, negative for different ones; NaN where it is 0 / 0. `right` bool [M, N]."""
    both, one, other, neither = _agreement(right)
    return (both * neither - one * other) / (both * neither + one * other)


def search_weights(scores: Tensor, target: Tensor, multi_label: bool, scoring: Scoring) -> tuple[list[float], float]:
    """Weights of one ensemble that are best on these videos, summing to 1, and the quality they have here in percent
    (top-1 accuracy, or mean average precision). Of equals, the most even.

    Two and three networks: every weight in tenths. More: each weight in turn times :data:`FACTORS`, from equal ones,
    until none helps.

    Args:
        scores: [M, N, K], as :func:`measure_single_label` or :func:`measure_multi_label` take them. Never the videos
            that are reported.
    """
    size = len(scores)
    quality = _precision(scores, target, scoring) if multi_label else _accuracy(scores, target)

    def rated(weights: Sequence[float]) -> tuple[float, float]:
        total = sum(weights)
        return quality(weights), -round(sum((w / total - 1 / size) ** 2 for w in weights), 9)

    if size <= 3:
        grid = [g for g in itertools.product(range(STEPS + 1), repeat=size) if sum(g) == STEPS]
        best: Sequence[float] = max([*grid, (1,) * size], key=rated)  # thirds are not in the grid
    else:
        best = _coordinates([1.0] * size, rated)
    return [weight / sum(best) for weight in best], quality(best)


def _precision(scores: Tensor, target: Tensor, scoring: Scoring) -> Callable[[Sequence[float]], float]:
    """Weights -> mean average precision, percent."""
    members = (tuple(range(len(scores))),)
    return lambda weights: measure_multi_label(list(scores), target, members, scoring, weights)[0]["map"]


def _accuracy(scores: Tensor, target: Tensor) -> Callable[[Sequence[float]], float]:
    """Weights -> top-1 accuracy, percent. Only the videos that weights can change are looked at again: where every
    network has the right class first, or all put the same wrong class before it, so does every sum of them."""
    margins = scores - scores.gather(2, target[None, :, None].expand(len(scores), -1, 1))
    always = ((margins >= 0).sum(dim=2) == 1).all(dim=0)  # the right class alone reaches itself
    never = (margins > 0).all(dim=0).any(dim=1)
    open_, labels = scores[:, ~(always | never)], target[~(always | never)]

    def accuracy(weights: Sequence[float]) -> float:
        mixed = torch.einsum("m,mnk->nk", torch.tensor(list(weights), dtype=scores.dtype), open_)
        return 100 * (int(always.sum()) + int((target_rank(mixed, labels) == 0).sum())) / len(target)

    return accuracy


def _coordinates(weights: Sequence[float], rated: Callable[[Sequence[float]], tuple[float, float]]) -> Sequence[float]:
    best, reached = list(weights), rated(weights)
    for _ in range(ROUNDS):
        before = reached
        for place in range(len(best)):
            base = best[place] or weights[place]
            for factor in FACTORS:
                trial = [*best[:place], base * factor, *best[place + 1 :]]
                if any(trial) and (value := rated(trial)) > reached:
                    best, reached = trial, value
        if reached == before:
            break
    return best


Tree = list[tuple[Members, list[int], list[int]]]


def _tree(ensembles: Sequence[Members]) -> Tree:
    """(first members, last members, which ensembles they make), sorted so that equal beginnings follow each other."""
    groups: dict[Members, list[tuple[int, int]]] = {}
    for row, members in enumerate(ensembles):
        groups.setdefault(tuple(members[:-1]), []).append((members[-1], row))
    return [(first, [m for m, _ in pairs], [row for _, row in pairs]) for first, pairs in sorted(groups.items())]


def _sums(scores: Tensor, tree: Tree) -> Iterable[tuple[Tensor, Tensor]]:
    """(which ensembles [e], their scores [e, ...]) for every beginning; partial sums last as long as it stays."""
    partial: list[tuple[int, Tensor]] = []
    for first, last, rows in tree:
        kept = 0
        while kept < min(len(first), len(partial)) and partial[kept][0] == first[kept]:
            kept += 1
        del partial[kept:]
        for member in first[kept:]:
            partial.append((member, partial[-1][1] + scores[member] if partial else scores[member]))
        sums = scores[last]
        yield torch.tensor(rows), sums.add_(partial[-1][1]) if partial else sums


def _ranks(own: Tensor, rivals: Tensor, target: Tensor) -> Tensor:
    """Place of the right class, int64 [e, b], ties as in :func:`target_rank`, of the scores `own` [e, b] of the right
    class and `rivals` [e, b, K] of the others (the right one's is -inf)."""
    rank = torch.zeros(own.shape, dtype=torch.int64)
    e, v = (rivals.amax(dim=2) >= own).nonzero(as_tuple=True)  # only here the slow exact rank is needed
    wrong, labels = rivals[e, v], target[v]
    rank[e, v] = target_rank(wrong.scatter_(1, labels[:, None], own[e, v][:, None]), labels)
    return rank


def _by_class(first: Tensor, target: Tensor, classes: int) -> Tensor:
    """Hits per class [e, K]."""
    return torch.zeros(len(first), classes).index_add_(1, target, first.to(torch.float32))


def _agreement(right: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Counts of both, one, other, neither right, [M, M]."""
    yes = right.to(torch.float32)  # counts below 2^24 are exact
    no = 1 - yes
    return tuple((a @ b.T).double() for a, b in ((yes, yes), (yes, no), (no, yes), (no, no)))  # type: ignore[return-value]
