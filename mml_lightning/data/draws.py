"""The temporal and geometry draws of a split, as small picklable objects (spawned workers receive them).

Legend: V clips of a video, T segments.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mml_lightning import sampling
from mml_lightning.transforms import Crop, TestGeometry, TrainGeometry

Starts = dict[str, np.ndarray]


class _Draw(ABC):
    """A temporal draw; wrong settings raise ValueError when it is made, not in a worker at its first video."""

    def __post_init__(self) -> None:
        self({"rgb": 10_000}, {"rgb": 1}, np.random.default_rng(0))  # long enough for every policy

    @abstractmethod
    def __call__(self, counts: Mapping[str, int], windows: Mapping[str, int], rng: np.random.Generator) -> Starts:
        """{modality: [V, T]}"""


@dataclass(frozen=True)
class TrainDraw(_Draw):
    """Random starts, one clip: see :func:`mml_lightning.sampling.train_starts`."""

    num_segments: int
    mode: sampling.Mode
    dense_length: int
    policy: sampling.Policy

    def __call__(self, counts: Mapping[str, int], windows: Mapping[str, int], rng: np.random.Generator) -> Starts:
        """{modality: [1, T]}"""
        starts = sampling.train_starts(
            counts,
            windows,
            num_segments=self.num_segments,
            mode=self.mode,
            dense_length=self.dense_length,
            policy=self.policy,
            rng=rng,
        )
        return {name: value[None] for name, value in starts.items()}


@dataclass(frozen=True)
class ValDraw(_Draw):
    """The single clip of validation during training: see :func:`mml_lightning.sampling.val_starts`."""

    num_segments: int
    mode: sampling.Mode
    dense_length: int
    policy: sampling.Policy

    def __call__(self, counts: Mapping[str, int], windows: Mapping[str, int], rng: np.random.Generator) -> Starts:
        """{modality: [1, T]}"""
        return sampling.val_starts(
            counts,
            windows,
            num_segments=self.num_segments,
            mode="dense" if self.mode == "dense" else "uniform",
            dense_length=self.dense_length,
            policy=self.policy,
            rng=rng,
        )


@dataclass(frozen=True)
class ViewsDraw(_Draw):
    """The clips of a test protocol: see :func:`mml_lightning.sampling.test_starts`."""

    num_segments: int
    uniform: int
    dense: int
    dense_length: int
    policy: sampling.Policy

    def __call__(self, counts: Mapping[str, int], windows: Mapping[str, int], rng: np.random.Generator) -> Starts:
        """{modality: [V, T]}"""
        return sampling.test_starts(
            counts,
            windows,
            num_segments=self.num_segments,
            uniform=self.uniform,
            dense=self.dense,
            dense_length=self.dense_length,
            policy=self.policy,
        )


@dataclass(frozen=True)
class RandomCrop:
    """One random crop per sample."""

    geometry: TrainGeometry

    def __call__(self, width: int, height: int, rng: random.Random) -> list[Crop]:
        return [self.geometry.draw(width, height, rng)]


@dataclass(frozen=True)
class FixedCrops:
    """The crops of a test protocol."""

    geometry: TestGeometry

    def __call__(self, width: int, height: int, rng: random.Random) -> list[Crop]:
        return self.geometry.views(width, height)
