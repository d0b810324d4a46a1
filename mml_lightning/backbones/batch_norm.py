"""Batch norms of a network: which of them learn, over how many clips they normalise, and exact statistics.

Nothing here renames or adds an entry of a state dict: a network trained with any option loads into a plain one.

Legend: B clips, R rows of a batch (R = B for a 3-D network, B*T for a 2-D one), C channels.
Sources: Wang et al., "Temporal Segment Networks", ECCV 2016 (partial BN); Wu et al., "A Multigrid Method for
Efficiently Training Video Models", CVPR 2020 (batch norm over a fixed number of clips); Wu and Johnson, "Rethinking
'Batch' in BatchNorm", 2021 (precise statistics).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mml_lightning.backbones.non_local import NonLocal

BatchNorm = nn.modules.batchnorm._BatchNorm  # of any number of dimensions, synchronised ones too
FREEZES = ("none", "partial", "stats", "all")


def batch_norms(net: nn.Module) -> list[BatchNorm]:
    """Every batch norm of a network in registration order."""
    return [module for module in net.modules() if isinstance(module, BatchNorm)]


def freeze_batch_norm(net: nn.Module, freeze: str = "partial") -> int:
    """Keep batch norms from following the data.

    Call it before the optimiser is built (frozen parameters then stay out of it) and again whenever `net.train()` has
    been called, since that puts the layers back to training mode. Lightning does not call `train()` at an epoch's
    start, so the caller does both there. Calling it twice changes nothing.

    Args:
        net: any network; its batch norms are counted in registration order.
        freeze: `none`; `partial`, TSN's: all keep running statistics and affine values but the first (its statistics
            follow the input modality) and those of non-local blocks (they start at zero and would never contribute);
            `stats`: all keep their running statistics, affine values learn; `all`: all keep both.

    Returns: how many layers are frozen.

    Raises:
        ValueError: unknown freeze.
    """
    if freeze not in FREEZES:
        raise ValueError(f"freeze={freeze!r} is unknown: use one of {', '.join(FREEZES)}")
    frozen = _frozen(net, freeze)
    for layer in frozen:
        layer.eval()
        if freeze != "stats":
            layer.requires_grad_(False)
    return len(frozen)


def _frozen(net: nn.Module, freeze: str) -> list[BatchNorm]:
    layers = batch_norms(net)
    if freeze == "partial":
        added = {id(block.norm) for block in net.modules() if isinstance(block, NonLocal)}
        return [layer for layer in layers if id(layer) not in added][1:]
    return [] if freeze == "none" else layers


def silenced(net: nn.Module, freeze: str) -> list[str]:
    """Names of the batch norms that `freeze` would keep at zero for good, so that what stands before them is never
    heard: those that start at zero (the last of a residual block, of a non-local one) and have learned nothing yet."""
    if freeze not in ("partial", "all"):
        return []
    frozen = {id(layer) for layer in _frozen(net, freeze) if layer.weight is not None and not layer.weight.any()}
    return [name for name, module in net.named_modules() if id(module) in frozen]


class GroupBatchNorm(BatchNorm):
    """Batch norm over groups of consecutive clips: what several devices with so many clips each would compute.

    Running statistics are the average of those the groups would have kept alone. In eval mode it is a plain batch norm.

    Attributes:
        group_size: clips of a group; batches must be multiples of it.
        clips: clips of the present batch, told by the network's hook (see `group_batch_norm`).
    """

    group_size: int
    clips: int

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"input {tuple(input.shape)} has no channels: give [R, C, ..]")

    def forward(self, input: Tensor) -> Tensor:
        """[R, C, ..] -> [R, C, ..].

        Raises:
            ValueError: the batch is not a multiple of the group.
        """
        if not self.training or self.clips == self.group_size:
            return super().forward(input)
        if self.clips % self.group_size:
            raise ValueError(
                f"a batch of {self.clips} clips has no whole groups of {self.group_size}: choose a batch size that "
                "is a multiple of group_size"
            )
        groups = input.split(len(input) // self.clips * self.group_size)
        if self.running_mean is None or self.running_var is None:
            return torch.cat([self._normalise(group, None, None, 0.0) for group in groups])
        factor = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            factor = 1.0 / float(self.num_batches_tracked) if factor is None else factor
        kept = [(self.running_mean.clone(), self.running_var.clone()) for _ in groups]
        pairs = zip(groups, kept, strict=True)
        output = torch.cat([self._normalise(group, mean, var, factor or 0.0) for group, (mean, var) in pairs])
        with torch.no_grad():  # the update is linear, so this is the update with the average of the groups
            self.running_mean.copy_(torch.stack([mean for mean, _ in kept]).mean(0))
            self.running_var.copy_(torch.stack([var for _, var in kept]).mean(0))
        return output

    def _normalise(self, x: Tensor, mean: Tensor | None, var: Tensor | None, factor: float) -> Tensor:
        return functional.batch_norm(x, mean, var, self.weight, self.bias, True, factor, self.eps)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, group_size={self.group_size}"


def group_batch_norm(net: nn.Module, group_size: int) -> int:
    """Turn the batch norms of a network into `GroupBatchNorm`s, in place: same parameters, same names.

    The network must be called with clips [B, ..] first: a hook on it tells the layers B, so that a group is the same
    clips in a 2-D network, whose rows are frames.

    Returns: how many layers there are.

    Raises:
        ValueError: group_size < 1.
    """
    if group_size < 1:
        raise ValueError(f"group_size={group_size}: a group has 1 clip or more")
    layers = batch_norms(net)
    for layer in layers:
        layer.__class__ = GroupBatchNorm  # keeps parameters, buffers, mode and hooks as they are
        layer.group_size = layer.clips = group_size  # type: ignore[assignment]
    net.register_forward_pre_hook(_tell_clips)
    return len(layers)


def _tell_clips(net: nn.Module, inputs: tuple[Any, ...]) -> None:
    for module in net.modules():
        if isinstance(module, GroupBatchNorm):
            module.clips = len(inputs[0])


class Population:
    """Mean and variance of all values of each channel seen so far, merged batch by batch in float64 on the CPU."""

    def __init__(self) -> None:
        self.count = 0.0
        self.mean: Tensor | None = None
        self.scatter: Tensor | None = None

    def add(self, x: Tensor) -> None:
        """x [R, C, ..]"""
        values = x.detach() if x.dtype == torch.float64 else x.detach().float()
        var, mean = torch.var_mean(values, [0, *range(2, x.ndim)], correction=0)
        count = x.numel() // x.shape[1]
        self.merge(count, mean.cpu().double(), var.cpu().double() * count)

    def merge(self, count: float, mean: Tensor, scatter: Tensor) -> None:
        """Add a set of values by its count, mean [C] and sum of squared deviations [C]."""
        if self.mean is None or self.scatter is None:
            self.count, self.mean, self.scatter = count, mean, scatter
            return
        both, shift = self.count + count, mean - self.mean
        self.mean = self.mean + shift * (count / both)
        self.scatter = self.scatter + scatter + shift.square() * (self.count * count / both)
        self.count = both

    def write(self, layer: BatchNorm) -> None:
        """Make them the running statistics of a layer; the variance is the unbiased one, as in training."""
        if self.mean is None or self.scatter is None or layer.running_mean is None or layer.running_var is None:
            return
        layer.running_mean.copy_(self.mean)
        layer.running_var.copy_(self.scatter / max(1.0, self.count - 1))


@contextmanager
def population_statistics(net: nn.Module) -> Iterator[list[tuple[BatchNorm, Population]]]:
    """Watch what enters the batch norms of a network that are in training mode, one population per layer.

    Inside, run the network on training batches, without gradients. The layers' own running statistics and counters are
    as before on leaving; `Population.write` replaces them.
    """
    watched = [(layer, Population()) for layer in batch_norms(net) if layer.training and layer.running_mean is not None]
    before = [{key: value.clone() for key, value in layer.named_buffers()} for layer, _ in watched]

    def watch(population: Population) -> Any:
        return lambda _, inputs: population.add(inputs[0])

    handles = [layer.register_forward_pre_hook(watch(population)) for layer, population in watched]
    try:
        yield watched
    finally:
        for handle in handles:
            handle.remove()
        for (layer, _), buffers in zip(watched, before, strict=True):
            for key, value in layer.named_buffers():
                value.copy_(buffers[key])
