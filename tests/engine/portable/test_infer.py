"""`infer.py` sees what the network sees: the same frames, the same pixels, shown the same way, with numpy alone."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_lightning import sampling, transforms
from mml_lightning.data.video.decode import open_video
from mml_lightning.engine.portable import package
from mml_lightning.transforms import Crop, apply
from tests.data.videos import moving, texture, with_matrix, write_video


def program(folder: Path, **told: Any) -> ModuleType:
    """`infer.py` of a network that gives nothing."""
    usual = {"frames": 4, "window": 1, "short_side": 36, "crop": 32, "antialias": True, "clips": [["uniform", 1, 0]]}
    (folder / "preprocess.json").write_text(json.dumps(usual | told))
    (folder / "classes.json").write_text('{"label": ["a", "b"]}')
    text = package.infer("onnx").replace(package.LOAD["onnx"], "network = None\n")
    (folder / "infer.py").write_text(text)
    return package._module(folder / "infer.py")


@pytest.fixture(scope="module")
def scale(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = program(tmp_path_factory.mktemp("infer"))

    def run(pixels: np.ndarray, width: int, height: int, antialias: bool) -> np.ndarray:
        made.P["antialias"] = antialias
        wide = made.scale(pixels, width)
        scaled: np.ndarray = made.scale(wide.swapaxes(1, 2), height).swapaxes(1, 2)
        return scaled

    return run


@given(
    size=st.tuples(st.integers(2, 90), st.integers(2, 90)),
    wanted=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    antialias=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=150)
def test_scaling_is_that_of_the_transforms_to_the_bit(
    scale: Any, size: tuple[int, int], wanted: tuple[int, int], antialias: bool, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (2, size[1], size[0], 3), dtype=np.uint8)
    crop = Crop(0, 0, *size, reference=size, output=wanted, antialias=antialias)
    expected = apply(torch.from_numpy(pixels).permute(0, 3, 1, 2), crop).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(scale(pixels, *wanted, antialias), expected)


@pytest.mark.parametrize("size", [(1920, 1080), (340, 256), (176, 144), (320, 568)])
@pytest.mark.parametrize("antialias", [True, False])
def test_frames_of_usual_sizes(scale: Any, size: tuple[int, int], antialias: bool) -> None:
    pixels = texture(*size)[None]
    geometry = transforms.TestGeometry(224, 256, 1, antialias=antialias)
    (crop,) = geometry.views(*size)
    expected = apply(torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2), crop).permute(0, 2, 3, 1).numpy()
    width, height = crop.resize or size
    x, y = round((width - 224) / 2), round((height - 224) / 2)
    found = scale(pixels, width, height, antialias)[:, y : y + 224, x : x + 224]
    assert np.array_equal(found, expected)


@given(
    count=st.integers(1, 300),
    frames=st.integers(1, 16),
    window=st.integers(1, 6),
    views=st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)).filter(any),
    stride=st.integers(1, 16),
)
@settings(max_examples=300)
def test_clips_are_those_of_the_sampling(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    frames: int,
    window: int,
    views: tuple[int, int, int],
    stride: int,
) -> None:
    made = _module(tmp_path_factory)
    uniform, dense, strided = views
    kinds = [("dense", dense, max(1, 32 // frames)), ("uniform", uniform, 0), ("strided", strided, stride)]
    made.P["clips"] = [[kind, clips, step] for kind, clips, step in kinds if clips]
    made.T, made.WINDOW = frames, window
    expected = sampling.test_starts(
        {"x": count}, {"x": window}, num_segments=frames, uniform=uniform, dense=dense, strided=strided, stride=stride
    )["x"]
    assert np.array_equal(made.starts(count), expected)


_made: list[ModuleType] = []


def _module(factory: pytest.TempPathFactory) -> ModuleType:
    if not _made:
        _made.append(program(factory.mktemp("starts")))
    return _made[0]


QUARTERS = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]
MIRRORED = [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]


@pytest.mark.parametrize("a, b, c, d", QUARTERS + MIRRORED)
def test_pictures_are_turned_and_mirrored_as_they_are_shown(tmp_path: Path, a: int, b: int, c: int, d: int) -> None:
    plain = write_video(tmp_path / "plain.mp4", moving(12, 2, 1))
    one = 1 << 16
    matrix = [a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30]
    video = with_matrix(plain, tmp_path / "turned.mp4", matrix)
    made = program(tmp_path, short_side=80, crop=80)
    with open_video(video, "pyav") as reader:
        frames = reader.frames(sampling.test_starts({"x": 12}, {"x": 1}, num_segments=4)["x"][0].tolist())
    (crop,) = transforms.TestGeometry(80, 80, 1).views(*frames.shape[2:0:-1])
    expected = apply(torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2), crop).numpy()
    assert np.array_equal(made.clips(video)[0], expected)
