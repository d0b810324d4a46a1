"""3-D ResNet trunks: I3D, C2D and Slow, with the parameter names of the 2-D ones.

Legend: B clips, C channels, T frames, T' = T or, after temporal pooling, T // 2, D = `feature_dim`, H W height, width.
Sources: Carreira and Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017 (inflation); Wang et al., "Non-local Neural
Networks", CVPR 2018 (C2D and I3D on a ResNet); Feichtenhofer et al., "SlowFast Networks", ICCV 2019 (Slow).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mml_lightning.backbones.non_local import RESNET_PLACES, add_nonlocals, after_block
from mml_lightning.backbones.resnet import SPECS, Bottleneck

STAGES = ("layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class Temporal:
    """Where a network looks along time.

    Args:
        stem: temporal kernel of the first convolution.
        blocks: per stage, temporal kernels of its blocks, repeated to their number.
        pool: max-pooling by 2 along time after layer1.
    """

    stem: int
    blocks: tuple[tuple[int, ...], ...]
    pool: bool


KINDS = {
    "i3d": Temporal(5, ((3,), (3, 1), (3, 1), (1, 3)), True),
    "c2d": Temporal(1, ((1,), (1,), (1,), (1,)), True),
    "slow": Temporal(1, ((1,), (1,), (3,), (3,)), False),
}


class Conv3d(nn.Conv3d):
    """The convolution of torch, with gradients that are right for clips shorter than the kernel.

    In bfloat16 on a CPU (torch 2.13, oneDNN's `jit_bf16`) the gradient of a filter with more taps than there are frames
    is what happened to lie in memory, unless there is one frame. The same frames with the zeros around them written
    out are no shorter than the kernel.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, C', T, H', W']"""
        reduced = torch.is_autocast_enabled("cpu") or input.dtype == torch.bfloat16
        if input.device.type != "cpu" or not reduced or not 1 < input.shape[2] < self.kernel_size[0]:
            return super().forward(input)
        time, height, width = (int(p) for p in self.padding)
        padded = functional.pad(input, (0, 0, 0, 0, time, time))
        return functional.conv3d(
            padded, self.weight, self.bias, self.stride, (0, height, width), self.dilation, self.groups
        )


def _conv(inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1) -> Conv3d:
    """kernel (k_t, k): k_t x k x k, padded to keep T, H and W, stride in space only."""
    time, space = kernel
    return Conv3d(
        inputs, outputs, (time, space, space), (1, stride, stride), (time // 2, space // 2, space // 2), bias=False
    )


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_conv(inputs, outputs, (1, 1), stride), nn.BatchNorm3d(outputs))


class BasicBlock3d(nn.Module):
    """k_t x 3 x 3 and 1 x 3 x 3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int, time: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, channels, (time, 3), stride)
        self.bn1 = nn.BatchNorm3d(channels)
        self.conv2 = _conv(channels, channels, (1, 3))
        self.bn2 = nn.BatchNorm3d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, channels, stride)

    @property
    def last_norm(self) -> nn.BatchNorm3d:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, channels, T, H/stride, W/stride]."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out.add_(x if self.downsample is None else self.downsample(x)))


class Bottleneck3d(nn.Module):
    """k_t x 1 x 1, 1 x 3 x 3 (with the stride) and 1 x 1 x 1 convolutions around a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int, time: int) -> None:
        super().__init__()
        outputs = channels * self.expansion
        self.conv1 = _conv(inputs, channels, (time, 1))
        self.bn1 = nn.BatchNorm3d(channels)
        self.conv2 = _conv(channels, channels, (1, 3), stride)
        self.bn2 = nn.BatchNorm3d(channels)
        self.conv3 = _conv(channels, outputs, (1, 1))
        self.bn3 = nn.BatchNorm3d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride)

    @property
    def last_norm(self) -> nn.BatchNorm3d:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, 4 * channels, T, H/stride, W/stride]."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out.add_(x if self.downsample is None else self.downsample(x)))


Block = type[BasicBlock3d] | type[Bottleneck3d]


class ResNet3d(nn.Module):
    """Clip trunk without pooling and classifier: [B, C, T, H, W] -> [B, D, T', h, w].

    `conv1 bn1 relu maxpool layer1 timepool layer2 layer3 layer4`, with the blocks of `nonlocals` in between. The usual
    stem is k_t x 7 x 7 and divides H and W by 4; the small one is k_t x 3 x 3 and divides by 2.

    Args:
        block, layers: residual block and number of blocks per stage.
        temporal: kernels along time.
        width: channels of the first stage; stage i has width * 2**i * block.expansion.
        nonlocals: {stage: blocks after which a non-local block stands}.
    """

    def __init__(
        self,
        block: Block,
        layers: tuple[int, ...],
        temporal: Temporal,
        width: int = 64,
        small_stem: bool = False,
        in_channels: int = 3,
        nonlocals: Mapping[str, tuple[int, ...]] | None = None,
        attention: str = "softmax",
    ) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, width, (temporal.stem, 3 if small_stem else 7), 2)
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_stem else nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.timepool = nn.MaxPool3d((2, 1, 1)) if temporal.pool else nn.Identity()
        self.stride = 16 if small_stem else 32
        self.time_stride = 2 if temporal.pool else 1
        self.feature_dim, widths = width, {}
        for index, (stage, blocks) in enumerate(zip(STAGES, layers, strict=True)):
            channels, times = width * 2**index, temporal.blocks[index]
            modules = []
            for number in range(blocks):
                stride = 2 if index and not number else 1
                modules.append(block(self.feature_dim, channels, stride, times[number % len(times)]))
                self.feature_dim = channels * block.expansion
            self.add_module(stage, nn.Sequential(*modules))
            widths[stage] = self.feature_dim
        self._initialise()
        if nonlocals:
            counts = dict(zip(STAGES, layers, strict=True))
            self.nonlocals = add_nonlocals(widths, counts, nonlocals, attention)
        else:
            self.nonlocals = nn.ModuleDict()

    def _initialise(self) -> None:
        """He's normal distribution by fan-out; the last norm of a block starts at zero: the block is the shortcut."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock3d | Bottleneck3d):
                nn.init.zeros_(module.last_norm.weight)

    @property
    def stages(self) -> list[nn.Sequential]:
        """layer1 .. layer4."""
        return [self.get_submodule(stage) for stage in STAGES]  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, D, T', h, w], h = H/32 (H/16 with the small stem), rounded up.

        Raises:
            ValueError: too few frames for the temporal pooling.
        """
        if x.shape[2] < self.time_stride:
            raise ValueError(f"{x.shape[2]} frame in a clip, the network pools 2: use 2 frames or more, or a slow one")
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name, stage in zip(STAGES, self.stages, strict=True):
            for index, block in enumerate(stage):
                x = after_block(self.nonlocals, name, index, block(x))
            if name == STAGES[0]:
                x = self.timepool(x)
        return x


def resnet3d(
    kind: str,
    depth: int | str,
    width: int | None = None,
    temporal_pool: bool | None = None,
    nonlocal_blocks: bool = False,
    attention: str = "softmax",
    in_channels: int = 3,
) -> ResNet3d:
    """Build a trunk by kind (i3d, c2d, slow) and depth (18, 34, 50, 101, 152 or 'tiny').

    Args:
        width: channels of the first stage; None is the usual one (64, tiny 16).
        temporal_pool: overrides the kind's pooling along time after layer1.
        nonlocal_blocks: with the non-local blocks of `RESNET_PLACES`.

    Raises:
        ValueError: unknown kind or depth, or no published places of non-local blocks for this depth.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is unknown: use one of {', '.join(KINDS)}")
    if depth not in SPECS:
        raise ValueError(f"depth={depth!r} is unknown: use one of {', '.join(map(str, SPECS))}")
    if nonlocal_blocks and depth not in RESNET_PLACES:
        raise ValueError(f"depth={depth!r} has no non-local blocks: use one of {', '.join(map(str, RESNET_PLACES))}")
    spec, temporal = SPECS[depth], KINDS[kind]
    if temporal_pool is not None:
        temporal = Temporal(temporal.stem, temporal.blocks, temporal_pool)
    block: Block = Bottleneck3d if spec.block is Bottleneck else BasicBlock3d
    places = RESNET_PLACES[depth] if nonlocal_blocks else None
    return ResNet3d(block, spec.layers, temporal, width or spec.width, spec.small_stem, in_channels, places, attention)
