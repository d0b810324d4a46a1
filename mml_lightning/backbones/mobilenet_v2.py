"""MobileNetV2 trunk with torchvision's parameter names; the classifier lives in the recognizer.

Legend: B images, C channels, D = `feature_dim`, H W height and width.
Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, table 2.
"""

from __future__ import annotations

from torch import Tensor, nn

from mml_lightning.backbones.temporal_shift import TemporalShift

STEM_WIDTH, LAST_WIDTH = 32, 1280
TABLE = (  # expansion, channels, blocks, stride of the first block
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _conv_bn_relu(in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Expansion, depthwise 3x3, linear projection; a shortcut where input and output have one shape."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expands = expansion != 1
        self.has_shortcut = stride == 1 and in_channels == channels
        layers: list[nn.Module] = [_conv_bn_relu(in_channels, hidden, 1)] if self.expands else []
        layers += [
            _conv_bn_relu(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, channels, H/stride, W/stride]."""
        out: Tensor = self.conv(x)
        return out.add_(x) if self.has_shortcut else out  # in place, as in `resnet`


class MobileNetV2(nn.Module):
    """Image trunk of width 1 without pooling and classifier: [B, C, H, W] -> [B, D, H/32, W/32], rounded up.

    Args:
        in_channels: C.
    """

    stem_name = "features.0.0"
    pretrained = "mobilenet_v2"

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        features: list[nn.Module] = [_conv_bn_relu(in_channels, STEM_WIDTH, 3, stride=2)]
        width = STEM_WIDTH
        for expansion, channels, blocks, stride in TABLE:
            for index in range(blocks):
                features.append(InvertedResidual(width, channels, stride if index == 0 else 1, expansion))
                width = channels
        features.append(_conv_bn_relu(width, LAST_WIDTH, 1))
        self.features = nn.Sequential(*features)
        self.feature_dim = LAST_WIDTH
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D, h, w]."""
        out: Tensor = self.features(x)
        return out


def add_inverted_residual_shift(
    trunk: MobileNetV2, n_segments: int = 8, n_div: int = 8, online: bool = False
) -> list[TemporalShift]:
    """Shift the input of the expansion inside every block that has one and a shortcut (features 3, 5, 6, 8, 9, 10, 12,
    13, 15 and 16), in place. Source: Lin et al., "TSM", ICCV 2019, and its online demonstration.

    Args:
        online: shift from the previous frame alone.

    Returns: the inserted modules in network order.

    Raises:
        ValueError: the network is shifted already.
    """
    if any(isinstance(module, TemporalShift) for module in trunk.modules()):
        raise ValueError("the network already has a temporal shift: build a new one to change its place")
    shifts = []
    for block in trunk.features:
        if isinstance(block, InvertedResidual) and block.expands and block.has_shortcut:
            shift = TemporalShift(block.conv[0], n_segments, n_div, online)
            block.conv[0] = shift
            shifts.append(shift)
    return shifts
