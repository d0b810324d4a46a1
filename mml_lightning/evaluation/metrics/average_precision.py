"""Average precision under its two rules. Legend: N videos, K classes.

Without ties both rules are one number. With ties they differ: four videos of one score, of which the first and the
third are positive, have 0.50 under the grouped rule and 0.83 under the sequential one.
"""

from __future__ import annotations

import torch
from torch import Tensor

RULES = ("grouped", "sequential")
EMPTY = ("drop", "nan", "zero")


def average_precision(scores: Tensor, target: Tensor, rule: str = "grouped") -> Tensor:
    """Average precision of every class, float64 [K] from 0 to 1; NaN for a class without a positive.

    `grouped` sums precision times gained recall over the distinct scores, so that tied videos count together whatever
    their order (scikit-learn's `average_precision_score`; the evaluation of PySlowFast on Charades). `sequential` is
    the mean precision at the hits of a stable descending sort, ties in the order of the videos (the official
    evaluation of Charades, `Charades_v1_classify.m`).

    Args:
        scores: float32 or float64 [N, K], larger is surer; -inf ranks last.
        target: [N, K], positive where > 0.

    Raises:
        ValueError: unknown rule, shapes differ, a score is NaN, or scores of half precision, whose rounding makes ties.
    """
    if rule not in RULES:
        raise ValueError(f"metrics.ap={rule!r} is unknown; use one of {list(RULES)}")
    if scores.shape != target.shape or scores.ndim != 2:
        raise ValueError(f"scores {tuple(scores.shape)} and target {tuple(target.shape)} must both be [N, K]")
    if scores.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"scores are {scores.dtype}, whose rounding creates ties; use float32 or float64")
    if scores.isnan().any():
        raise ValueError("a score is NaN; leave its video out, or give it -inf")
    ranked, order = scores.sort(dim=0, descending=True, stable=True)
    hits = (target > 0).gather(0, order).to(torch.float64)
    places = torch.arange(1, len(scores) + 1, dtype=torch.float64, device=scores.device)[:, None]
    precision = hits.cumsum(dim=0) / places
    if rule == "grouped":
        precision = precision.gather(0, last_of_ties(ranked))
    return (precision * hits).sum(dim=0) / hits.sum(dim=0)  # 0 / 0 is NaN: no positive


def class_precision(scores: Tensor, target: Tensor, rule: str) -> Tensor:
    """:func:`average_precision` of a split; under `sequential` a video without a label has no score."""
    if rule == "sequential":
        scores = unlabelled_last(scores, target)
    return average_precision(scores, target, rule)


def mean_average_precision(per_class: Tensor, empty_class: str = "drop") -> float:
    """Mean of average precisions [K]. A class without a positive is left out (`drop`), makes the mean NaN as in the
    official programs (`nan`), or counts as 0 (`zero`).

    Raises:
        ValueError: unknown `empty_class`.
    """
    return float(_without_empty(per_class, empty_class)[0].mean())


def weighted_average_precision(per_class: Tensor, positives: Tensor, empty_class: str = "drop") -> float:
    """Average precisions [K] weighted by the `positives` [K] of their classes (second number of the official Charades
    evaluation). A class without a positive has no weight; with `nan` it makes the mean NaN.

    Raises:
        ValueError: unknown `empty_class`.
    """
    values, kept = _without_empty(per_class, empty_class)
    weight = positives[kept].to(torch.float64)
    return float((values * weight).sum() / weight.sum())


def sample_average_precision(scores: Tensor, target: Tensor, rule: str = "grouped") -> float:
    """Average precision of every video over its classes, then the mean over the videos that have a label: the mAP of
    Multi-Moments in Time. Shapes as in :func:`average_precision`."""
    return mean_average_precision(average_precision(scores.T, target.T, rule))


def unlabelled_last(scores: Tensor, target: Tensor) -> Tensor:
    """`scores` [N, K] with -inf for the videos that have no label at all: the official Charades evaluation never reads
    their scores, so they stand behind every labelled video and change nothing."""
    return scores.masked_fill(~(target > 0).any(dim=1, keepdim=True), -torch.inf)


def last_of_ties(ranked: Tensor) -> Tensor:
    """Per place of `ranked` [N, K] (descending), the last place of the same score."""
    size = len(ranked)
    places = torch.arange(size, device=ranked.device)[:, None].expand_as(ranked)
    ends = torch.ones_like(ranked, dtype=torch.bool)
    ends[:-1] = ranked[:-1] != ranked[1:]
    return places.masked_fill(~ends, size).flip(0).cummin(dim=0).values.flip(0)


def _without_empty(per_class: Tensor, empty_class: str) -> tuple[Tensor, Tensor]:
    """The values that take part and [K] bool, which classes they are."""
    if empty_class not in EMPTY:
        raise ValueError(f"metrics.empty_class={empty_class!r} is unknown; use one of {list(EMPTY)}")
    if empty_class == "drop":
        known = ~per_class.isnan()
        return per_class[known], known
    values = per_class.nan_to_num(nan=0.0) if empty_class == "zero" else per_class
    return values, torch.ones_like(per_class, dtype=torch.bool)
