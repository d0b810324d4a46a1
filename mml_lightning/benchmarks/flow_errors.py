"""What storing flow as images costs in accuracy: errors of the codings that packs may have.

Legend: P pairs, H height, W width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from mml_lightning.benchmarks.data_files import BOUND, FLOW, synthetic_frames
from mml_lightning.data.flow.cache import dequantise, quantise
from mml_lightning.data.flow.engines import make_engine
from mml_lightning.data.packs.encode import Coding, encode_item, reduced
from mml_lightning.data.video.decode import DecodeError, open_video
from mml_lightning.transforms import Crop, apply_views
from mml_lightning.utils.errors import UserError

PAIRS = 23
ENGINES = ("dis-medium", "tvl1-fast")
SYNTHETIC = 2  # videos, where none is given
CODINGS = {
    **{f"full size, quality {q}": Coding(flow_short_side=0, flow_quality=q) for q in (95, 90, 80)},
    **{f"short side 128, quality {q}": Coding(flow_short_side=128, flow_quality=q) for q in (95, 90, 85, 80)},
    "short side 128, PNG": Coding(flow_short_side=128, flow_quality="png"),
}


@dataclass(frozen=True)
class Errors:
    """Of one engine, in pixels: mean motion, mean end-point error of rounding to 8 bits, and what each of
    :data:`CODINGS` adds to it; bytes of a pair with each."""

    engine: str
    motion: float
    rounding: float
    added: dict[str, float]
    bytes: dict[str, float]


def compare(videos: Sequence[Path], advance: Callable[[str], object] = lambda what: None) -> list[Errors]:
    """Errors on the first :data:`PAIRS` pairs of each video, all videos alike; of synthetic ones if none is given.

    Raises:
        UserError: a video can't be read or has fewer than two frames.
    """
    clips = [_frames(path) for path in videos] or [synthetic_frames(PAIRS + 1, seed) for seed in range(SYNTHETIC)]
    found = []
    for name in ENGINES:
        algorithm, _, preset = name.partition("-")
        fields_of = make_engine(algorithm, preset).fields
        assert fields_of is not None
        motions, roundings, errors, sizes = zip(
            *(_errors(np.stack(list(fields_of(one)))) for one in clips), strict=True
        )
        rounding = float(np.mean(roundings))
        added = {coding: value - rounding for coding, value in _means(errors).items()}
        found.append(Errors(name, float(np.mean(motions)), rounding, added, _means(sizes)))
        advance(name)
    return found


def _means(each: Sequence[dict[str, float]]) -> dict[str, float]:
    return {coding: float(np.mean([one[coding] for one in each])) for coding in CODINGS}


def _frames(path: Path) -> list[np.ndarray]:
    try:
        with open_video(path, "pyav") as video:
            frames = list(itertools.islice(video.stream(), PAIRS + 1))
    except DecodeError as error:
        raise UserError(f"--errors: {error}") from None
    if len(frames) < 2:
        raise UserError(f"--errors: {path} has fewer than two frames; name another video")
    return frames


def _errors(fields: np.ndarray) -> tuple[float, float, dict[str, float], dict[str, float]]:
    """Motion, error of rounding, and for each coding error and bytes of a pair, of fields float32 [P, H, W, 2]."""
    stored = np.stack([quantise(field, BOUND) for field in fields])
    errors, sizes = {}, {}
    for name, coding in CODINGS.items():
        size = reduced((fields.shape[2], fields.shape[1]), coding.flow_short_side)
        files = [encode_item(FLOW, pair, size, coding) for pair in stored]
        errors[name] = _error(_restored(files, (fields.shape[2], fields.shape[1])), fields)
        sizes[name] = float(np.mean([len(file) for file in files]))
    return float(np.linalg.norm(fields, axis=-1).mean()), _error(stored, fields), errors, sizes


def _restored(files: Sequence[bytes], size: tuple[int, int]) -> np.ndarray:
    """uint8 [P, H, W, 2] of `size` (W, H), brought there as crops are."""
    read = (cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_GRAYSCALE) for file in files)
    images = np.stack([image for image in read if image is not None])  # cv2's stubs allow None
    planes = images.reshape(len(images), 2, -1, images.shape[-1])  # x above y
    whole = Crop(0, 0, planes.shape[3], planes.shape[2], (planes.shape[3], planes.shape[2]), size)
    return apply_views(torch.from_numpy(planes), [whole])[0].permute(0, 2, 3, 1).numpy()


def _error(stored: np.ndarray, fields: np.ndarray) -> float:
    return float(np.linalg.norm(dequantise(stored, BOUND) - fields, axis=-1).mean())
