"""The temporal and geometry draws of a split, as small picklable objects (spawned workers receive them).

Legend: V clips of a video, T segments.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mml_lightning import sampling
from mml_lightning.transforms import Crop, JitterGeometry, TestGeometry, TrainGeometry

FrameIndices = dict[str, np.ndarray]


class _Draw(ABC):
    """A temporal draw; wrong settings raise ValueError when it is made, not in a worker at its first video."""

    def __post_init__(self) -> None:
        self({"rgb": 10_000}, {"rgb": 1}, np.random.default_rng(0))  # long enough for every policy

    @abstractmethod
    def __call__(self, counts: Mapping[str, int], windows: Mapping[str, int], rng: np.random.Generator) -> FrameIndices:
        """{modality: [V, T]}"""


@dataclass(frozen=True)
class TrainTemporalSampler(_Draw):
    """Random starts, one clip: see :func:`mml_lightning.sampling.train_starts`; or `clips` segments."""

    num_segments: int
    mode: sampling.Mode
    dense_length: int
    policy: sampling.Policy
    stride: int = 8
    clips: int = 1

    def __call__(self, counts: Mapping[str, int], windows: Mapping[str, int], rng: np.random.Generator) -> FrameIndices:
        """{modality: [clips, T]}"""
        if self.mode == "segments":
            own = {"num_segments": self.num_segments, "clips": self.clips, "stride": self.stride}
            return sampling.train_segments(counts, windows, **own, policy=self.policy, rng=rng)
        starts = sampling.train_starts(
            counts,
            windows,
            num_segments=self.num_segments,
            mode=self.mode,
            dense_length=self.dense_length,
            stride=self.stride,
            policy=self.policy,
            rng=rng,
        )
        return {name: value[None] for name, value in starts.items()}


@dataclass(frozen=True)
class ValTemporalSampler(_Draw):
    """The single clip of validation during training: see :func:`mml_lightning.sampling.val_starts`; or `clips`
    segments, as in testing."""

    num_segments: int
    mode: sampling.Mode
    dense_length: int
    policy: sampling.Policy
    stride: int = 8
    clips: int = 1

    def __call__(self, counts: Mapping[str, int], windows: Mapping[str, int], rng: np.random.Generator) -> FrameIndices:
        """{modality: [clips, T]}"""
        if self.mode == "segments":
            own = {"num_segments": self.num_segments, "clips": self.clips, "stride": self.stride}
            return sampling.test_segments(counts, windows, **own, policy=self.policy)
        return sampling.val_starts(
            counts,
            windows,
            num_segments=self.num_segments,
            mode=self.mode,
            dense_length=self.dense_length,
            stride=self.stride,
            policy=self.policy,
            rng=rng,
        )


@dataclass(frozen=True)
class ViewsTemporalSampler(_Draw):
    """The clips of a test protocol: see :func:`mml_lightning.sampling.test_starts`."""

    num_segments: int
    uniform: int
    dense: int
    dense_length: int
    policy: sampling.Policy
    strided: int = 0
    stride: int = 8
    segments: int = 0

    def __call__(self, counts: Mapping[str, int], windows: Mapping[str, int], rng: np.random.Generator) -> FrameIndices:
        """{modality: [V, T]}"""
        if self.segments:
            own = {"num_segments": self.num_segments, "clips": self.segments, "stride": self.stride}
            return sampling.test_segments(counts, windows, **own, policy=self.policy)
        return sampling.test_starts(
            counts,
            windows,
            num_segments=self.num_segments,
            uniform=self.uniform,
            dense=self.dense,
            strided=self.strided,
            dense_length=self.dense_length,
            stride=self.stride,
            policy=self.policy,
        )


class Geometry(Protocol):
    """A random crop of training: :class:`mml_lightning.transforms.TrainGeometry` or ``JitterGeometry``."""

    def draw(self, width: int, height: int, rng: random.Random) -> Crop: ...


@dataclass(frozen=True)
class RandomCrop:
    """One random crop per sample."""

    geometry: Geometry

    def __call__(self, width: int, height: int, rng: random.Random) -> list[Crop]:
        return [self.geometry.draw(width, height, rng)]


@dataclass(frozen=True)
class FixedCrops:
    """The crops of a test protocol."""

    geometry: TestGeometry

    def __call__(self, width: int, height: int, rng: random.Random) -> list[Crop]:
        return self.geometry.views(width, height)


TRANSFORMS = ("multiscale", "inverse_uniform", "uniform_jitter")


def training_crop(settings: Mapping[str, Any], modalities: Sequence[str]) -> RandomCrop:
    """The random crop that ``conf/transforms`` asks for.

    Args:
        settings: keys of the group. ``per_modality`` replaces some of them for the modalities it names: only networks
            trained apart can differ, since all modalities of a sample share one draw.
        modalities: trained together; none where nothing is trained.

    Raises:
        ValueError: a setting is unknown or out of range, or the modalities disagree.
    """
    special: Mapping[str, Mapping[str, Any]] = settings["per_modality"] or {}
    for name, changes in special.items():
        if not isinstance(changes, Mapping) or set(changes) - {"scales", "jitter", "flip"}:
            told = sorted(changes) if isinstance(changes, Mapping) else changes
            raise ValueError(f"transforms.per_modality.{name} has {told}: it may set scales, jitter and flip")
    chosen = [{**settings, **special.get(name, {})} for name in modalities] or [dict(settings)]
    if any(other != chosen[0] for other in chosen[1:]):
        raise ValueError(
            f"transforms.per_modality crops {' and '.join(modalities)} differently, but one draw is shared by all that "
            "is trained together: train them separately, or use transforms=multiscale"
        )
    own = chosen[0]
    common = {"output": own["output"], "flip": own["flip"], "policy": own["policy"], "antialias": own["antialias"]}
    if own["mode"] == "multiscale":
        return RandomCrop(TrainGeometry(scales=tuple(own["scales"]), **common))
    if own["mode"] not in TRANSFORMS:
        raise ValueError(f"transforms.mode is {own['mode']!r}: use one of {', '.join(TRANSFORMS)}")
    short_sides = tuple(round(share * own["short_side"]) for share in own["jitter"])
    return RandomCrop(JitterGeometry(short_sides=short_sides, inverse=own["mode"] == "inverse_uniform", **common))
