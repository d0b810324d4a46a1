"""The network of one peer: frames of a clip through a 2-D trunk, one linear head per label set, mean over time.

    clip [B, T, C, H, W]
      |  frames become rows
    [B*T, C, H, W]
      |  trunk, with temporal shift inside if it is a TSM
    map [B, T, D, h, w]
      |  global average pooling
    [B*T, D] ---- mean over T ----> pooled [B, D]
      |  dropout, linear head per label set
    [B, T, K]
      |  mean over T
    logits [B, K]

Legend: B batch, T frames, C channels, H W height and width, D feature width, K classes of a head.
Sources: Wang et al., "Temporal Segment Networks", ECCV 2016 (consensus); Lin et al., "TSM", ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from mml_lightning.backbones.efficientnet_lite import EfficientNetLite0, add_mbconv_shift
from mml_lightning.backbones.mobilenet_v2 import MobileNetV2, add_inverted_residual_shift
from mml_lightning.backbones.peer import STEM_CHANNELS, Peer, PeerOutput
from mml_lightning.backbones.resnet import SPECS, ResNet, resnet
from mml_lightning.backbones.stem import adapt_first_conv
from mml_lightning.backbones.temporal_2d import (
    FrameNonLocal,
    TemporalPool,
    nonlocal_places,
    set_frames,
    timed_modules,
)
from mml_lightning.backbones.temporal_shift import add_temporal_shift, shifts_online

HEAD_STD = 0.001  # of TSN and TSM


Trunk = ResNet | MobileNetV2 | EfficientNetLite0


class Recognizer(Peer):
    """A 2-D trunk applied to every frame, with averaged logits (TSN), and temporal shift if the trunk has it (TSM).

    Args:
        net: trunk [B*T, C, H, W] -> [B*T', D, h, w] with attributes `feature_dim` and `stem_name`; T' is T, or half of
            it, rounded up, for every time that the trunk pools over time.
        num_classes, dropout, arch: see `Peer`.
    """

    def __init__(
        self, net: Trunk, num_classes: Mapping[str, int], dropout: float = 0.5, arch: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(net, num_classes, dropout, HEAD_STD, arch or {})
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.stem_name = f"net.{net.stem_name}"
        self._timed = timed_modules(net)

    def forward(self, clip: Tensor) -> PeerOutput:
        """Normalised clip [B, T, C, H, W] -> PeerOutput; any T, also another one than in training.

        Raises:
            ValueError: not five dimensions, or another number of channels than the stem's.
        """
        self.check_clip(clip)
        batch, frames = clip.shape[:2]
        frames = set_frames(self._timed, frames)
        feature_map, pooled, by_frame = self.by_frame(clip.flatten(0, 1))
        logits = {name: value.unflatten(0, (batch, frames)).mean(1) for name, value in by_frame.items()}
        features = {
            "pooled": pooled.unflatten(0, (batch, frames)).mean(1),
            "map": feature_map.unflatten(0, (batch, frames)),
        }
        return PeerOutput(logits, features)

    def by_frame(self, rows: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Frames [B*T, C, H, W] -> their last maps [B*T', D, h, w], pooled features [B*T', D] and logits {head: [B*T',
        K]}; how many frames a video has, the trunk must have been told."""
        feature_map = self.net(rows)
        pooled = self.pool(feature_map).flatten(1)
        return feature_map, pooled, self.classify(self.dropout(pooled))


def tsm_resnet(
    depth: int | str = 50,
    shift: bool | str = True,
    shift_div: int = 8,
    shift_place: str = "blockres",
    dropout: float = 0.5,
    in_channels: int = 3,
    num_classes: Mapping[str, int] = MappingProxyType({"label": 174}),
    width: int | None = None,
    nonlocal_blocks: bool = False,
    temporal_pool: bool | int = False,
) -> Recognizer:
    """Build a TSM network (`shift=True`) or a TSN one (`shift=False`) on a ResNet, randomly initialised.

    The trunk is born with three input channels and its stem is then averaged to `in_channels`, as the original does;
    so one seed gives every modality the same network but for the stem.

    Args:
        depth: 18, 34, 50, 101, 152 or 'tiny'.
        shift: 'online' shifts from the previous frame alone, see :mod:`~mml_lightning.backbones.streaming`.
        shift_div: the share of channels shifted each way is 1 / shift_div.
        shift_place: `blockres` or `block`.
        num_classes: {head: K}.
        width: channels of the first stage; None is the usual one (64, tiny 16).
        nonlocal_blocks: five non-local blocks, see `nonlocal_places`.
        temporal_pool: half as many frames from layer2 on; 2 and 3: once more from layer3 and from layer4 on (AdaMML).

    Raises:
        ValueError: an argument is out of range; the message names the choices.
    """
    arch: dict[str, Any] = dict(
        builder="tsm_resnet", depth=depth, shift=shift, shift_div=shift_div, shift_place=shift_place
    )
    arch |= dict(dropout=dropout, width=width, nonlocal_blocks=nonlocal_blocks, temporal_pool=temporal_pool)
    online = shifts_online(shift)
    if online and (nonlocal_blocks or temporal_pool):
        name = "nonlocal_blocks" if nonlocal_blocks else "temporal_pool"
        raise ValueError(f"{name} looks at later frames, which shift=online does without: leave one of them out")
    trunk = resnet(depth, width, STEM_CHANNELS)
    if shift:
        add_temporal_shift(trunk.stages, n_div=shift_div, place=shift_place, online=online)
    if temporal_pool not in range(4):
        raise ValueError(f"temporal_pool={temporal_pool} must be false, true or a number of stages, 1 to 3")
    for place in ("temporal_pool", "temporal_pool2", "temporal_pool3")[: int(temporal_pool)]:
        setattr(trunk, place, TemporalPool())
    if nonlocal_blocks:
        spec = SPECS[depth]
        for number, (stage, places) in enumerate(nonlocal_places(spec.layers).items(), 2):
            channels = (width or spec.width) * 2 ** (number - 1) * spec.block.expansion
            trunk.nonlocals.update({f"{stage}_{index}": FrameNonLocal(channels) for index in places})
    return _recognizer(trunk, num_classes, dropout, arch, in_channels)


def tsm_mobilenet_v2(
    shift: bool | str = True,
    shift_div: int = 8,
    dropout: float = 0.5,
    in_channels: int = 3,
    num_classes: Mapping[str, int] = MappingProxyType({"label": 174}),
) -> Recognizer:
    """Build a TSM network (`shift=True`) or a TSN one (`shift=False`) on MobileNetV2, randomly initialised.

    The shift stands before the expansion of the ten blocks that have one and a shortcut; arguments as of `tsm_resnet`.

    Raises:
        ValueError: an argument is out of range.
    """
    arch = dict(builder="tsm_mobilenet_v2", shift=shift, shift_div=shift_div, dropout=dropout)
    online = shifts_online(shift)
    trunk = MobileNetV2(STEM_CHANNELS)
    if shift:
        add_inverted_residual_shift(trunk, n_div=shift_div, online=online)
    return _recognizer(trunk, num_classes, dropout, arch, in_channels)


def tsm_efficientnet_lite0(
    shift: bool | str = True,
    shift_div: int = 8,
    dropout: float = 0.5,
    in_channels: int = 3,
    num_classes: Mapping[str, int] = MappingProxyType({"label": 174}),
) -> Recognizer:
    """Build a TSM network (`shift=True`) or a TSN one (`shift=False`) on EfficientNet-Lite0, randomly initialised.

    The shift stands before the expansion of the nine blocks that have one and a shortcut; arguments as of `tsm_resnet`.

    Raises:
        ValueError: an argument is out of range.
    """
    arch = dict(builder="tsm_efficientnet_lite0", shift=shift, shift_div=shift_div, dropout=dropout)
    online = shifts_online(shift)
    trunk = EfficientNetLite0(STEM_CHANNELS)
    if shift:
        add_mbconv_shift(trunk, n_div=shift_div, online=online)
    return _recognizer(trunk, num_classes, dropout, arch, in_channels)


def _recognizer(
    trunk: Trunk, num_classes: Mapping[str, int], dropout: float, arch: Mapping[str, Any], in_channels: int
) -> Recognizer:
    net = Recognizer(trunk, num_classes, dropout, arch)
    if in_channels != STEM_CHANNELS:
        adapt_first_conv(net, net.stem_name, in_channels)
    return net
