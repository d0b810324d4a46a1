"""Non-local block: every position of a clip looks at all others.

Legend: B clips, C channels, T frames, H W height and width, P = T*H*W positions, Q positions after pooling.
Source: Wang et al., "Non-local Neural Networks", CVPR 2018.

Blocks live apart from the trunk's stages, as `nonlocals.<stage>_<block>` after which they stand (`layer2_1`), so that
the names of a network with them are those of the plain one and more.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

RESNET_PLACES: dict[int | str, dict[str, tuple[int, ...]]] = {
    50: {"layer2": (1, 3), "layer3": (1, 3, 5)},
    "tiny": {"layer2": (0,)},
}
"""Blocks after which a network of some depth has a non-local block (0-based)."""


class NonLocal(nn.Module):
    """x + norm(out(attention(theta(x), phi(x)) g(x))), the identity at the start since the norm's gamma is zero.

    Args:
        channels: C; the inner width is C / 2.
        pool: keys and values are max-pooled by 2 in space.
        attention: `softmax` of the dot products over sqrt(C / 2), or `dot_product` divided by Q.
        scale: the square root above; the original and the 2-D networks of TSM go without.
        pool_outputs: pool what phi and g return instead of what they see, as in the networks of TSM; max-pooling is not
            linear, so the two differ.

    Raises:
        ValueError: unknown attention.
    """

    def __init__(
        self,
        channels: int,
        pool: bool = True,
        attention: str = "softmax",
        scale: bool = True,
        pool_outputs: bool = False,
    ) -> None:
        super().__init__()
        if attention not in ("softmax", "dot_product"):
            raise ValueError(f"attention={attention!r} is unknown: use softmax or dot_product")
        inner = max(1, channels // 2)
        self.theta, self.phi, self.g = (nn.Conv3d(channels, inner, 1) for _ in range(3))
        self.pool = nn.MaxPool3d((1, 2, 2)) if pool else nn.Identity()
        self.out = nn.Conv3d(inner, channels, 1)
        self.norm = nn.BatchNorm3d(channels)
        self.attention = attention
        self.pool_outputs = pool_outputs
        self.factor = inner**-0.5 if scale and attention == "softmax" else 1.0
        for conv in (self.theta, self.phi, self.g, self.out):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] -> the same shape."""
        if self.pool_outputs:
            key, value = self.pool(self.phi(x)).flatten(2), self.pool(self.g(x)).flatten(2)
        else:
            pooled = self.pool(x)
            key, value = self.phi(pooled).flatten(2), self.g(pooled).flatten(2)
        query = self.theta(x).flatten(2)
        affinity = query.transpose(1, 2) @ key * self.factor  # [B, P, Q]
        weights = affinity.softmax(-1) if self.attention == "softmax" else affinity / affinity.shape[-1]
        y = value @ weights.transpose(1, 2)  # [B, C / 2, P]
        return x + self.norm(self.out(y.unflatten(2, x.shape[2:])))


def add_nonlocals(
    widths: Mapping[str, int], blocks: Mapping[str, int], places: Mapping[str, tuple[int, ...]], attention: str
) -> nn.ModuleDict:
    """The non-local blocks of a trunk.

    Args:
        widths: C after each stage; blocks: number of blocks of each stage.
        places: {stage: blocks after which one stands}.

    Raises:
        ValueError: a stage or a block that the trunk does not have.
    """
    made = nn.ModuleDict()
    for stage, indices in places.items():
        for index in indices:
            if index >= blocks.get(stage, 0):
                raise ValueError(f"no block {index} in {stage} for a non-local block: there are {dict(blocks)} blocks")
            made[f"{stage}_{index}"] = NonLocal(widths[stage], attention=attention)
    return made


def after_block(nonlocals: nn.ModuleDict, stage: str, index: int, x: Tensor) -> Tensor:
    """x [B, C, T, H, W] through the block that stands after `stage`.`index`, if there is one."""
    name = f"{stage}_{index}"
    return torch.as_tensor(nonlocals[name](x)) if name in nonlocals else x
