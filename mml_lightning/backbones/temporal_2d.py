"""What looks along time inside a 2-D network, beside the shift: temporal pooling and non-local blocks.

Legend: B batch, N segments (frames of one video), C channels, H W height and width. The frames of a video stand in
consecutive rows; every such module has `n_segments`, told before every forward pass, in training and at test alike, so
that no two videos are ever mixed.
Sources: Lin et al., "TSM", ICCV 2019, and its code; Wang et al., "Non-local Neural Networks", CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mml_lightning.backbones.non_local import NonLocal
from mml_lightning.backbones.temporal_shift import TemporalShift

KERNEL, STRIDE = 3, 2
NONLOCAL_COUNT = {"layer2": 2, "layer3": 3}  # blocks of TSM and of the paper on ResNet-50


class TemporalPool(nn.Module):
    """Max over three neighbouring frames, every second one kept: N frames become ceil(N / 2). No parameters."""

    def __init__(self, n_segments: int = 8) -> None:
        super().__init__()
        self.n_segments = n_segments

    def frames_out(self, n_segments: int) -> int:
        """Frames left of N."""
        return (n_segments + STRIDE - 1) // STRIDE

    def forward(self, x: Tensor) -> Tensor:
        """[B*N, C, H, W] -> [B*ceil(N/2), C, H, W].

        Raises:
            ValueError: rows do not divide into videos of N frames.
        """
        pooled = F.max_pool3d(_volume(x, self.n_segments), (KERNEL, 1, 1), (STRIDE, 1, 1), (KERNEL // 2, 0, 0))
        return _rows(pooled)

    def extra_repr(self) -> str:
        return f"n_segments={self.n_segments}"


class FrameNonLocal(NonLocal):
    """A non-local block over all positions of all frames of a video, as TSM has it: dot products without a scale, keys
    and values pooled after their projections.

    Args:
        channels: C.
    """

    def __init__(self, channels: int, n_segments: int = 8) -> None:
        super().__init__(channels, scale=False, pool_outputs=True)
        self.n_segments = n_segments

    def forward(self, x: Tensor) -> Tensor:
        """[B*N, C, H, W] -> the same shape.

        Raises:
            ValueError: rows do not divide into videos of N frames.
        """
        return _rows(super().forward(_volume(x, self.n_segments)))


def nonlocal_places(layers: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Blocks after which a ResNet has a non-local block: two in layer2, three in layer3, evenly spaced from block 0.

    On ResNet-50 that is layer2.0, layer2.2, layer3.0, layer3.2 and layer3.4; every stage keeps all its blocks at any
    depth. Stages with fewer blocks have one after each.

    Args:
        layers: number of blocks per stage, layer1 first.
    """
    places = {}
    for stage, count in NONLOCAL_COUNT.items():
        blocks = layers[int(stage[-1]) - 1]
        step = max(1, blocks // count)
        places[stage] = tuple(index * step for index in range(min(count, blocks)))
    return places


Timed = TemporalShift | TemporalPool | FrameNonLocal


def timed_modules(trunk: nn.Module) -> list[Timed]:
    """The modules that must know N, in the order of registration, which is that of the network up to the pooling."""
    return [module for module in trunk.modules() if isinstance(module, Timed)]


def set_frames(modules: Iterable[Timed], frames: int) -> int:
    """Tell every module how many frames one video has when it reaches it.

    Args:
        modules: in network order.
        frames: T of the coming forward pass.

    Returns: how many frames leave the trunk.
    """
    for module in modules:
        module.n_segments = frames
        if isinstance(module, TemporalPool):
            frames = module.frames_out(frames)
    return frames


def _volume(x: Tensor, n_segments: int) -> Tensor:
    """[B*N, C, H, W] -> [B, C, N, H, W]."""
    if n_segments < 1 or x.shape[0] % n_segments:
        raise ValueError(f"{x.shape[0]} frames are not whole videos of {n_segments}: set n_segments to the clip's T")
    return x.unflatten(0, (-1, n_segments)).transpose(1, 2)


def _rows(volume: Tensor) -> Tensor:
    """[B, C, N, H, W] -> [B*N, C, H, W]."""
    return volume.transpose(1, 2).flatten(0, 1)
