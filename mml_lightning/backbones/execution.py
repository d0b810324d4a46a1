"""How a network is computed, without changing what it computes: memory format, and activations computed twice.

Legend: C channels, H W height and width, T frames.
Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016 (checkpointing).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mml_lightning.backbones.batch_norm import batch_norms

FORMATS = ("auto", "contiguous", "channels_last")
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
NARROW = 16  # channels


def set_memory_format(net: nn.Module, name: str = "auto") -> str:
    """Lay the filters of a network out in memory; its maps follow them, layer by layer. Values don't change.

    Args:
        name: `contiguous` ([C, H, W] or [C, T, H, W] of a filter in this order), `channels_last` ([.., H, W, C], what
            tensor cores and oneDNN compute in), or `auto`: channels_last for a network of 2-D convolutions, contiguous
            for one with 3-D ones (docs/benchmarks.md has what that gains) or with fewer than 16 channels before a
            strided 1x1 convolution (which may end the process in channels_last).

    Returns: the format chosen.

    Raises:
        ValueError: unknown name.
    """
    if name not in FORMATS:
        raise ValueError(f"memory format {name!r} is unknown: use one of {', '.join(FORMATS)}")
    layers = [module for module in net.modules() if isinstance(module, CONVOLUTIONS)]
    if name == "auto":
        fit = all(isinstance(layer, nn.Conv2d) and not _ends_the_process(layer) for layer in layers)
        name = "channels_last" if fit else "contiguous"
    for layer in layers:
        last = torch.channels_last if isinstance(layer, nn.Conv2d) else torch.channels_last_3d
        layer.weight.data = layer.weight.data.to(
            memory_format=last if name == "channels_last" else torch.contiguous_format
        )
    return name


def _ends_the_process(layer: nn.Conv2d) -> bool:
    """Whether a CPU with AVX-512 may die of this layer's backward pass in channels_last.

    oneDNN's kernel (jit_1x1, backward_weights; torch 2.13) takes 16 channels of the input at a time and leaves its
    memory where there are fewer: a segmentation fault at 8 channels and maps of 56 x 56, in bfloat16 a damaged heap at
    112 x 112. A GPU has none of it, but networks this narrow lose nothing there.
    """
    strided_1x1 = max(layer.kernel_size) == 1 and max(layer.stride) > 1
    return strided_1x1 and layer.in_channels // layer.groups < NARROW


def checkpoint_blocks(net: nn.Module) -> int:
    """Keep only the input of each block of the trunk in training, and compute what lies inside once more when the
    backward pass needs it: a third more arithmetic, a fraction of the memory. Gradients and running statistics are the
    same to the bit.

    Args:
        net: a network whose trunk has `stages` or `features`, sequences of blocks.

    Returns: how many blocks there are.

    Raises:
        ValueError: the network has neither.
    """
    blocks = trunk_blocks(net)
    if not blocks:
        name = type(getattr(net, "net", net)).__name__
        raise ValueError(f"{name} has no stages and no features: nothing to checkpoint")
    for block in blocks:
        block.forward = functools.partial(_checkpointed, block, block.forward)
    return len(blocks)


def trunk_blocks(net: nn.Module) -> list[nn.Module]:
    """Those that can be computed twice; none where the trunk has neither `stages` nor `features`."""
    trunk = getattr(net, "net", net)
    stages = getattr(trunk, "stages", None) or [getattr(trunk, "features", None)]
    return [block for stage in stages if isinstance(stage, nn.Sequential) for block in stage]


def _checkpointed(block: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Any:
    if not torch.is_grad_enabled():
        return forward(x)
    return checkpoint(forward, x, use_reentrant=False, context_fn=functools.partial(_contexts, block))


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _without_statistics(block)


@contextmanager
def _without_statistics(block: nn.Module) -> Iterator[None]:
    """The same batch has entered the running statistics before: it enters with weight 0, and is not counted."""
    layers = [layer for layer in batch_norms(block) if layer.training and layer.track_running_stats]
    before = [(layer.momentum, layer.num_batches_tracked.clone()) for layer in layers]  # type: ignore[union-attr]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, (momentum, count) in zip(layers, before, strict=True):
            layer.momentum = momentum
            layer.num_batches_tracked.copy_(count)  # type: ignore[union-attr]
