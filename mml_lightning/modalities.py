"""What a network looks at: how the items of a source become the input of one peer.

Legend: B batch, V views, T frames (segments), W window, c channels of one source item, C channels, H height, W width.

A *source* is decoded once per sample and may serve several modalities (`rgb` and `rgbdiff` share `frames`). Clips
travel as uint8 with the W items of a window side by side in the channel axis; normalising and differencing happen on
the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


def normalise(clip: Tensor, modality: Modality) -> Tensor:
    """uint8 [..., W*c, H, W] -> float [..., W*c, H, W]: scaled to 0..1, then (x - mean) / std per channel."""
    scaled = clip.float() / 255.0
    return (scaled - _per_channel(modality.mean, clip, scaled)) / _per_channel(modality.std, clip, scaled)


def difference(clip: Tensor, modality: Modality) -> Tensor:
    """uint8 [..., W*c, H, W] -> float [..., (W-1)*c, H, W]: normalised frame k+1 minus k, in time order (TSN)."""
    frames = normalise(clip, modality).unflatten(-3, (modality.window, modality.item_channels))
    return (frames[..., 1:, :, :, :] - frames[..., :-1, :, :, :]).flatten(-4, -3)


PREPARE: dict[str, Callable[[Tensor, Modality], Tensor]] = {"normalise": normalise, "difference": difference}
FLIPS = ("mirror", "mirror_negate_x")


@dataclass(frozen=True)
class Modality:
    """One modality, as declared in `conf/modality/<name>.yaml`.

    Args:
        name: key in configs, metric names and tables.
        source: what is read or computed once per sample ("frames", "flow").
        window: consecutive source items in one input step (rgb 1, flow 5, rgbdiff 6).
        item_channels: channels of one source item (frames 3, flow 2: x then y).
        mean, std: statistics of 0..1 values, one number or one per item channel.
        prepare: name of the on-device function in :data:`PREPARE`.
        flip: what a horizontal mirror does: "mirror", or "mirror_negate_x" for flow.

    Raises:
        ValueError: unknown `prepare` or `flip`, a window too short to difference, statistics of the wrong length, or a
            std that is not positive.
    """

    name: str
    source: str
    window: int
    item_channels: int
    mean: list[float] = field(default_factory=lambda: [0.0])
    std: list[float] = field(default_factory=lambda: [1.0])
    prepare: str = "normalise"
    flip: str = "mirror"

    def __post_init__(self) -> None:
        if self.prepare not in PREPARE:
            raise ValueError(f"modality {self.name}: prepare={self.prepare!r} is unknown; use one of {sorted(PREPARE)}")
        if self.flip not in FLIPS:
            raise ValueError(f"modality {self.name}: flip={self.flip!r} is unknown; use one of {list(FLIPS)}")
        if self.window < (2 if self.prepare == "difference" else 1):
            raise ValueError(f"modality {self.name}: window={self.window} is too short for prepare={self.prepare}")
        for key in ("mean", "std"):
            if len(getattr(self, key)) not in (1, self.item_channels):
                raise ValueError(f"modality {self.name}: {key} needs 1 or {self.item_channels} numbers")
        if min(self.std) <= 0:
            raise ValueError(f"modality {self.name}: std={list(self.std)} must be positive")

    @property
    def channels(self) -> int:
        """Channels the network sees: 3 for rgb, 10 for flow, 15 for rgbdiff."""
        steps = self.window - 1 if self.prepare == "difference" else self.window
        return steps * self.item_channels

    def __call__(self, clip: Tensor) -> Tensor:
        """uint8 [..., W*c, H, W] -> float [..., channels, H, W], on the device of `clip`."""
        return PREPARE[self.prepare](clip, self)


def _per_channel(values: list[float], clip: Tensor, like: Tensor) -> Tensor:
    repeats = clip.shape[-3] // len(values)
    return torch.tensor(list(values) * repeats, dtype=like.dtype, device=like.device).view(-1, 1, 1)
