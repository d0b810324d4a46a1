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
Sources: Wang et al., "Temporal Segment Networks", ECCV 2016 (consensus, partial BN); Lin et al., "TSM", ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn

from mml_lightning.backbones.resnet import ResNet, resnet
from mml_lightning.backbones.temporal_shift import TemporalShift, add_temporal_shift, set_segments
from mml_lightning.stems import adapt_first_conv

STEM_CHANNELS = 3  # every trunk is born with an RGB stem, which then follows the modality


class PeerOutput(NamedTuple):
    """What every peer returns.

    Attributes:
        logits: {head: [B, K]}, before any activation.
        features: `pooled` [B, D], mean over time before dropout; `map` [B, T, D, h, w], last map before pooling.
    """

    logits: dict[str, Tensor]
    features: dict[str, Tensor]


class Recognizer(nn.Module):
    """A 2-D trunk applied to every frame, with averaged logits (TSN), and temporal shift if the trunk has it (TSM).

    Args:
        net: trunk [B*T, C, H, W] -> [B*T, D, h, w] with attribute `feature_dim`; its stem is `net.conv1`.
        num_classes: {head: K}.
        dropout: probability before the heads, 0 for none.
        arch: plain values, enough for `rebuild` together with `in_channels` and `num_classes`.

    Raises:
        ValueError: no head, or a head name that cannot be a module name.
    """

    stem_name = "net.conv1"

    def __init__(
        self, net: ResNet, num_classes: Mapping[str, int], dropout: float = 0.5, arch: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.net = net
        self.num_classes = _checked_heads(num_classes)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict({name: _head(net.feature_dim, k) for name, k in self.num_classes.items()})
        self._arch = dict(arch or {})
        self._shifts = [module for module in net.modules() if isinstance(module, TemporalShift)]

    @property
    def in_channels(self) -> int:
        """C, read from the stem, so that it stays true when the stem is replaced."""
        return int(self.get_submodule(self.stem_name).in_channels)  # type: ignore[arg-type]

    @property
    def arch(self) -> dict[str, Any]:
        """Plain values from which `rebuild` makes the same network with fresh weights."""
        return {**self._arch, "in_channels": self.in_channels, "num_classes": dict(self.num_classes)}

    def forward(self, clip: Tensor) -> PeerOutput:
        """Normalised clip [B, T, C, H, W] -> PeerOutput; any T, also another one than in training.

        Raises:
            ValueError: not five dimensions, or another number of channels than the stem's.
        """
        if clip.ndim != 5 or clip.shape[2] != self.in_channels:
            raise ValueError(f"clip {tuple(clip.shape)} is not [B, T, {self.in_channels}, H, W]: check its modality")
        batch, frames = clip.shape[:2]
        set_segments(self._shifts, frames)
        feature_map = self.net(clip.flatten(0, 1))
        pooled = self.pool(feature_map).flatten(1)
        dropped = self.dropout(pooled)
        logits = {name: head(dropped).unflatten(0, (batch, frames)).mean(1) for name, head in self.heads.items()}
        features = {
            "pooled": pooled.unflatten(0, (batch, frames)).mean(1),
            "map": feature_map.unflatten(0, (batch, frames)),
        }
        return PeerOutput(logits, features)


def _checked_heads(num_classes: Mapping[str, int]) -> dict[str, int]:
    if not num_classes:
        raise ValueError("num_classes is empty: give one entry per head, for example {'label': 174}")
    for name, classes in num_classes.items():
        if not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise ValueError(f"head {name!r} cannot name a module: use a plain word such as 'label' or 'verb'")
        if classes < 1:
            raise ValueError(f"head {name!r} has {classes} classes: give 1 or more")
    return {name: int(classes) for name, classes in num_classes.items()}


def _head(features: int, classes: int) -> nn.Linear:
    head = nn.Linear(features, classes)
    nn.init.normal_(head.weight, 0.0, 0.001)
    nn.init.zeros_(head.bias)
    return head


def tsm_resnet(
    depth: int | str = 50,
    shift: bool = True,
    shift_div: int = 8,
    shift_place: str = "blockres",
    dropout: float = 0.5,
    in_channels: int = 3,
    num_classes: Mapping[str, int] = MappingProxyType({"label": 174}),
    width: int | None = None,
) -> Recognizer:
    """Build a TSM network (`shift=True`) or a TSN one (`shift=False`) on a ResNet, randomly initialised.

    The trunk is born with three input channels and its stem is then averaged to `in_channels`, as the original does;
    so one seed gives every modality the same network but for the stem.

    Args:
        depth: 18, 34, 50, 101, 152 or 'tiny'.
        shift_div: the share of channels shifted each way is 1 / shift_div.
        shift_place: `blockres` or `block`.
        num_classes: {head: K}.
        width: channels of the first stage; None is the usual one (64, tiny 16).

    Raises:
        ValueError: an argument is out of range; the message names the choices.
    """
    arch = dict(builder="tsm_resnet", depth=depth, shift=shift, shift_div=shift_div, shift_place=shift_place)
    trunk = resnet(depth, width, STEM_CHANNELS)
    if shift:
        add_temporal_shift(trunk.stages, n_div=shift_div, place=shift_place)
    net = Recognizer(trunk, num_classes, dropout, {**arch, "dropout": dropout, "width": width})
    if in_channels != STEM_CHANNELS:
        adapt_first_conv(net, net.stem_name, in_channels)
    return net


BUILDERS: dict[str, Callable[..., Recognizer]] = {"tsm_resnet": tsm_resnet}


def rebuild(arch: Mapping[str, Any]) -> Recognizer:
    """Make a network with fresh weights from the `arch` of another one, for example from a checkpoint.

    Raises:
        ValueError: the builder is unknown.
    """
    values = dict(arch)
    builder = values.pop("builder", None)
    if builder not in BUILDERS:
        raise ValueError(f"arch names builder {builder!r}: use one of {', '.join(BUILDERS)}")
    return BUILDERS[builder](**values)


def freeze_batch_norm(net: nn.Module, keep_first: bool = True) -> int:
    """Partial BN of TSN: every 2-D batch norm but the first keeps its running statistics and affine values.

    Call it before the optimiser is built (frozen parameters then stay out of it) and again whenever `net.train()` has
    been called, since that puts the layers back to training mode. Lightning does not call `train()` at an epoch's
    start, so the caller does both there. Calling it twice changes nothing.

    Args:
        net: any network; its batch norms are counted in registration order.
        keep_first: leave the first one alone: its statistics follow the new input modality.

    Returns: how many layers are frozen.
    """
    layers = [module for module in net.modules() if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm))]
    frozen = layers[1:] if keep_first else layers
    for layer in frozen:
        layer.eval()
        layer.requires_grad_(False)
    return len(frozen)
