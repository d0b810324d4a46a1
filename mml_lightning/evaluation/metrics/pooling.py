"""Views to one score per video, peers to one ensemble. Legend: N videos, V views, K classes.

Scores are log-probabilities (single-label) or log-sigmoids (multi-label), float64: logs keep apart what probabilities
near 0 and 1 round together, so pooling makes no ties.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

POOLINGS = ("logits", "probs", "max")
ENSEMBLES = ("probs", "logits")
LOG_HALF = math.log(0.5)
PART = 512  # videos


def activate(logits: Tensor, multi_label: bool) -> Tensor:
    """Log-probabilities over the last dimension, or log-sigmoids."""
    return F.logsigmoid(logits) if multi_label else F.log_softmax(logits, dim=-1)


def pool_views(logits: Tensor, pooling: str = "logits", multi_label: bool = False) -> Tensor:
    """Scores of videos, float64 [N, K], from per-view logits [N, V, K].

    `logits` averages before the activation (TSM and MML), `probs` after it, `max` takes the largest probability over
    the views (PySlowFast on Charades). There is no sum: in PySlowFast it spoils multi-label scores, and for a fixed
    number of views it ranks as `probs` does. A video with a NaN has NaN scores.

    Raises:
        ValueError: unknown pooling.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"views.pooling={pooling!r} is unknown; use one of {list(POOLINGS)}")
    # in parts: in float64 the views of a large split would take many gigabytes
    return torch.cat([_pool(part.to(torch.float64), pooling, multi_label) for part in logits.split(PART)])


def _pool(logits: Tensor, pooling: str, multi_label: bool) -> Tensor:
    if pooling == "logits":
        return activate(logits.mean(dim=1), multi_label)
    if pooling == "probs":
        shares = torch.full((logits.shape[1], 1, 1), 1 / logits.shape[1], dtype=torch.float64)
        return _mean_probability(activate(logits, multi_label).transpose(0, 1), shares, multi_label)
    return activate(logits, multi_label).max(dim=1).values


def ensemble(
    scores: Sequence[Tensor],
    weights: Sequence[float] | None = None,
    kind: str = "probs",
    multi_label: bool = False,
) -> Tensor:
    """Weighted mean of the peers' scores [N, K], as log-probabilities or log-sigmoids [N, K].

    `probs` averages probabilities: it weighs peers alike whatever the scale of their logits. `logits` averages what
    stood before the activation, as the programs of TSM and MML do: a peer with larger logits has more to say. A peer
    without a score for a video (NaN: its modality is absent) is left out of that video's mean.

    Raises:
        ValueError: unknown kind, or weights that are negative, not finite or all zero.
    """
    if kind not in ENSEMBLES:
        raise ValueError(f"views.ensemble={kind!r} is unknown; use one of {list(ENSEMBLES)}")
    weight = torch.tensor([1.0] * len(scores) if weights is None else list(weights), dtype=torch.float64)
    usable = weight.isfinite().all() and (weight >= 0).all() and weight.sum() > 0
    if len(weight) != len(scores) or not usable:
        raise ValueError(
            f"weights of an ensemble are one finite number from 0 on per peer, not all 0; got {weight.tolist()}"
        )
    taken = [i for i in range(len(scores)) if weight[i] > 0]
    stack, weight = torch.stack([scores[i].to(torch.float64) for i in taken]), weight[taken]
    seen = ~stack.isnan()
    share = seen * weight[:, None, None]  # [M, N, K]
    mass = share.sum(dim=0)
    if kind == "probs":
        return _mean_probability(stack.masked_fill(~seen, 0.0), share / mass, multi_label)
    before = _deactivate(stack, multi_label).masked_fill(~seen, 0.0)
    return activate((before * share).sum(dim=0) / mass, multi_label)  # 0 / 0 is NaN: no peer has seen the video


def _mean_probability(scores: Tensor, share: Tensor, multi_label: bool) -> Tensor:
    """Log of the mean over the first dimension of the probabilities whose logs are `scores` [M, N, K], with weights
    `share` [M, N or 1, K or 1] that sum to 1."""
    mean = (scores + share.log()).logsumexp(dim=0)
    if not multi_label:
        return mean
    # several classes can be near 1, where 1 - p still tells apart what p rounds together
    rest = (log_complement(scores) + share.log()).logsumexp(dim=0)
    return torch.where(mean > LOG_HALF, (-rest.exp()).log1p(), mean)


def _deactivate(scores: Tensor, multi_label: bool) -> Tensor:
    """Logits of log-sigmoids. Log-probabilities are logits: the softmax ignores the constant they have lost."""
    return scores - log_complement(scores) if multi_label else scores


def log_complement(scores: Tensor) -> Tensor:
    """log(1 - p) of log p, without loss for p near 0 and near 1."""
    return torch.where(scores > LOG_HALF, (-scores.expm1()).log(), (-scores.exp()).log1p())
