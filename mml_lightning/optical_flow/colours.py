"""Optical flow as a picture: direction is the hue, speed its strength, no motion is white or black."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST = 1.0  # pixels: slower motion is never shown in full colour, it may be noise


def fastest(flow: Tensor, share: float = 0.99) -> float:
    """Pixels per item that `share` of the vectors of `flow` [..., 2, H, W] stay below, at least :data:`LEAST`."""
    speed = torch.linalg.vector_norm(flow.float(), dim=-3).flatten()
    place = max(1, math.ceil(share * speed.numel()))
    return max(LEAST, float(speed.kthvalue(place).values))


def colour_wheel(flow: Tensor, full: float, dark: bool = False) -> Tensor:
    """Pixels of motion, x then y, [..., 2, H, W] to RGB uint8 [..., 3, H, W].

    Args:
        full: the speed from which on colours are full. Motion to the right is red, down yellow-green, left cyan, up
            violet.
        dark: no motion is black, so that what is laid over it stands out.
    """
    x, y = flow.float().unbind(dim=-3)
    hue = torch.atan2(y, x) / (2 * math.pi) * 6  # -3 .. 3: y points down
    saturation = (torch.hypot(x, y) / full).clamp(max=1.0)
    shift = torch.tensor([0.0, 4.0, 2.0], device=flow.device).view(3, 1, 1)
    pure = (((hue.unsqueeze(-3) + shift) % 6 - 3).abs() - 1).clamp(0.0, 1.0)
    strength = saturation.unsqueeze(-3)
    return (255 * (strength * pure if dark else 1 - strength * (1 - pure))).round().to(torch.uint8)
