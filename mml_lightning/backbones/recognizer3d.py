"""The network of one peer on a 3-D trunk: the clip as a volume, global pooling, one linear head per label set.

    clip [B, T, C, H, W] -> [B, C, T, H, W] -> trunk -> map [B, T', D, h, w]
      -> mean over T', h, w -> pooled [B, D] -> dropout, linear head per label set -> logits [B, K]

With `eval_pool=sliding`, a clip larger than those of training is scored in eval mode as SlowFast does: a window of the
size of the training map slides over the map, every position is classified, and their probabilities are averaged. What
is returned are logits all the same, those whose activation is that average. Everything else gives plain logits from
global pooling: training mode, and a clip of the training size in eval mode, so a frozen teacher in a training step.

Legend: B batch, T frames, C channels, H W height and width, D feature width, T' h w size of the last map, K classes, P
positions of the window.
Source: Feichtenhofer et al., "SlowFast Networks", ICCV 2019, and its published code.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mml_lightning.backbones.peer import STEM_CHANNELS, Peer, PeerOutput
from mml_lightning.backbones.resnet3d import ResNet3d, resnet3d
from mml_lightning.backbones.stem import adapt_first_conv

HEAD_STD = 0.01
POOLS = ("global", "sliding")
ACTIVATIONS = ("softmax", "sigmoid")


def mean_probability_logits(logits: Tensor, activation: str) -> Tensor:
    """Logits [.., P, K] of positions -> logits [.., K] whose activation is the mean of the positions' activations.

    For `softmax` that is the logarithm of the mean probabilities, for `sigmoid` the logit of the mean probability.
    """
    if logits.shape[-2] == 1:
        return logits.squeeze(-2)
    if activation == "softmax":
        return logits.log_softmax(-1).logsumexp(-2) - torch.tensor(float(logits.shape[-2])).log().to(logits)
    positive, negative = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    return positive.logsumexp(-2) - negative.logsumexp(-2)


class Recognizer3d(Peer):
    """A 3-D trunk on whole clips.

    Args:
        net: trunk [B, C, T, H, W] -> [B, D, T', h, w] with attributes `feature_dim`, `stride`, `time_stride`.
        num_classes, dropout, arch: see `Peer`.
        eval_pool: `global`, or `sliding` for larger clips in eval mode.
        activation: of the heads, for the average over positions: `softmax` or `sigmoid`.
        crop, frames: H (= W) and T of the training clips; needed for `sliding`.

    Raises:
        ValueError: unknown pool or activation, or sliding without the size of the training clips.
    """

    net: ResNet3d

    def __init__(
        self,
        net: ResNet3d,
        num_classes: Mapping[str, int],
        dropout: float = 0.5,
        eval_pool: str = "global",
        activation: str = "softmax",
        crop: int | None = None,
        frames: int | None = None,
        arch: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(net, num_classes, dropout, HEAD_STD, arch or {})
        if frames is not None and frames < net.time_stride:
            raise ValueError(f"frames={frames}: the network pools 2 frames into one, use 2 or more, or kind=slow")
        if eval_pool not in POOLS:
            raise ValueError(f"eval_pool={eval_pool!r} is unknown: use one of {', '.join(POOLS)}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation!r} is unknown: use one of {', '.join(ACTIVATIONS)}")
        if eval_pool == "sliding" and (not crop or not frames or crop < net.stride or frames < net.time_stride):
            raise ValueError(
                f"eval_pool=sliding needs the size of the training clips, crop >= {net.stride} and "
                f"frames >= {net.time_stride} (have {crop} and {frames}); or use eval_pool=global"
            )
        self.eval_pool = eval_pool
        self.activation = activation
        self.crop, self.frames = crop or 0, frames or 0

    def forward(self, clip: Tensor) -> PeerOutput:
        """Normalised clip [B, T, C, H, W] -> PeerOutput.

        Raises:
            ValueError: not five dimensions, another number of channels than the stem's, or too few frames.
        """
        self.check_clip(clip)
        volume = self.net(clip.transpose(1, 2))
        pooled = volume.mean((2, 3, 4))
        if self._slides(clip):
            kernel = (self.frames // self.net.time_stride, *[self.crop // self.net.stride] * 2)
            window = [min(size, limit) for size, limit in zip(kernel, volume.shape[2:], strict=True)]
            positions = functional.avg_pool3d(volume, window, stride=1).flatten(2).transpose(1, 2)  # [B, P, D]
            by_place = self.classify(positions)
            logits = {name: mean_probability_logits(value, self.activation) for name, value in by_place.items()}
        else:
            logits = self.classify(self.dropout(pooled))
        return PeerOutput(logits, {"pooled": pooled, "map": volume.transpose(1, 2)})

    def _slides(self, clip: Tensor) -> bool:
        _, frames, _, height, width = clip.shape
        larger = frames > self.frames or max(height, width) > self.crop
        return self.eval_pool == "sliding" and not self.training and larger


def video_resnet(
    kind: str = "i3d",
    depth: int | str = 50,
    temporal_pool: bool | None = None,
    nonlocal_blocks: bool = False,
    attention: str = "softmax",
    dropout: float = 0.5,
    eval_pool: str = "global",
    activation: str = "softmax",
    crop: int | None = None,
    frames: int | None = None,
    width: int | None = None,
    in_channels: int = 3,
    num_classes: Mapping[str, int] = MappingProxyType({"label": 400}),
) -> Recognizer3d:
    """Build I3D, C2D or Slow on a ResNet, randomly initialised.

    The trunk is born with three input channels and its stem is then averaged to `in_channels`; so one seed gives every
    modality the same network but for the stem.

    Args:
        kind: `i3d`, `c2d` or `slow`.
        depth: 18, 34, 50, 101, 152 or 'tiny'.
        temporal_pool: overrides the kind's max-pooling along time after layer1 (i3d and c2d: yes; slow: no).
        nonlocal_blocks: with non-local blocks after layer2.1, layer2.3, layer3.1, layer3.3 and layer3.5 (depth 50).
        attention: of the non-local blocks, `softmax` or `dot_product`.
        eval_pool, activation, crop, frames: see `Recognizer3d`.
        width: channels of the first stage; None is the usual one (64, tiny 16).
        num_classes: {head: K}.

    Raises:
        ValueError: an argument is out of range; the message names the choices.
    """
    values = dict(
        kind=kind,
        depth=depth,
        temporal_pool=temporal_pool,
        nonlocal_blocks=nonlocal_blocks,
        attention=attention,
        dropout=dropout,
        eval_pool=eval_pool,
        activation=activation,
        crop=crop,
        frames=frames,
        width=width,
    )
    trunk = resnet3d(kind, depth, width, temporal_pool, nonlocal_blocks, attention, STEM_CHANNELS)
    arch = {"builder": "video_resnet", **values}
    net = Recognizer3d(trunk, num_classes, dropout, eval_pool, activation, crop, frames, arch)
    if in_channels != STEM_CHANNELS:
        adapt_first_conv(net, net.stem_name, in_channels)
    return net
