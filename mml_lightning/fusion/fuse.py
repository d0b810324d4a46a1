"""The outputs of several peers to one, clip by clip. Legend: B videos, V clips (views), K classes.

A fusion is a function of the peers' logits and of a gate, which says how much each of them counts in a clip. Peers are
matched by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Fusion = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]
"""({peer: logits [B, V, K]}, {peer: gate [B, V] from 0 to 1}) -> logits [B, V, K]; NaN where no peer counts."""


def average(logits: Mapping[str, Tensor], gate: Mapping[str, Tensor]) -> Tensor:
    """Mean of the peers' logits, weighted by the gate; what a closed gate hides may be anything."""
    total, mass = torch.tensor(0.0), torch.tensor(0.0)
    for peer, values in logits.items():
        weight = gate[peer].to(values)[..., None]
        total = total.to(values) + torch.where(weight > 0, values * weight, 0.0)
        mass = mass.to(values) + weight
    return total / mass


FUSIONS: dict[str, Fusion | None] = {"none": None, "average": average}


def present_as_gate(present: Mapping[str, Tensor], views: int) -> dict[str, Tensor]:
    """The gate of peers that count wherever they have seen the video: {peer: [B] bool} -> {peer: [B, V]}."""
    return {peer: seen[:, None].expand(-1, views) for peer, seen in present.items()}
