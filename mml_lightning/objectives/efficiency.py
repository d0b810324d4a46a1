"""The price of using peers: what teaches a gate to skip. Legend: B videos, M peers.

    blockdrop   sum over m of lambda_m * mean over videos [ correct * rate_m ** 2 ]  +  gamma * mean [ 1 - correct ]
    mean        sum over m of lambda_m * mean over videos [ rate_m ]

`correct` is 1 where the largest fused logit of the video is a true class. It has no gradient, so that gamma only shifts
the loss. Source: Panda et al., "AdaMML", ICCV 2021, and its released code, which does not scale gamma by lambda.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

PENALTIES = ("blockdrop", "mean")
PUBLISHED: dict[frozenset[str], dict[str, float]] = {
    frozenset(("rgb", "audio")): {"rgb": 1.0, "audio": 0.05},
    frozenset(("rgb", "flow")): {"rgb": 1.0, "flow": 1.0},
    frozenset(("rgb", "audio", "flow")): {"rgb": 0.5, "audio": 0.05, "flow": 0.8},
}
"""{peers: lambda of each}"""


class Efficiency:
    """Args:
        weights: {peer: lambda}; None: the published ones of these peers.
        penalty: one of :data:`PENALTIES`.
        gamma: of blockdrop.
        peers: of the run.

    Raises:
        ValueError: the penalty is unknown, or a weight is missing or of no peer.
    """

    def __init__(
        self,
        peers: Mapping[str, object] | list[str],
        weights: Mapping[str, float] | None = None,
        penalty: str = "blockdrop",
        gamma: float = 10.0,
    ) -> None:
        if penalty not in PENALTIES:
            raise ValueError(f"efficiency.penalty={penalty} is unknown: use one of {', '.join(PENALTIES)}")
        known = PUBLISHED.get(frozenset(peers)) if weights is None else dict(weights)
        if known is None or set(known) != set(peers):
            told = ", ".join(f"{peer}: <number>" for peer in peers)
            raise ValueError(f"efficiency.weights={weights} must give a weight for each peer of the run: {{{told}}}")
        if wrong := [
            peer for peer, x in known.items() if isinstance(x, bool) or not isinstance(x, int | float) or x < 0
        ]:
            raise ValueError(f"efficiency.weights.{wrong[0]}={known[wrong[0]]} must be a number from 0 on")
        self.weights = {peer: float(known[peer]) for peer in peers}
        self.penalty, self.gamma = penalty, float(gamma)

    def __call__(self, rates: Mapping[str, Tensor], correct: Tensor) -> Tensor:
        """The penalty of each video, [B]; its mean is the term.

        Args:
            rates: {peer: [B]}: share of the segments in which it is used.
            correct: [B] bool.
        """
        right = correct.detach().to(next(iter(rates.values())))
        if self.penalty == "mean":
            return torch.stack([weight * rates[peer] for peer, weight in self.weights.items()]).sum(0)
        price = torch.stack([weight * rates[peer] ** 2 for peer, weight in self.weights.items()]).sum(0)
        return right * price + (1 - right) * self.gamma


def is_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """[B] bool: whether the class with the largest logit [B, K] is the label [B], or one of the labels [B, K]."""
    best = logits.detach().argmax(-1)
    return best == labels if labels.ndim == 1 else labels.gather(1, best[:, None]).squeeze(1) > 0
