"""ResNet trunks with torchvision's parameter names; the classifier lives in the recognizer.

Legend: B images, C channels, D = `feature_dim`, H W height and width.
Shortcuts are added in place: a batch norm keeps its input for the backward pass, not its output.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; stride on the 3x3 convolution of a
bottleneck (the form of the published torchvision weights).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, channels, H/stride, W/stride]."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out.add_(x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 4 * channels, H/stride, W/stride]."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out.add_(x if self.downsample is None else self.downsample(x)))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


@dataclass(frozen=True)
class ResNetSpec:
    """What tells one depth from another."""

    block: type[BasicBlock] | type[Bottleneck]
    layers: tuple[int, int, int, int]
    width: int = 64
    small_stem: bool = False


SPECS: dict[int | str, ResNetSpec] = {
    18: ResNetSpec(BasicBlock, (2, 2, 2, 2)),
    34: ResNetSpec(BasicBlock, (3, 4, 6, 3)),
    50: ResNetSpec(Bottleneck, (3, 4, 6, 3)),
    101: ResNetSpec(Bottleneck, (3, 4, 23, 3)),
    152: ResNetSpec(Bottleneck, (3, 8, 36, 3)),
    "tiny": ResNetSpec(BasicBlock, (1, 1, 1, 1), width=16, small_stem=True),
}


STAGES = ("layer1", "layer2", "layer3", "layer4")


class ResNet(nn.Module):
    """Image trunk without pooling and classifier: [B, C, H, W] -> [B, D, h, w].

    `conv1 bn1 relu maxpool layer1 temporal_pool layer2 temporal_pool2 layer3 temporal_pool3 layer4`. The usual stem
    divides H and W by 4 before layer1; the small stem (3x3, stride 2, no pooling) divides by 2, for frames of about 64
    to 128 pixels.
    `temporal_pool`, those after it and `nonlocals` do nothing unless a video network fills them (`temporal_2d`).

    Args:
        block, layers: residual block and number of blocks per stage.
        width: channels of the first stage; stage i has width * 2**i * block.expansion.
        small_stem: 3x3 stride-2 stem without max-pooling.
        in_channels: C.
    """

    stem_name = "conv1"

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: tuple[int, int, int, int],
        width: int = 64,
        small_stem: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        kernel = 3 if small_stem else 7
        self.conv1 = nn.Conv2d(in_channels, width, kernel, stride=2, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_stem else nn.MaxPool2d(3, stride=2, padding=1)
        self.feature_dim = width
        self.layer1 = self._stage(block, width, layers[0], stride=1)
        self.temporal_pool: nn.Module = nn.Identity()
        self.layer2 = self._stage(block, width * 2, layers[1], stride=2)
        self.temporal_pool2: nn.Module = nn.Identity()
        self.layer3 = self._stage(block, width * 4, layers[2], stride=2)
        self.temporal_pool3: nn.Module = nn.Identity()
        self.layer4 = self._stage(block, width * 8, layers[3], stride=2)
        self.nonlocals = nn.ModuleDict()  # {<stage>_<block>: what stands after that block}
        self._initialise()

    def _stage(
        self, block: type[BasicBlock] | type[Bottleneck], channels: int, blocks: int, stride: int
    ) -> nn.Sequential:
        modules: list[nn.Module] = []
        for index in range(blocks):
            modules.append(block(self.feature_dim, channels, stride if index == 0 else 1))
            self.feature_dim = channels * block.expansion
        return nn.Sequential(*modules)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def stages(self) -> list[nn.Sequential]:
        """layer1 .. layer4."""
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D, h, w], h = H/32 (H/16 with the small stem), rounded up."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        before = (None, self.temporal_pool, self.temporal_pool2, self.temporal_pool3)
        for name, stage, pool in zip(STAGES, self.stages, before, strict=True):
            if pool is not None:
                x = pool(x)
            x = self._with_nonlocals(name, stage, x) if self.nonlocals else stage(x)
        return x

    def _with_nonlocals(self, name: str, stage: nn.Sequential, x: Tensor) -> Tensor:
        for index, block in enumerate(stage):
            x = block(x)
            if f"{name}_{index}" in self.nonlocals:
                x = self.nonlocals[f"{name}_{index}"](x)
        return x


def resnet(depth: int | str, width: int | None = None, in_channels: int = 3) -> ResNet:
    """Build a trunk by depth: 18, 34, 50, 101, 152 or 'tiny' (four basic blocks, width 16, small stem, 0.3 M).

    Raises:
        ValueError: unknown depth.
    """
    if depth not in SPECS:
        raise ValueError(f"depth={depth!r} is unknown: use one of {', '.join(map(str, SPECS))}")
    spec = SPECS[depth]
    return ResNet(spec.block, spec.layers, width or spec.width, spec.small_stem, in_channels)
