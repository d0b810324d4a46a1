"""From per-view logits to every number that is reported. Legend: N videos, V views, K classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mml_lightning.evaluation.metrics.average_precision import EMPTY, RULES, class_precision
from mml_lightning.evaluation.metrics.classification import class_accuracy
from mml_lightning.evaluation.metrics.pooling import ENSEMBLES, POOLINGS, ensemble, pool_views

ENSEMBLE, FUSED = "ensemble", "fused"  # which no peer may be called
METRICS = ("top1", "top5", "mean_class", "loss", "ece", "map", "map_weighted", "map_samples")  # in this order


@dataclass(frozen=True)
class Scoring:
    """The choices between logits and numbers.

    Args:
        pooling: views of a video to one score, see :func:`~mml_lightning.evaluation.metrics.pooling.pool_views`.
        ensemble: what is averaged over peers, see :func:`~mml_lightning.evaluation.metrics.pooling.ensemble`.
        ap: rule of average precision, see :func:`average_precision.average_precision`.
        empty_class: what a class without a positive is in the mean over classes.

    Raises:
        ValueError: an unknown choice, named by its key in the config.
    """

    pooling: str = "logits"
    ensemble: str = "probs"
    ap: str = "grouped"
    empty_class: str = "drop"

    def __post_init__(self) -> None:
        for key, value, known in (
            ("views.pooling", self.pooling, POOLINGS),
            ("views.ensemble", self.ensemble, ENSEMBLES),
            ("metrics.ap", self.ap, RULES),
            ("metrics.empty_class", self.empty_class, EMPTY),
        ):
            if value not in known:
                raise ValueError(f"{key}={value!r} is unknown; use one of {list(known)}")


DEFAULT = Scoring()


def pool_peers(
    logits: Mapping[str, Tensor],
    multi_label: bool,
    scoring: Scoring,
    weights: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """{peer: log-scores float64 [N, K]} of logits {peer: [N, V, K]} and, with several peers, "ensemble". What the peers
    are fused to is scored like a peer, and is no member of their ensemble.

    Args:
        weights: of the peers in the ensemble; 1 where a peer is not named.

    Raises:
        ValueError: a weight of a peer that is not there, or no usable weight.
    """
    unknown = sorted(set(weights or {}) - set(logits))
    if unknown:
        raise ValueError(f"weights name {unknown[0]!r}; the peers are {list(logits)}")
    pooled = {peer: pool_views(value, scoring.pooling, multi_label) for peer, value in logits.items()}
    members = {peer: scores for peer, scores in pooled.items() if peer != FUSED}
    if len(members) > 1:
        shares = [(weights or {}).get(peer, 1.0) for peer in members]
        pooled[ENSEMBLE] = ensemble(list(members.values()), shares, scoring.ensemble, multi_label)
    return pooled


def labelled(target: Tensor) -> Tensor:
    """[N] bool: videos whose label is known. Unknown is -1 in `target` [N], and in all of a row of [N, K]."""
    return target >= 0 if target.ndim == 1 else (target >= 0).all(dim=1)


def measure(
    pooled: Mapping[str, Tensor], target: Tensor, multi_label: bool, scoring: Scoring
) -> dict[str, dict[str, float]]:
    """{peer: {metric: value}} over the labelled videos that the peer has seen; peers without any are left out.

    Single-label: `top1`, `top5` (from six classes on), `mean_class` (mean over the classes that occur), in percent,
    `loss`, the mean negative log-probability, and `ece`, the expected calibration error from 0 to 1. Multi-label:
    `map`, `map_weighted`, `map_samples`, in percent.

    Args:
        pooled: log-scores [N, K] as :func:`pool_peers` gives them; every rank has all.
        target: int64 [N], or multi-hot [N, K]; see :func:`labelled`.
    """
    from mml_lightning.evaluation.metrics.video_metrics import multi_label_metrics, single_label_metrics

    result = {}
    for peer, scores in pooled.items():
        seen = labelled(target) & ~scores.isnan().any(dim=1)
        if seen.any():
            if multi_label:
                metrics = multi_label_metrics(scoring.ap, scoring.empty_class, sync_on_compute=False)
            else:
                metrics = single_label_metrics(scores.shape[1], sync_on_compute=False)
            metrics.update(scores[seen], target[seen])
            found = metrics.compute()  # sorted by name
            result[peer] = {name: float(found[name]) for name in METRICS if name in found}
    return result


def by_class(
    pooled: Mapping[str, Tensor], target: Tensor, multi_label: bool, scoring: Scoring
) -> tuple[Tensor, dict[str, Tensor]]:
    """Labelled videos of each class, int64 [K], and per peer the accuracy or average precision of each class in
    percent, float64 [K], NaN for classes that none of the peer's videos has."""
    known = labelled(target)
    classes = next(iter(pooled.values())).shape[1]
    positives = (target[known] > 0).sum(dim=0) if multi_label else torch.bincount(target[known], minlength=classes)
    columns = {}
    for peer, scores in pooled.items():
        seen = known & ~scores.isnan().any(dim=1)
        if multi_label:
            values = class_precision(scores[seen], target[seen], scoring.ap)
        else:
            values = class_accuracy(scores[seen], target[seen])
        columns[peer] = 100 * values
    return positives, columns
