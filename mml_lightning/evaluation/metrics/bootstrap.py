"""How much of a number is luck: the videos, and the seeds, drawn again and again with replacement.

Every number of one :class:`Bootstrap` uses the same draws, so that differences are paired. Legend: R draws, S seeds, N
videos, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mml_lightning.evaluation.metrics.average_precision import class_precision, last_of_ties, mean_average_precision

DRAWS = 1000


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Sampled:
    """A number on the videos at hand, and on each draw of them, float64 [R]."""

    value: float
    draws: Tensor

    def __sub__(self, other: Sampled) -> Sampled:
        return Sampled(self.value - other.value, self.draws - other.draws)

    def interval(self) -> Interval:
        """Ends: the 2.5 and 97.5 % quantiles of the draws on which the number exists."""
        kept = self.draws[self.draws.isfinite()]
        if not len(kept):
            return Interval(self.value, float("nan"), float("nan"))
        low, high = kept.quantile(torch.tensor([0.025, 0.975], dtype=kept.dtype)).tolist()
        return Interval(self.value, low, high)


class Bootstrap:
    """Draws of N videos and, of several seeds, of seeds.

    Args:
        videos: N.
        seeds: S.
    """

    def __init__(self, videos: int, seeds: int, draws: int = DRAWS) -> None:
        generator = torch.Generator().manual_seed(0)

        def counts(size: int) -> Tensor:
            rows = [torch.randint(size, (size,), generator=generator).bincount(minlength=size) for _ in range(draws)]
            return torch.stack(rows).double()

        self.counts = counts(videos)  # [R, N]
        self.weights = counts(seeds) / seeds  # [R, S]

    def ratio(self, above: Tensor, below: Tensor) -> Sampled:
        """Sum of `above` over sum of `below`, both [S, N], the mean over the seeds."""
        above, below = above.double(), below.double()
        each = (self.counts @ above.T) / (self.counts @ below.T)
        return Sampled(float((above.sum(dim=1) / below.sum(dim=1)).mean()), self._over_seeds(each))

    def mean(self, values: Tensor) -> Sampled:
        """Mean of `values` [S, N] over the videos and seeds."""
        return self.ratio(values, torch.ones_like(values))

    def mean_average_precision(self, scores: Tensor, target: Tensor, rule: str, empty_class: str) -> Sampled:
        """In percent, of `scores` [S, N, K] and multi-hot `target` [N, K], see :mod:`.average_precision`. On draws the
        rule is `grouped`, and classes that a draw leaves without a positive do not count."""
        exact = [mean_average_precision(class_precision(one, target, rule), empty_class) for one in scores]
        each = torch.stack([self._drawn_precision(one, target) for one in scores], dim=1)
        return Sampled(100 * sum(exact) / len(exact), 100 * self._over_seeds(each))

    def _drawn_precision(self, scores: Tensor, target: Tensor) -> Tensor:
        """Mean over the classes of the average precision on each draw, [R]."""
        columns = []
        times = self.counts.T.float().contiguous()  # of each video, [N, R]; sums of counts stay exact
        for own, hit in zip(scores.T, (target > 0).T, strict=True):
            ranked, order = own.sort(descending=True, stable=True)
            places = hit[order].nonzero().squeeze(1)
            last = last_of_ties(ranked[:, None]).squeeze(1)[places]
            hits = times[order[places]]
            hits_until_last = hits.cumsum(dim=0)[torch.searchsorted(places, last, right=True) - 1]
            precision = hits_until_last / times[order].cumsum(dim=0)[last].clamp(min=1)
            columns.append((precision * hits).sum(dim=0) / hits.sum(dim=0))
        return torch.stack(columns).double().nanmean(dim=0)

    def _over_seeds(self, each: Tensor) -> Tensor:
        """Mean over the drawn seeds of `each` [R, S]."""
        return (each * self.weights).sum(dim=1)
