"""Clips as pictures for people. Legend: T segments, L window, c channels of an item, H height, W width."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mml_lightning.modalities import FLOW_BOUND, Modality
from mml_lightning.optical_flow.colours import colour_wheel, fastest


def is_flow(modality: Modality) -> bool:
    """Whether its pictures have the colours of motion."""
    return modality.prepare == "tvl1" or (modality.item_channels == 2 and modality.prepare == "normalise")


def is_sound(modality: Modality) -> bool:
    """Whether its pictures are spectrograms."""
    return modality.preparation.spectrogram is not None


def can_be_shown(modality: Modality, pictured: bool) -> bool:
    """Whether :func:`pictures` knows what it looks like.

    Args:
        pictured: whether its source is made of pictures.
    """
    return is_sound(modality) or (pictured and (is_flow(modality) or modality.item_channels == 3))


def pictures(clip: Tensor, modality: Modality, dark: bool = False) -> np.ndarray:
    """Uint8 RGB [T, H, W, 3]: of each window the middle item, the middle pair of flow in the colours of motion, half
    the middle difference on grey, or the spectrogram, low tones below.

    Args:
        clip: one view as it is stored: uint8 [T, L * c, H, W], or sound.
        dark: where nothing moves flow is black instead of white.
    """
    if is_flow(modality):
        whole = modality(clip).unflatten(1, (-1, 2))  # [T, pairs, 2, H, W]
        std, mean = modality.std, modality.mean
        shares = whole[:, whole.shape[1] // 2] * _column(std) + _column(mean)
        flow = (2 * shares - 1) * FLOW_BOUND
        picture = colour_wheel(flow, fastest(flow), dark)
    elif modality.prepare == "difference":
        whole = modality(clip).unflatten(1, (-1, 3)) * _column(modality.std)
        picture = ((whole[:, whole.shape[1] // 2] / 2 + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)
    elif is_sound(modality):
        loudness = modality(clip).flip(-2)  # [T, 1, F, time], low tones first
        low, high = loudness.amin(), loudness.amax()
        picture = (255 * (loudness - low) / (high - low).clamp(min=1e-6)).to(torch.uint8).expand(-1, 3, -1, -1)
    else:
        whole = clip.unflatten(1, (-1, 3))
        picture = whole[:, whole.shape[1] // 2]
    return picture.permute(0, 2, 3, 1).numpy()


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(list(values)).view(-1, 1, 1)
