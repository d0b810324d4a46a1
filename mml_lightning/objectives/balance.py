"""Balance of peers that learn together through one output: none shall hide behind the others.

Legend: B samples, K classes, u a peer.

    OGM-GE    s_u = mean over the batch of the probability that u gives the true class
              rho_u = s_u / mean of the others' s        k_u = 1 - tanh(alpha rho_u) where rho_u > 1, else 1
              gradient of u's trunk <- k_u gradient + noise of the gradient's own standard deviation
    G-Blend   O = growth of (val loss - train loss), G = fall of the val loss, from the first to the last measurement
              w = (G / O^2) / their sum, of each peer and of the fused output

Sources: Peng et al., "Balanced Multimodal Learning via On-the-fly Gradient Modulation", CVPR 2022; Wang et al., "What
Makes Training Multi-Modal Classification Networks Hard?", CVPR 2020. With more than two peers OGM-GE's ratio is that to
the mean of the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Curve(NamedTuple):
    """Losses of one output when it was measured first and last."""

    train: tuple[float, float]
    val: tuple[float, float]


def true_class_scores(logits: Tensor, labels: Tensor) -> Tensor:
    """[B], the probability of the true class: logits [B, K], labels [B]."""
    return logits.detach().float().softmax(dim=1).gather(1, labels[:, None]).squeeze(1)


def modulation(scores: Mapping[str, float], alpha: float) -> dict[str, float]:
    """OGM's factor of each peer's gradient.

    Args:
        scores: {peer: s}; NaN of a peer that has seen no sample, whose factor is 1.
        alpha: of the hyperbolic tangent.
    """
    found = {}
    for peer, own in scores.items():
        others = [score for name, score in scores.items() if name != peer and score == score]
        mean = sum(others) / len(others) if others else math.nan
        ratio = own / mean if mean > 0 else math.nan
        found[peer] = 1 - math.tanh(alpha * ratio) if ratio > 1 else 1.0
    return found


@torch.no_grad()
def modulate(gradient: Tensor, factor: float, generator: torch.Generator | None) -> None:
    """Scale a gradient in place and, with a generator, add noise of the spread that it had."""
    noise = None
    if generator is not None and gradient.numel() > 1:
        spread = gradient.std() + 1e-8
        noise = torch.randn(gradient.shape, generator=generator, dtype=torch.float32).to(gradient) * spread
    gradient.mul_(factor)
    if noise is not None:
        gradient.add_(noise)


def blend_weights(curves: Mapping[str, Curve]) -> dict[str, float]:
    """G-Blend's weight of each output's loss; 0 of one whose validation loss has not fallen.

    Raises:
        ValueError: none has fallen, or one has not overfitted at all, so that its weight has no bound.
    """
    raw = {}
    for name, curve in curves.items():
        gain = curve.val[0] - curve.val[1]
        overfit = (curve.val[1] - curve.train[1]) - (curve.val[0] - curve.train[0])
        if gain > 0 and not overfit > 0:
            raise ValueError(
                f"{name} generalised without overfitting (the gap to the training loss did not grow), which has no "
                "weight in gradient blending: train it for longer, or type objective.labels={...}"
            )
        raw[name] = max(0.0, gain) / overfit**2 if gain > 0 else 0.0
    total = sum(raw.values())
    if not total:
        raise ValueError(f"the validation loss of {' and '.join(raw)} did not fall: there is nothing to blend")
    return {name: value / total for name, value in raw.items()}
