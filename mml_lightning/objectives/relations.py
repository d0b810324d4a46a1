"""Relations between samples or classes. Legend: B batch, D features, K classes, N rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pearson_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - correlation of the rows of `a` and `b` [N, K], per row [N]; 1 where a row is constant (DIST, equation 6)."""
    return 1 - F.cosine_similarity(a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True), dim=-1)


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between the pairwise distances of the samples, each in units of their mean (RKD-D, equation 5).

    Args:
        student, teacher: [B, D]; widths may differ.
    """
    return F.smooth_l1_loss(_distances(student), _distances(teacher))


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between the cosines of all angles that triples of samples form (RKD-A, equation 7).

    Args:
        student, teacher: [B, D]; widths may differ.
    """
    return F.smooth_l1_loss(_cosines(student), _cosines(teacher))


def _distances(x: Tensor) -> Tensor:
    square = (x.square().sum(1)[:, None] + x.square().sum(1)[None, :] - 2 * x @ x.T).clamp(min=1e-12)
    distance = square.sqrt().masked_fill(torch.eye(len(x), dtype=torch.bool, device=x.device), 0.0)
    apart = distance > 1e-5  # the root of the clamped floor is no distance
    mean = (distance * apart).sum() / apart.sum().clamp(min=1)
    return distance / torch.where(apart.any(), mean, 1.0)  # chosen on the device, which nobody waits for


def _cosines(x: Tensor) -> Tensor:
    """[B, B, B]: at vertex i, between the directions to j and to k."""
    directions = F.normalize(x[None, :, :] - x[:, None, :], dim=-1)
    return torch.einsum("ijd,ikd->ijk", directions, directions)
