"""Tiny folders of images that know themselves, for whoever reads videos as images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np


def write_image(path: Path, pixels: np.ndarray) -> Path:
    """RGB uint8 [H, W, 3] or grey [H, W]; PNG keeps them exactly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    return path


def write_frames(folder: Path, template: str, frames: Iterable[np.ndarray], first: int = 1) -> Path:
    """RGB frames uint8 [H, W, 3]."""
    for number, pixels in enumerate(frames, first):
        write_image(folder / template.format(number), pixels)
    return folder


def write_flow(folder: Path, template: str, pairs: np.ndarray) -> Path:
    """Pairs uint8 [P, H, W, 2] as two grey images each."""
    for number, pair in enumerate(pairs, 1):
        for axis, name in enumerate("xy"):
            write_image(folder / template.format(number, axis=name), pair[..., axis])
    return folder


def noise(count: int, channels: int, width: int = 24, height: int = 20, seed: int = 0) -> np.ndarray:
    """uint8 [count, height, width, channels]."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), dtype=np.uint8)
