"""What a network costs: parameters and operations of one evaluation, counted on the meta device.

Published "FLOPs" of video networks are multiply-adds, one multiply and one add counting as one. Tools differ in what
they add to those of convolutions, linear layers and matrix products: fvcore, which the SlowFast family cites, counts 2
per value that a batch norm gives out, half a percent of an I3D. Both parts are kept apart here; pooling and activations
are left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mml_lightning.backbones.peer import Peer

NORM_OPERATIONS = 2  # per value, fvcore's count of an affine batch norm in eval mode


class Cost(NamedTuple):
    """Parameters; multiply-adds of convolutions, linear layers and matrix products; operations of batch norms."""

    parameters: int
    multiply_adds: int
    norms: int

    @property
    def operations(self) -> int:
        """fvcore's number: multiply-adds and norms."""
        return self.multiply_adds + self.norms


def cost(net: nn.Module, shape: tuple[int, ...]) -> Cost:
    """Count one evaluation of `net`, which stays as it is: a copy without values runs in eval mode.

    Args:
        shape: of the input, for example (1, T, C, H, W).
    """
    ghost = copy.deepcopy(net).to("meta").eval()
    values = 0

    def count(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal values
        values += output.numel()

    for module in ghost.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_hook(count)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        ghost(torch.empty(shape, device="meta"))
    return Cost(parameter_count(net), counter.get_total_flops() // 2, NORM_OPERATIONS * values)


def training_multiply_adds(net: nn.Module, shape: tuple[int, ...], prepare: Callable[[nn.Module], object]) -> int:
    """Multiply-adds of one training step, forward and as far back as something learns; counted on the meta device.

    Args:
        shape: of the input, for example (1, T, C, H, W).
        prepare: makes a copy of `net` train what shall learn.
    """
    ghost = copy.deepcopy(net).to("meta")
    prepare(ghost)
    counter = FlopCounterMode(display=False)
    with torch.enable_grad(), counter:
        logits = ghost(torch.empty(shape, device="meta")).logits
        torch.stack([value.sum() for value in logits.values()]).sum().backward()
    return int(counter.get_total_flops()) // 2


def kept_for_backward(
    net: nn.Module, shape: tuple[int, ...], prepare: Callable[[nn.Module], object] = nn.Module.train
) -> int:
    """Bytes in float32 that a forward pass of `net` in training keeps for its backward pass, parameters aside; counted
    on the meta device.

    Args:
        shape: of the input, for example (B, T, C, H, W).
        prepare: makes a copy of `net` train what shall learn; by default all that has a gradient.
    """
    ghost = copy.deepcopy(net).to("meta")
    prepare(ghost)
    return kept_bytes(lambda: ghost(torch.empty(shape, device="meta")), ghost)


def feature_shapes(net: Peer, clip: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """{feature: shape for one clip} of what `net` returns for clips [T, C, H, W]; nothing is computed."""
    ghost = copy.deepcopy(net).to("meta").train()
    with torch.no_grad():
        output = ghost(torch.empty((2, *clip), device="meta"))
    return {name: tuple(value.shape[1:]) for name, value in output.features.items()}


def kept_bytes(forward: Callable[[], object], net: nn.Module) -> int:
    """Bytes of the storages that a forward pass saves for its backward pass, those of `net` aside."""
    own = {tensor.untyped_storage()._cdata for tensor in (*net.parameters(), *net.buffers())}
    sizes: dict[int, int] = {}
    held: list[Tensor] = []  # so that no storage takes the place of another

    def keep(tensor: Tensor) -> Tensor:
        held.append(tensor)
        sizes[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(size for storage, size in sizes.items() if storage not in own)


def parameter_count(net: nn.Module) -> int:
    """Number of learnable values."""
    return sum(parameter.numel() for parameter in net.parameters())


def parameter_counts(nets: Mapping[str, nn.Module] | nn.ModuleDict) -> dict[str, int]:
    """Number of learnable values of each network."""
    return {name: parameter_count(net) for name, net in nets.items()}
