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


def class_accuracy(scores: Tensor, target: Tensor) -> Tensor:
    """Share of each class's videos that are recognised, float64 [K]; NaN for a class without a video."""
    return recalled(confusion_matrix(scores, target))


def confusion_matrix(scores: Tensor, target: Tensor) -> Tensor:
    """Videos by their class and the best of `scores` [N, K], int64 [K, K]; `target` [N]. Of tied classes the first."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix  # slow to import

    classes = scores.shape[1]
    return multiclass_confusion_matrix(scores, target, classes, validate_args=False)


def recalled(confusion: Tensor) -> Tensor:
    """Diagonal of a confusion matrix [K, K] over the videos of each class, float64 [K]."""
    return confusion.diagonal().to(torch.float64) / confusion.sum(dim=1)
