"""Supervised terms. Legend: B batch, K classes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Loss per sample [B] of `logits` [B, K].

    A target of class indices [B] gives cross-entropy; a multi-hot target [B, K] gives binary cross-entropy averaged
    over the classes, so that the batch mean is the "mean" reduction over B x K (paper, Appendix 2).

    Raises:
        ValueError: the target fits neither form.
    """
    if target.ndim == 1:
        return F.cross_entropy(logits, target, reduction="none")
    if target.shape == logits.shape:
        return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none").mean(dim=1)
    raise ValueError(
        f"target {tuple(target.shape)} fits neither class indices nor multi-hot labels of {tuple(logits.shape)}"
    )
