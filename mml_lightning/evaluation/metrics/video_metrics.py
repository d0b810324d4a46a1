"""The numbers of a peer as `torchmetrics.Metric` classes: ours where ties or a protocol need it, torchmetrics' own
where it gives the same. Legend: N videos, K classes.

A metric takes pooled log-scores [N, K] in any number of parts, and sums its state over the ranks when it is computed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassCalibrationError, MulticlassConfusionMatrix
from torchmetrics.utilities.data import dim_zero_cat

from mml_lightning.evaluation.metrics.average_precision import (
    class_precision,
    mean_average_precision,
    sample_average_precision,
    weighted_average_precision,
)
from mml_lightning.evaluation.metrics.classification import recalled, target_rank

BINS = 15  # of the calibration error, of equal width


class TopKAccuracy(Metric):
    """Percent of the videos whose right class is among the best k; of tied classes the first stands before the others,
    where torchmetrics leaves it to the sorting algorithm."""

    full_state_update = False
    hits: Tensor
    videos: Tensor

    def __init__(self, k: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.k = k
        self.add_state("hits", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("videos", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, target: Tensor) -> None:
        """`scores` [N, K], `target` int64 [N]."""
        self.hits += (target_rank(scores, target) < self.k).sum()
        self.videos += len(target)

    def compute(self) -> Tensor:
        return 100 * (self.hits.to(torch.float64) / self.videos)


class MeanClassAccuracy(MulticlassConfusionMatrix):
    """Percent of a class's videos that are recognised, mean over the classes that occur."""

    def compute(self) -> Tensor:
        return 100 * recalled(super().compute()).nanmean()


class LogLoss(Metric):
    """Mean negative log-probability of the right class."""

    full_state_update = False
    loss: Tensor
    videos: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("loss", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("videos", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, target: Tensor) -> None:
        """`scores` log-probabilities [N, K], `target` int64 [N]."""
        self.loss += F.nll_loss(scores, target, reduction="sum")
        self.videos += len(target)

    def compute(self) -> Tensor:
        return self.loss / self.videos


class CalibrationError(MulticlassCalibrationError):
    """Expected calibration error from 0 to 1: how far the probability of the best class is from how often it is right,
    mean over bins of the probability, each weighted by its videos."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """`preds` log-probabilities [N, K], `target` int64 [N]."""
        super().update(preds.exp().clamp(max=1.0), target)  # rounded above 1 they would be taken for logits


class AveragePrecisions(Metric):
    """`map`, `map_weighted` and `map_samples` in percent, by the rules of :mod:`.average_precision`."""

    full_state_update = False
    scores: list[Tensor]
    target: list[Tensor]

    def __init__(self, rule: str, empty_class: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rule, self.empty_class = rule, empty_class
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, target: Tensor) -> None:
        """`scores` [N, K], `target` multi-hot [N, K]."""
        self.scores.append(scores)
        self.target.append(target)

    def compute(self) -> dict[str, float]:
        scores, target = dim_zero_cat(self.scores), dim_zero_cat(self.target)
        per_class, positives = class_precision(scores, target, self.rule), (target > 0).sum(dim=0)
        return {
            "map": 100 * mean_average_precision(per_class, self.empty_class),
            "map_weighted": 100 * weighted_average_precision(per_class, positives, self.empty_class),
            "map_samples": 100 * sample_average_precision(scores, target, self.rule),
        }


def single_label_metrics(classes: int, **kwargs: Any) -> MetricCollection:
    """`top1`, `top5` (from six classes on), `mean_class`, `loss`, `ece`; `kwargs` of `torchmetrics.Metric`."""
    metrics: dict[str, Metric] = {"top1": TopKAccuracy(1, **kwargs)}
    if classes > 5:
        metrics["top5"] = TopKAccuracy(5, **kwargs)
    metrics["mean_class"] = MeanClassAccuracy(classes, validate_args=False, **kwargs)
    metrics["loss"] = LogLoss(**kwargs)
    metrics["ece"] = CalibrationError(classes, BINS, "l1", validate_args=False, **kwargs)
    return _collection(metrics)


def multi_label_metrics(rule: str, empty_class: str, **kwargs: Any) -> MetricCollection:
    """`map`, `map_weighted`, `map_samples`."""
    return _collection({"average_precision": AveragePrecisions(rule, empty_class, **kwargs)})


def _collection(metrics: dict[str, Metric]) -> MetricCollection:
    # groups are made of metrics whose states are equal after the first part, and two of ours may be by chance
    return MetricCollection(metrics, compute_groups=False)  # type: ignore[arg-type]
