"""Is a probability of 0.8 right eight times of ten? Legend: N videos, K classes, B bins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 15  # of equal width


@dataclass(frozen=True)
class Reliability:
    """What is said and what comes true, by bins of equal width of what is said. Each float64 [B], of `count` the number
    of decisions; the other two are NaN in a bin without one."""

    count: Tensor
    confidence: Tensor
    accuracy: Tensor

    @property
    def error(self) -> float:
        """Expected calibration error from 0 to 1: |confidence - accuracy|, each bin weighted by its decisions."""
        return float((self.count * (self.confidence - self.accuracy).abs()).nansum() / self.count.sum())


def decisions(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(confidence, whether it came true), one for each decision.

    With one label a video is a decision, and its confidence the probability of its best class. With several, each
    video and class is one, and its confidence the probability of the label.

    Args:
        scores: log-probabilities [N, K], or log-sigmoids where `target` is multi-hot [N, K]; `target` else int64 [N].
    """
    if target.ndim == 2:
        return scores.exp().flatten(), (target > 0).flatten()
    best = scores.max(dim=1)
    return best.values.exp(), best.indices == target


def reliability(confidence: Tensor, right: Tensor, bins: int = BINS) -> Reliability:
    """`confidence` from 0 to 1 and bool `right`, both [N]. A bin holds its lower end, the last one both."""
    ends = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype)
    place = torch.bucketize(confidence.contiguous(), ends, right=True).sub(1).clamp(0, bins - 1)

    def sums(values: Tensor) -> Tensor:
        return torch.zeros(bins, dtype=torch.float64).index_add_(0, place, values.double())

    count = sums(torch.ones_like(confidence))
    return Reliability(count, sums(confidence) / count, sums(right) / count)
