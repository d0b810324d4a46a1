"""First convolutions across modalities: one set of weights, another number of input channels.

Legend: O output channels, C input channels, k kernel (two dimensions, or three for a 3-D network).
Source: Wang et al., "Temporal Segment Networks", ECCV 2016 (cross-modality initialisation): average over the input
channels and copy the average to every new one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

RULES = ("mean", "mean_rescaled")


def convert_stem(weight: Tensor, channels: int, rule: str = "mean") -> Tensor:
    """Convert stem weights to another number of input channels.

    Args:
        weight: [O, C, k, k].
        channels: new number of input channels. If it equals C the weights are returned unchanged (a copy): there is
            nothing to convert, and averaging an RGB stem would lose its colours.
        rule: `mean` copies the average, so the answer to a constant image grows by channels / C (the published
            recipe); `mean_rescaled` divides by that ratio and keeps the answer.

    Returns: [O, channels, k, k], contiguous, detached, same dtype and device.

    Raises:
        ValueError: unknown rule, channels < 1, or not a convolution's weight.
    """
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} is unknown: use one of {', '.join(RULES)}")
    if channels < 1:
        raise ValueError(f"channels={channels}: a stem needs 1 or more")
    if weight.ndim < 3:
        raise ValueError(f"weight {tuple(weight.shape)} is not a convolution weight: give [O, C, k, k]")
    weight = weight.detach()
    old = weight.shape[1]
    if channels == old:
        return weight.clone(memory_format=torch.contiguous_format)
    mean = weight.mean(dim=1, keepdim=True)
    if rule == "mean_rescaled":
        mean = mean * (old / channels)
    return mean.expand(-1, channels, *weight.shape[2:]).clone(memory_format=torch.contiguous_format)


def adapt_first_conv(module: nn.Module, stem_name: str, channels: int, rule: str = "mean") -> nn.Module:
    """Replace a network's first convolution by one with `channels` inputs, bias and options kept.

    Call it before the optimiser is built: the new weights are a new parameter.

    Args:
        module: the network, changed in place.
        stem_name: dotted name of the convolution, for example `net.conv1`.

    Returns: the convolution now in place (the old one if `channels` is what it has).

    Raises:
        ValueError: no ungrouped convolution under that name, or see `convert_stem`.
    """
    try:
        old: Any = module.get_submodule(stem_name)
    except AttributeError as error:
        raise ValueError(f"the network has no module {stem_name!r}: give the name of its first convolution") from error
    if not isinstance(old, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) or old.groups != 1:
        raise ValueError(f"{stem_name!r} is {type(old).__name__}: give the name of an ungrouped convolution")
    if old.in_channels == channels:
        return old
    new = copy.deepcopy(old)
    new.weight = nn.Parameter(convert_stem(old.weight, channels, rule), requires_grad=old.weight.requires_grad)
    new.in_channels = channels
    parent, _, name = stem_name.rpartition(".")
    setattr(module.get_submodule(parent), name, new)
    return new


def convert_state(state: Mapping[str, Tensor], stem_key: str, channels: int, rule: str = "mean") -> dict[str, Tensor]:
    """Copy a state dict with its stem weights converted; every other entry, the bias too, is taken as it is.

    Args:
        stem_key: name of the weights, for example `net.conv1.weight`.

    Raises:
        ValueError: no such entry, or see `convert_stem`.
    """
    if stem_key not in state:
        raise ValueError(f"the weights have no entry {stem_key!r}: give the name of the first convolution's weight")
    return {**state, stem_key: convert_stem(state[stem_key], channels, rule)}
