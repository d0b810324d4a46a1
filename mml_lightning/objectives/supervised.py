"""Supervised terms: how logits are compared with labels. Legend: B batch, K classes, P positives of a sample.

Each is a function (logits [B, K], target) -> loss per sample [B], of class indices [B] or of multi-hot labels [B, K];
:class:`Supervised` chooses one with its options. Ranking losses compare the classes of one sample with each other: of a
sample whose labels are all or none of the classes the loss is 0.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

AUTO_SCALE = 0.511  # per class: 160 for the 313 classes of Multi-Moments in Time


def cross_entropy(logits: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy, or binary cross-entropy averaged over the classes, so that the batch mean is the "mean" reduction
    over B x K (MML paper, Appendix 2).

    Args:
        label_smoothing: share e of a target that is spread: (1 - e) y + e / K.

    Raises:
        ValueError: the target fits neither form.
    """
    if target.ndim == 1:
        return F.cross_entropy(logits, target, reduction="none", label_smoothing=label_smoothing)
    return _binary(logits, target, label_smoothing).mean(dim=1)


def scaled_bce(
    logits: Tensor, target: Tensor, scale: float | None = 160.0, label_smoothing: float = 0.0, weights: Any = None
) -> Tensor:
    """Binary cross-entropy averaged over the classes, times `scale` (winner of Multi-Moments in Time 2019). The rate,
    the decay and the clipping norm belong to the scale.

    Args:
        scale: null stands for 0.511 K, which keeps the pressure per class that 160 has with 313 classes.
        weights: of the classes, [K].
    """
    each = _binary(logits, target, label_smoothing)
    if weights is not None:
        each = each * weights.to(each)
    return each.mean(dim=1) * (AUTO_SCALE * logits.shape[1] if scale is None else scale)


def lsep(logits: Tensor, target: Tensor) -> Tensor:
    """log(1 + sum over pairs of exp(negative - positive)), all pairs (Li, Song, Luo, CVPR 2017)."""
    positive = _multi_hot(logits, target) > 0
    usable = positive.any(1) & (~positive).any(1)
    kept, chosen = logits[usable], positive[usable]
    low = -torch.inf
    pairs = kept.masked_fill(chosen, low).logsumexp(1) + (-kept).masked_fill(~chosen, low).logsumexp(1)
    return _spread(F.softplus(pairs), usable)


def wlsep(logits: Tensor, target: Tensor, weights: Any = None) -> Tensor:
    """As `lsep` for every positive by itself, averaged over the positives of the batch (Monfort et al., Multi-Moments
    in Time, 2019).

    Args:
        weights: of the classes, [K].
    """
    positive = _multi_hot(logits, target) > 0
    usable = positive.any(1) & (~positive).any(1)
    kept, chosen = logits[usable], positive[usable]
    negatives = kept.masked_fill(chosen, -torch.inf).logsumexp(1, keepdim=True)
    each = F.softplus(negatives - kept) * (1.0 if weights is None else weights.to(kept))
    summed = torch.where(chosen, each, 0.0).sum(1)
    return _spread(summed, usable) * (len(logits) / chosen.sum().clamp_min(1).to(logits))


def warp(logits: Tensor, target: Tensor) -> Tensor:
    """Weighted approximate-rank pairwise loss, exact: hinges of a positive over the negatives that come within 1 of it,
    averaged, times 1 + 1/2 + .. + 1/rank; summed over the positives (Weston et al., WSABIE, 2011; Gong et al., 2013).
    No gradient goes through the rank."""
    positive = _multi_hot(logits, target) > 0
    hinges = (1 - logits[:, :, None] + logits[:, None, :]).clamp_min(0)  # [B, K of positives, K of negatives]
    hinges = hinges.masked_fill(~(positive[:, :, None] & ~positive[:, None, :]), 0.0)
    rank = (hinges.detach() > 0).sum(2)
    harmonic = torch.cat([logits.new_zeros(1), (1 / torch.arange(1, logits.shape[1] + 1).to(logits)).cumsum(0)])
    # of rank 0 the sum is 0: dividing by 1 keeps gradients finite
    return (harmonic[rank] / rank.clamp_min(1) * hinges.sum(2)).sum(1)


def bp_mll(logits: Tensor, target: Tensor, normalise: bool = False) -> Tensor:
    """Sum over pairs of exp(negative - positive) (Zhang, Zhou, BP-MLL, 2006).

    Args:
        normalise: divide by the number of pairs, as the paper does.
    """
    positive = _multi_hot(logits, target) > 0
    ups = torch.where(positive, (-logits).exp(), 0.0).sum(1)
    downs = torch.where(positive, 0.0, logits.exp()).sum(1)
    count = (positive.sum(1) * (~positive).sum(1)).clamp_min(1)
    return ups * downs / (count if normalise else 1)


def focal(logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: float | None = 0.25) -> Tensor:
    """(1 - p)^gamma times cross-entropy, p being the probability of what is right (Lin et al., ICCV 2017).

    Args:
        alpha: of several labels, the weight of positives, 1 - alpha of negatives; null: none.
    """
    if target.ndim == 1:
        loss = F.cross_entropy(logits, target, reduction="none")
        return (-torch.expm1(-loss)).clamp_min(0) ** gamma * loss
    hot = _multi_hot(logits, target)
    loss = F.binary_cross_entropy_with_logits(logits, hot, reduction="none")
    loss = (-torch.expm1(-loss)).clamp_min(0) ** gamma * loss
    return (loss if alpha is None else (alpha * hot + (1 - alpha) * (1 - hot)) * loss).mean(1)


def asymmetric(
    logits: Tensor, target: Tensor, gamma_positive: float = 1.0, gamma_negative: float = 4.0, margin: float = 0.05
) -> Tensor:
    """Focal with exponents of their own for positives and negatives, probabilities of negatives lowered by `margin`;
    summed over the classes (Ridnik et al., ASL, ICCV 2021)."""
    hot = _multi_hot(logits, target)
    raised = torch.sigmoid(logits)
    lowered = (raised - margin).clamp_min(0)
    positives = hot * (1 - raised) ** gamma_positive * F.logsigmoid(logits)
    negatives = (1 - hot) * lowered**gamma_negative * torch.log1p(-lowered.clamp_max(1 - 1e-7))
    return -(positives + negatives).sum(1)


LOSSES: dict[str, Callable[..., Tensor]] = {
    loss.__name__: loss for loss in (cross_entropy, scaled_bce, lsep, wlsep, warp, bp_mll, focal, asymmetric)
}
SEVERAL = ("scaled_bce", "lsep", "wlsep", "warp", "bp_mll", "asymmetric")
"""Losses of several labels per video only."""
CLASS_WEIGHTS = ("sqrt", "linear", "inverse")
NULL = ("alpha", "scale")  # options that may be null
SHARES = ("label_smoothing", "alpha", "margin")  # options from 0 to 1; the other numbers are 0 or more


def options_of(name: str) -> dict[str, Any]:
    """Options of a loss with their defaults, `weights` aside.

    Raises:
        ValueError: there is no such loss.
    """
    if name not in LOSSES:
        raise ValueError(f"loss={name!r} is unknown; use one of {sorted(LOSSES)}")
    parameters = list(inspect.signature(LOSSES[name]).parameters.values())[2:]
    return {one.name: one.default for one in parameters if one.name != "weights"}


def weighs_classes(name: str) -> bool:
    """Whether a loss takes a weight per class."""
    return "weights" in inspect.signature(LOSSES[name]).parameters


def class_weights(rule: str, counts: Tensor) -> Tensor:
    """Weights [K] from how many training videos have each class, [K].

    `linear` is N / mean N and `sqrt` its root: frequent classes count more (Multi-Moments in Time 2019); `inverse` is
    mean N / N. A class that no video has is counted as one video.

    Raises:
        ValueError: unknown rule.
    """
    if rule not in CLASS_WEIGHTS:
        raise ValueError(f"loss.class_weights={rule!r} is unknown; use one of {list(CLASS_WEIGHTS)}")
    shares = counts.double().clamp_min(1) / counts.double().mean()
    return {"sqrt": shares.sqrt(), "linear": shares, "inverse": 1 / shares}[rule]


@dataclass(frozen=True)
class Supervised:
    """A loss with its options.

    Args:
        name: one of :data:`LOSSES`.
        options: the loss's own.
        weights: of the classes of each size of head, {K: [K]}; none where classes count alike.

    Raises:
        ValueError: unknown loss or option, or an option out of range.
    """

    name: str = "cross_entropy"
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = options_of(self.name)
        for key, value in self.options.items():
            if key not in known:
                raise ValueError(f"loss.{key} is no option of loss={self.name}; it has {sorted(known) or 'none'}")
            if isinstance(known[key], bool) is not isinstance(value, bool):
                must = "true or false" if isinstance(known[key], bool) else "a number"
                raise ValueError(f"loss.{key}={value} must be {must}")
            if value is None and key in NULL:
                continue
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"loss.{key}={value} must be a finite number")
            if value < 0 or (key in SHARES and value > 1):
                raise ValueError(f"loss.{key}={value} must be {'from 0 to 1' if key in SHARES else '0 or more'}")

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss per sample [B]."""
        own = {"weights": self.weights[logits.shape[1]]} if self.weights else {}
        return LOSSES[self.name](logits, target, **self.options, **own)

    def term(self, target: Tensor) -> str:
        """What it is called in logs."""
        return {"cross_entropy": "bce" if target.ndim > 1 else "ce"}.get(self.name, self.name)


def _multi_hot(logits: Tensor, target: Tensor) -> Tensor:
    if target.shape != logits.shape:
        raise ValueError(
            f"target {tuple(target.shape)} fits neither class indices nor multi-hot labels of {tuple(logits.shape)}"
        )
    return target.to(logits.dtype)


def _binary(logits: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
    """[B, K]"""
    hot = _multi_hot(logits, target)
    if label_smoothing:
        hot = (1 - label_smoothing) * hot + label_smoothing / logits.shape[1]
    return F.binary_cross_entropy_with_logits(logits, hot, reduction="none")


def _spread(values: Tensor, rows: Tensor) -> Tensor:
    """[B] with `values` where `rows` is true and 0, connected to nothing, elsewhere."""
    return torch.zeros(len(rows), dtype=values.dtype, device=values.device).masked_scatter(rows, values)
