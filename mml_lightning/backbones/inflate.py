"""2-D weights into a 3-D network: every kernel is repeated over time and divided by its length.

Away from the temporal borders, the inflated network answers a clip of equal frames as the 2-D one answers the frame.

Legend: O output, C input channels, k_t k_h k_w kernel.
Source: Carreira and Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Inflated(NamedTuple):
    """Weights for a 3-D network, and what became of each entry.

    Attributes:
        state: entries that fit the network.
        inflated: names of kernels that were repeated over time; copied: names taken as they are.
        unfit: names in both whose shapes differ (a classifier of other classes).
        unknown: names that the network does not have; missing: names of the network that got nothing.
    """

    state: dict[str, Tensor]
    inflated: tuple[str, ...]
    copied: tuple[str, ...]
    unfit: tuple[str, ...]
    unknown: tuple[str, ...]
    missing: tuple[str, ...]


def inflate_kernel(weight: Tensor, length: int) -> Tensor:
    """[O, C, k_h, k_w] or [O, C, 1, k_h, k_w] -> [O, C, length, k_h, k_w], same sum over time."""
    volume = weight.unsqueeze(2) if weight.ndim == 4 else weight
    return volume.expand(-1, -1, length, -1, -1) / length


def inflate_state(state: Mapping[str, Tensor], target: Mapping[str, Tensor], stem: str | None = None) -> Inflated:
    """Fit a state dict of a 2-D network to a 3-D one with the same names.

    A kernel of four dimensions, or of five with k_t = 1 (a 2-D network written with 3-D convolutions), is inflated to
    the k_t of the target; whatever has the target's shape is copied.

    Args:
        state: weights of the 2-D network, under the names of the 3-D one.
        target: state dict of the 3-D network; only its names and shapes are read.
        stem: name of a kernel whose input channels may differ; they are left as they are in `state`, for
            `stem.convert_state` to convert.
    """
    fitted: dict[str, Tensor] = {}
    found: dict[str, list[str]] = {"inflated": [], "copied": [], "unfit": [], "unknown": []}
    for name, value in state.items():
        if name not in target:
            found["unknown"].append(name)
            continue
        kind, fitting = _fit(value, target[name].shape, name == stem)
        found[kind].append(name)
        if fitting is not None:
            fitted[name] = fitting
    missing = tuple(name for name in target if name not in fitted)
    return Inflated(fitted, **{kind: tuple(names) for kind, names in found.items()}, missing=missing)


def _fit(value: Tensor, shape: torch.Size, any_channels: bool) -> tuple[str, Tensor | None]:
    have, want = list(value.shape), list(shape)
    if any_channels and len(have) > 1 and len(want) > 1:
        have[1] = want[1]
    if have == want:
        return "copied", value
    is_2d = len(have) == 4 or (len(have) == 5 and have[2] == 1)
    if len(want) == 5 and is_2d and have[:2] + have[-2:] == want[:2] + want[-2:]:
        return "inflated", inflate_kernel(value, want[2])
    return "unfit", None
