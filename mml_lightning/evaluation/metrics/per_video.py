"""What each video says of a network, for one label a video and for several alike. Legend: N videos, K classes.

`scores` are log-probabilities [N, K], or log-sigmoids where `target` is multi-hot [N, K]; `target` is else int64 [N].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mml_lightning.evaluation.metrics.pooling import log_complement


def labels(target: Tensor, classes: int) -> Tensor:
    """bool [N, K], true where a video has a label."""
    return target > 0 if target.ndim == 2 else F.one_hot(target, classes).bool()


def named_classes(scores: Tensor, target: Tensor) -> Tensor:
    """bool [N, K], the n best classes of a video that has n labels: its best class where it has one. Of tied classes
    the first."""
    ranks = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return ranks < labels(target, scores.shape[1]).sum(dim=1, keepdim=True)


def losses(scores: Tensor, target: Tensor) -> Tensor:
    """What training minimises, float64 [N]: cross-entropy, or binary cross-entropy averaged over the classes."""
    if target.ndim == 1:
        return -scores.double().gather(1, target[:, None]).squeeze(1)
    return -torch.where(target > 0, scores, log_complement(scores)).double().mean(dim=1)


def prior_loss(target: Tensor, classes: int) -> float:
    """Loss of a network that says the class frequencies of `target`, in nats."""
    share = labels(target, classes).double().mean(dim=0)
    if target.ndim == 1:
        return float(torch.special.entr(share).sum())
    return float((torch.special.entr(share) + torch.special.entr(1 - share)).mean())
