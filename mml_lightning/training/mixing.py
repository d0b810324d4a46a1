"""Mixup and CutMix of training batches: one draw of partners, share and box for all modalities and peers.

Sample i gets its partner i - s (mod B): s, the share of the sample itself and the box are drawn by a key on the host,
so nothing is copied and no device is waited for. Clips are mixed as the networks see them, prepared. The loss of a
mixed sample is that of both labels by their shares, in every term.
Sources: Zhang et al., "mixup", 2018; Yun et al., "CutMix", 2019. Legend: B batch, T frames, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mml_lightning.objectives.graph import Part
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.seeds import keyed_seed


@dataclass(frozen=True)
class Mix:
    """What happens to a batch.

    Args:
        shift: to the partner, in samples.
        share: of the sample itself in clips and labels.
        box: rows and columns from, to as shares of the picture, where the partner's picture stands; None: mixup.
    """

    shift: int
    share: float
    box: tuple[float, float, float, float] | None = None

    def clips(self, clips: Tensor, rows: Tensor | None = None, views: int = 1) -> Tensor:
        """Prepared clips [B * V, ...], of CutMix [B * V, T, C, H, W], mixed: each segment with the partner's.

        Args:
            rows: the samples of the batch that are asked for, [n]; all by default.
            views: V segments of each.

        Raises:
            UserError: CutMix of something else than pictures.
        """
        partner = clips.roll(self.shift * views, 0)
        if rows is not None and views > 1:
            rows = (rows[:, None] * views + torch.arange(views, device=rows.device)).flatten()
        if rows is not None:
            clips, partner = clips[rows], partner[rows]
        if self.box is None:
            return self.share * clips + (1 - self.share) * partner
        if clips.ndim != 5:
            raise UserError("mix.cutmix cuts pictures, and a modality of this run has none: use mix.mixup")
        height, width = clips.shape[-2:]
        top, bottom = (round(height * edge) for edge in self.box[:2])
        left, right = (round(width * edge) for edge in self.box[2:])
        mixed = clips.clone()
        mixed[..., top:bottom, left:right] = partner[..., top:bottom, left:right]
        return mixed

    def partners(self, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The labels of the partners, {head: [B] or [B, K]}."""
        return {head: labels.roll(self.shift, 0) for head, labels in target.items()}

    def parts(self, own: Sequence[Part], partners: Sequence[Part]) -> list[Part]:
        """The summands of the loss from those by the labels of the samples and by those of their partners."""
        return [
            one if one is other else one._replace(value=self.share * one.value + (1 - self.share) * other.value)
            for one, other in zip(own, partners, strict=True)
        ]


@dataclass(frozen=True)
class Mixing:
    """The node `mix` of the config.

    Args:
        mixup, cutmix: parameter of the beta distribution that shares are drawn from; None: not. With both each batch
            has one of them, as likely as the other.
        probability: of a batch to be mixed.
        side: of a picture, in pixels, in which boxes are whole.
    """

    mixup: float | None = None
    cutmix: float | None = None
    probability: float = 1.0
    side: int = 224

    @property
    def active(self) -> bool:
        return self.mixup is not None or self.cutmix is not None

    def draw(self, batch: int, *key: object) -> Mix | None:
        """What happens to a batch of `batch` samples, by a key; None: nothing."""
        if not self.active or batch < 2:
            return None
        generator = np.random.default_rng(keyed_seed(*key, "mix", size=8))
        chance, which, shift = generator.random(), generator.random(), int(generator.integers(1, batch))
        if chance >= self.probability:
            return None
        cuts = self.mixup is None or (self.cutmix is not None and which < 0.5)
        alpha = self.cutmix if cuts else self.mixup
        assert alpha is not None
        share = float(generator.beta(alpha, alpha))
        return self._cut(shift, share, generator) if cuts else Mix(shift, share)

    def seen(self, own: Mapping[str, np.ndarray], *key: object) -> Mapping[str, np.ndarray]:
        """Samples of a batch that have a modality when it is mixed, as their partners do, {modality: bool [B]}."""
        mix = self.draw(len(next(iter(own.values()))), *key) if own else None
        return own if mix is None else {name: seen & np.roll(seen, mix.shift) for name, seen in own.items()}

    def _cut(self, shift: int, share: float, generator: np.random.Generator) -> Mix:
        """A box of (1 - share) of the picture around a point in it; what lies outside is cut off, and counts."""
        half = self.side * math.sqrt(1 - share) / 2
        edges = []
        for _ in range(2):
            middle = int(generator.integers(self.side))
            edges += [min(max(round(middle + sign * half), 0), self.side) for sign in (-1, 1)]
        area = (edges[1] - edges[0]) * (edges[3] - edges[2])
        top, bottom, left, right = (edge / self.side for edge in edges)
        return Mix(shift, 1 - area / self.side**2, (top, bottom, left, right))


def larger(mix: Mix | None, target: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The labels with the larger shares, which accuracy is counted by."""
    return target if mix is None or mix.share >= 0.5 else mix.partners(target)
