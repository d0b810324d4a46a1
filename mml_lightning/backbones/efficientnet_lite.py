"""EfficientNet-Lite0 trunk with the names of the common PyTorch port of EfficientNet; the classifier lives in the
recognizer.

Legend: B images, C channels, D = `feature_dim`, H W height and width.
Sources: Tan and Le, "EfficientNet", ICML 2019, table 1; the Lite variants of its authors: ReLU6 for swish and no
squeeze-and-excitation. The weights were trained on inputs (x - 127) / 128.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mml_lightning.backbones.temporal_shift import TemporalShift

STEM_WIDTH, LAST_WIDTH = 32, 1280
EPSILON = 1e-3  # of every batch norm; the momentum is torch's: the original 0.01 is too slow for short runs
TABLE = (  # expansion, kernel, channels, blocks, stride of the first block
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)


class SameConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow does: ceil(side / stride) outputs, and where the padding is odd one more
    row below and one more column to the right."""

    def forward(self, input: Tensor) -> Tensor:
        padding: list[int] = []
        for axis in (1, 0):  # `pad` wants the last dimension first
            side, kernel, stride = int(input.shape[axis - 2]), int(self.kernel_size[axis]), int(self.stride[axis])
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(input, padding) if any(padding) else input)


def _convolution(in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    if stride == 1:  # the padding is even then
        return nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, groups=groups, bias=False)
    return SameConv2d(in_channels, channels, kernel, stride, groups=groups, bias=False)


class MBConv(nn.Module):
    """Expansion, depthwise convolution, linear projection; a shortcut where input and output have one shape."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expands = expansion != 1
        self.has_shortcut = stride == 1 and in_channels == channels
        if self.expands:
            self._expand_conv = _convolution(in_channels, hidden, 1)
            self._bn0 = nn.BatchNorm2d(hidden, EPSILON)
        self._depthwise_conv = _convolution(hidden, hidden, kernel, stride, groups=hidden)
        self._bn1 = nn.BatchNorm2d(hidden, EPSILON)
        self._project_conv = _convolution(hidden, channels, 1)
        self._bn2 = nn.BatchNorm2d(channels, EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, channels, H/stride, W/stride], rounded up."""
        out = F.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expands else x
        out = F.relu6(self._bn1(self._depthwise_conv(out)), inplace=True)
        out = self._bn2(self._project_conv(out))
        return out.add_(x) if self.has_shortcut else out  # in place, as in `resnet`


class EfficientNetLite0(nn.Module):
    """Image trunk without pooling and classifier: [B, C, H, W] -> [B, D, H/32, W/32], rounded up.

    Args:
        in_channels: C.
    """

    stem_name = "_conv_stem"
    pretrained = "efficientnet_lite0"

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self._conv_stem = _convolution(in_channels, STEM_WIDTH, 3, stride=2)
        self._bn0 = nn.BatchNorm2d(STEM_WIDTH, EPSILON)
        blocks, width = [], STEM_WIDTH
        for expansion, kernel, channels, count, stride in TABLE:
            for index in range(count):
                blocks.append(MBConv(width, channels, kernel, stride if index == 0 else 1, expansion))
                width = channels
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = _convolution(width, LAST_WIDTH, 1)
        self._bn1 = nn.BatchNorm2d(LAST_WIDTH, EPSILON)
        self.feature_dim = LAST_WIDTH
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def stages(self) -> Sequence[nn.Sequential]:
        """The blocks, as what looks for blocks to wrap expects them."""
        return (self._blocks,)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D, h, w]."""
        out = F.relu6(self._bn0(self._conv_stem(x)), inplace=True)
        out = self._bn1(self._conv_head(self._blocks(out)))
        return F.relu6(out, inplace=True)


def add_mbconv_shift(
    trunk: EfficientNetLite0, n_segments: int = 8, n_div: int = 8, online: bool = False
) -> list[TemporalShift]:
    """Shift the input of the expansion inside every block that has one and a shortcut (blocks 2, 4, 6, 7, 9, 10, 12, 13
    and 14), in place: the rule of Lin et al., "TSM", ICCV 2019, for MobileNetV2.

    Args:
        online: shift from the previous frame alone.

    Returns: the inserted modules in network order.

    Raises:
        ValueError: the network is shifted already.
    """
    if any(isinstance(module, TemporalShift) for module in trunk.modules()):
        raise ValueError("the network has a temporal shift already: build a fresh one to change its place")
    shifts = []
    for block in trunk._blocks:
        if isinstance(block, MBConv) and block.expands and block.has_shortcut:
            shift = TemporalShift(block._expand_conv, n_segments, n_div, online)
            block._expand_conv = shift  # type: ignore[assignment]
            shifts.append(shift)
    return shifts
