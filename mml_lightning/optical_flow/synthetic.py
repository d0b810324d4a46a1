"""Pairs of textured images whose true motion is known exactly, for tests and benchmarks of optical flow.

Legend: H height, W width. Flow is (x, y) in pixels, right and down positive: what is at q in the first image is at
q + flow(q) in the second.

The texture is a formula (random waves with a 1/f spectrum, some of them bent into edges), so that the second image is
the formula at the moved coordinates: nothing is interpolated, and the flow is true to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

WAVES = 160
NOISE = 1.5  # grey levels, of each image on its own
BORDER = 16  # pixels at the edge that no error is measured on


@dataclass(frozen=True)
class Pair:
    """Two grey images uint8 [H, W], the flow between them float32 [H, W, 2], and where it is measured: bool [H, W]."""

    first: Tensor
    second: Tensor
    flow: Tensor
    valid: Tensor

    def error(self, flow: Tensor) -> float:
        """Mean end-point error in pixels of `flow`, [H, W, 2], over the measured pixels."""
        return float((flow.float() - self.flow).norm(dim=-1)[self.valid].mean())


@dataclass(frozen=True)
class Motion:
    """Rotation and zoom about the middle of the image, then a translation; and of a disc, if it has one, another shift.

    Args:
        shift: (x, y) in pixels.
        degrees: clockwise on the screen.
        zoom: 1.04 enlarges by 4 %.
        disc: (x, y) in pixels of a disc in the foreground, of a quarter of the shorter side.
    """

    shift: tuple[float, float] = (0.0, 0.0)
    degrees: float = 0.0
    zoom: float = 1.0
    disc: tuple[float, float] | None = None


MOTIONS = {
    "translation": Motion(shift=(3.4, -2.1)),
    "rotation": Motion(degrees=2.0),
    "zoom": Motion(zoom=1.04),
    "large": Motion(shift=(11.0, 6.0)),
    "disc": Motion(shift=(-1.2, 0.6), disc=(4.0, 2.5)),
}


def synthetic_pair(motion: Motion, height: int = 256, width: int = 340, seed: int = 0, noise: float = NOISE) -> Pair:
    """Two images of `motion`; equal arguments give equal pairs on one machine."""
    generator = torch.Generator().manual_seed(seed)
    background, foreground = _Texture(generator), _Texture(generator)
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64)
    place = torch.stack([x, y], dim=-1) - centre
    angle = math.radians(motion.degrees)
    turn = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    matrix = motion.zoom * torch.tensor(turn, dtype=torch.float64)
    shift = torch.tensor(motion.shift, dtype=torch.float64)
    flow = place @ matrix.T + shift - place
    first, second = background(place), background((place - shift) @ torch.linalg.inv(matrix).T)
    if motion.disc is not None:
        moved = torch.tensor(motion.disc, dtype=torch.float64)
        radius = min(height, width) / 4
        cover, cover_after = _disc(place, radius), _disc(place - moved, radius)
        first = torch.lerp(first, foreground(place), cover)
        second = torch.lerp(second, foreground(place - moved), cover_after)
        flow = torch.where((cover > 0.5)[..., None], moved, flow)
    images = [
        (image + noise * torch.randn(height, width, generator=generator, dtype=torch.float64)).round().clamp(0, 255)
        for image in (first, second)
    ]
    return Pair(images[0].to(torch.uint8), images[1].to(torch.uint8), flow.float(), _measured(place + flow, place))


class _Texture:
    """A random function of the plane with values in 20..235, its wavelengths 5 px and more."""

    def __init__(self, generator: torch.Generator) -> None:
        frequency = 0.004 * (0.2 / 0.004) ** torch.rand(WAVES, generator=generator, dtype=torch.float64)
        direction, self.phase = 2 * math.pi * torch.rand(2, WAVES, generator=generator, dtype=torch.float64)
        self.vector = 2 * math.pi * frequency * torch.stack([direction.cos(), direction.sin()])
        self.weight = frequency**-0.5
        self.weight /= self.weight.norm()

    def __call__(self, place: Tensor) -> Tensor:
        rows = [torch.cos(row @ self.vector + self.phase) for row in place]  # row by row: WAVES images are large
        smooth = torch.stack([row @ self.weight for row in rows])
        edged = torch.stack([row[:, ::4] @ self.weight[::4] for row in rows])
        return 127.5 + 107.5 * torch.tanh(0.5 * smooth + 0.6 * torch.tanh(6 * edged))


def _disc(place: Tensor, radius: float) -> Tensor:
    """Coverage 0..1 with an edge one pixel wide."""
    return (radius - place.norm(dim=-1) + 0.5).clamp(0, 1)


def _measured(target: Tensor, place: Tensor) -> Tensor:
    """Pixels off the border whose content is still in sight in the second image."""
    limit = -place[0, 0]
    near = (place.abs() <= limit - BORDER).all(dim=-1)
    return near & (target.abs() <= limit - 1).all(dim=-1)
