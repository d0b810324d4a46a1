"""A learned linear map between features of two widths: an edge with `project` compares what it makes of the student's.

It learns with the student and is thrown away with the lesson: checkpoints have it, exported networks do not.

Legend: B batch, T frames, D and E widths, h w size of a map.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Projection(nn.Linear):
    """`pooled` [B, D] -> [B, E], or `map` [B, T, D, h, w] -> [B, T, E, h, w], every place by itself.

    Args:
        site: which feature. width, target: D and E.
        seed: of its first weights; no other random numbers are drawn.
    """

    def __init__(self, site: str, width: int, target: int, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            super().__init__(width, target)
        self.site = site

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:  # type: ignore[override]
        x = features[self.site]
        return super().forward(x) if x.ndim == 2 else super().forward(x.movedim(2, -1)).movedim(-1, 2)
