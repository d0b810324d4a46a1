"""Accuracies of single-label classification. Legend: N videos, K classes."""

from __future__ import annotations

import torch
from torch import Tensor


def target_rank(scores: Tensor, target: Tensor) -> Tensor:
    """Classes that stand before the right one, int64 [N], for `scores` [N, K] and `target` [N]. Of tied classes the
    first stands before the others, as in argmax, so that no number depends on a sorting algorithm."""
    own = scores.gather(1, target[:, None])
    index = torch.arange(scores.shape[1], device=scores.device)
    return ((scores > own) | ((scores == own) & (index < target[:, None]))).sum(dim=1)


def top_k_accuracy(scores: Tensor, target: Tensor, k: int = 1) -> float:
    """Share of the videos, 0 to 1, whose right class is among the best k of `scores` [N, K]; `target` [N]."""
    return float((target_rank(scores, target) < k).to(torch.float64).mean())


def class_accuracy(scores: Tensor, target: Tensor) -> Tensor:
    """Share of each class's videos that are recognised, float64 [K]; NaN for a class without a video."""
    hit = (target_rank(scores, target) == 0).to(torch.float64)
    hits = torch.zeros(scores.shape[1], dtype=torch.float64).index_add_(0, target, hit)
    return hits / torch.bincount(target, minlength=scores.shape[1])
