"""What every network of a run has in common: clip in, logits per head and named features out.

Legend: B batch, T frames, C channels, H W height and width, D feature width, T' h w size of the last map, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mml_lightning.backbones import own_draws

STEM_CHANNELS = 3  # every trunk is born with an RGB stem, which then follows the modality


class PeerOutput(NamedTuple):
    """What every peer returns.

    Attributes:
        logits: {head: [B, K]}, before any activation.
        features: `pooled` [B, D], mean over time and space before dropout; `map` [B, T', D, h, w], last map before
            pooling (T' = T for a 2-D trunk).
    """

    logits: dict[str, Tensor]
    features: dict[str, Tensor]


class HeadInput(nn.Dropout):
    """Dropout before the heads; with `stop_gradient` the heads learn alone and the trunk does not hear of them (MERS,
    Crasto et al., CVPR 2019)."""

    stop_gradient = False

    def forward(self, x: Tensor) -> Tensor:
        return own_draws.dropout(x.detach() if self.stop_gradient else x, self.p, self.training)


class Peer(nn.Module):
    """Base of the recognisers: a trunk `net`, a linear layer per label set in `heads`, and how to build it again.

    Args:
        net: trunk with attribute `feature_dim`; its first convolution is `stem_name`.
        num_classes: {head: K}.
        dropout: probability before the heads, 0 for none.
        head_std: standard deviation of the initial head weights.
        arch: plain values, enough for `registry.rebuild` together with `in_channels` and `num_classes`. A network of
            another package needs none: it is called again with the options of its config (:meth:`built_by`).

    Raises:
        ValueError: no head, or a head name that cannot be a module name.
    """

    stem_name = "net.conv1"
    num_classes: dict[str, int]

    def __init__(
        self,
        net: nn.Module,
        num_classes: Mapping[str, int],
        dropout: float = 0.0,
        head_std: float = 0.01,
        arch: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.num_classes = checked_heads(num_classes)
        self.dropout = HeadInput(dropout)
        width = int(net.feature_dim)  # type: ignore[arg-type]
        self.heads = nn.ModuleDict({name: _head(width, k, head_std) for name, k in self.num_classes.items()})
        self._arch = dict(arch or {})
        self.projections = nn.ModuleDict()  # of lessons, for as long as they are taught

    @property
    def in_channels(self) -> int:
        """C, read from the stem, so that it stays true when the stem is replaced."""
        return int(self.get_submodule(self.stem_name).in_channels)  # type: ignore[arg-type]

    @property
    def arch(self) -> dict[str, Any]:
        """Plain values from which `rebuild` makes the same network with fresh weights."""
        return {**self._arch, "in_channels": self.in_channels, "num_classes": dict(self.num_classes)}

    def built_by(self, builder: str, options: Mapping[str, Any]) -> None:
        """Make `arch` the importable name of a function and the options that it was called with."""
        self._arch = {"builder": builder, **options}

    def stop_gradient_at_heads(self, stop: bool = True) -> None:
        """Let supervised terms train the heads alone, see `HeadInput`."""
        self.dropout.stop_gradient = stop

    def classify(self, features: Tensor) -> dict[str, Tensor]:
        """Features [.., D] -> logits {head: [.., K]}, in float32 under autocast too.

        Scores of half precision tie, and ties change average precision.
        """
        device = features.device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return {name: head(features) for name, head in self.heads.items()}
        with torch.autocast(device, enabled=False):
            return {name: head(features.float()) for name, head in self.heads.items()}

    def project(self, output: PeerOutput) -> PeerOutput:
        """An output with the features that lessons have learned maps for."""
        if not self.projections:
            return output
        learned = {name: projection(output.features) for name, projection in self.projections.items()}
        return PeerOutput(output.logits, {**output.features, **learned})

    def check_clip(self, clip: Tensor) -> None:
        """Raises:
        ValueError: not five dimensions, or another number of channels than the stem's.
        """
        if clip.ndim != 5 or clip.shape[2] != self.in_channels:
            raise ValueError(f"clip {tuple(clip.shape)} is not [B, T, {self.in_channels}, H, W]: check its modality")


def checked_heads(num_classes: Mapping[str, int]) -> dict[str, int]:
    """{head: K} as plain ints.

    Raises:
        ValueError: no head, a head name that cannot be a module name, or a head without classes.
    """
    if not num_classes:
        raise ValueError("num_classes is empty: give one entry per head, for example {'label': 174}")
    for name, classes in num_classes.items():
        if not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise ValueError(f"head {name!r} cannot name a module: use a plain word such as 'label' or 'verb'")
        if classes < 1:
            raise ValueError(f"head {name!r} has {classes} classes: give 1 or more")
    return {name: int(classes) for name, classes in num_classes.items()}


def _head(features: int, classes: int, std: float) -> nn.Linear:
    head = nn.Linear(features, classes)
    nn.init.normal_(head.weight, 0.0, std)
    nn.init.zeros_(head.bias)
    return head
