"""Pyramids, derivatives, warps and median filters of images and flow fields.

Legend: P images, H height, W width, h and w another size. A field is [2, P, H, W]: x then y, in pixels of its own size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST = 16  # pixels; no level of a pyramid has a shorter side, but the image itself may


def pyramid(images: Tensor, levels: int, scale: float) -> list[Tensor]:
    """`images` [P, 1, H, W] and up to `levels` - 1 smaller ones, each `scale` times the one before, finest first."""
    height, width = images.shape[-2:]
    found = [images]
    for level in range(1, levels):
        size = (round(height * scale**level), round(width * scale**level))
        if min(size) < SMALLEST:
            break
        found.append(F.interpolate(found[-1], size=size, mode="bilinear", antialias=True))
    return found


def gradient(images: Tensor) -> Tensor:
    """Derivatives by central differences, field [2, P, H, W] of `images` [P, H, W]; the edge repeats outwards."""
    around = F.pad(images[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    x = around[:, 1:-1, 2:] - around[:, 1:-1, :-2]
    y = around[:, 2:, 1:-1] - around[:, :-2, 1:-1]
    return torch.stack([x, y]).mul_(0.5)


def resize_field(field: Tensor, size: tuple[int, int]) -> Tensor:
    """Field [2, P, h, w] in pixels of its new `size` (h, w), bilinear."""
    height, width = field.shape[-2:]
    if (height, width) == size:
        return field
    resized = F.interpolate(field, size=size, mode="bilinear")
    resized[0] *= size[1] / width
    resized[1] *= size[0] / height
    return resized


def warp(images: Tensor, field: Tensor, cubic: bool = False) -> tuple[Tensor, Tensor]:
    """`images` [P, c, H, W] sampled at q + field(q), and where that lies within them: bool [P, H, W]."""
    height, width = images.shape[-2:]
    x = torch.arange(width, dtype=field.dtype, device=field.device) + field[0]
    y = torch.arange(height, dtype=field.dtype, device=field.device)[:, None] + field[1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    # a side of one pixel has no width to divide by; there every place is that pixel
    grid = torch.stack([x * (2 / max(1, width - 1)) - 1, y * (2 / max(1, height - 1)) - 1], dim=-1)
    mode = "bicubic" if cubic else "bilinear"
    return F.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=True), inside


def median(field: Tensor, side: int) -> Tensor:
    """Median of each `side` x `side` neighbourhood (odd) of `field` [2, P, H, W]; the edge repeats outwards."""
    reach = side // 2
    around = F.pad(field, (reach,) * 4, mode="replicate")
    height, width = field.shape[-2:]
    shifts = [around[..., i : i + height, j : j + width] for i in range(side) for j in range(side)]
    return _middle(shifts)


def _middle(values: list[Tensor]) -> Tensor:
    """Element-wise median of an odd number of tensors by forgetting extremes.

    More than half of the values always hold the median between their least and their greatest, so both can be dropped
    and one new value taken in, until one is left. Minima and maxima run at the speed of memory; a sort does not.
    """
    keep = len(values) // 2 + 2
    held, waiting = list(values[:keep]), list(values[keep:])
    while len(held) > 1:
        # pairs first: the least is then among the lower halves and the greatest among the upper ones
        half = len(held) // 2
        for i in range(half):
            held[i], held[-1 - i] = torch.minimum(held[i], held[-1 - i]), torch.maximum(held[i], held[-1 - i])
        for i in range(1, len(held) - half):
            held[0], held[i] = torch.minimum(held[0], held[i]), torch.maximum(held[0], held[i])
        for i in range(half, len(held) - 1):
            held[i], held[-1] = torch.minimum(held[i], held[-1]), torch.maximum(held[i], held[-1])
        held = held[1:-1] + ([waiting.pop()] if waiting else [])
    return held[0]
