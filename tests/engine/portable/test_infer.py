"""`infer.py` sees what the network sees: the same frames, the same pixels, shown the same way, with numpy alone."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_lightning import sampling, transforms
from mml_lightning.data.video.decode import open_video
from mml_lightning.engine.portable import preprocess, program
from mml_lightning.transforms import Crop, apply
from tests.data.videos import moving, texture, with_matrix, write_video


def written(folder: Path, source: str = "frames", **told: Any) -> ModuleType:
    """`infer.py` of a network that gives nothing."""
    usual = {"frames": 4, "window": 1, "short_side": 36, "crop": 32, "antialias": True, "clips": preprocess.spread(1)}
    (folder / "preprocess.json").write_text(json.dumps(usual | told))
    (folder / "classes.json").write_text('{"label": ["a", "b"]}')
    text = program.infer("onnx", source).replace(program.LOAD["onnx"], "network = None\n")
    (folder / "infer.py").write_text(text.replace("import onnxruntime", ""))
    return program.load(folder / "infer.py")


@pytest.fixture(scope="module")
def scale(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = written(tmp_path_factory.mktemp("infer"))

    def run(pixels: np.ndarray, width: int, height: int, antialias: bool) -> np.ndarray:
        """[h, w, c] -> [height, width, c]; a picture is cropped to a square, so each side is scaled in full alone."""
        made.P["antialias"] = antialias
        for size in (width, height):
            made.CROP = size
            pixels = made.scaled(pixels, size)
        return pixels

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
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    crop = Crop(0, 0, *size, reference=size, output=wanted, antialias=antialias)
    expected = apply(torch.from_numpy(pixels[None]).permute(0, 3, 1, 2), crop)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(scale(pixels, *wanted, antialias), expected)


@pytest.mark.parametrize("size", [(1920, 1080), (340, 256), (176, 144), (320, 568)])
@pytest.mark.parametrize("antialias", [True, False])
def test_frames_of_usual_sizes(tmp_path: Path, size: tuple[int, int], antialias: bool) -> None:
    pixels = texture(*size)
    (crop,) = transforms.TestGeometry(224, 256, 1, antialias=antialias).views(*size)
    (expected,) = apply(torch.from_numpy(pixels.copy())[None].permute(0, 3, 1, 2), crop).numpy()
    made = written(tmp_path, short_side=256, crop=224, antialias=antialias)
    assert np.array_equal(made.cropped(pixels), expected)


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
    runs = preprocess.run(dense, max(1, 32 // frames), frames), preprocess.run(strided, stride, frames)
    made.P["clips"] = [*runs[0], *preprocess.spread(uniform), *runs[1]]
    made.T, made.WINDOW = frames, window
    expected = sampling.test_starts(
        {"x": count}, {"x": window}, num_segments=frames, uniform=uniform, dense=dense, strided=strided, stride=stride
    )["x"]
    shown = np.minimum(expected[..., None] + np.arange(window), count - 1)
    assert np.array_equal(made.windows(count), shown)


_made: list[ModuleType] = []


def _module(factory: pytest.TempPathFactory) -> ModuleType:
    if not _made:
        _made.append(written(factory.mktemp("starts")))
    return _made[0]


QUARTERS = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]
MIRRORED = [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]


@pytest.mark.parametrize("a, b, c, d", QUARTERS + MIRRORED)
def test_pictures_are_turned_and_mirrored_as_they_are_shown(tmp_path: Path, a: int, b: int, c: int, d: int) -> None:
    plain = write_video(tmp_path / "plain.mp4", moving(12, 2, 1))
    one = 1 << 16
    matrix = [a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30]
    video = with_matrix(plain, tmp_path / "turned.mp4", matrix)
    made = written(tmp_path, short_side=80, crop=80)
    with open_video(video, "pyav") as reader:
        frames = reader.frames(sampling.test_starts({"x": 12}, {"x": 1}, num_segments=4)["x"][0].tolist())
    (crop,) = transforms.TestGeometry(80, 80, 1).views(*frames.shape[2:0:-1])
    expected = apply(torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2), crop).numpy()
    assert np.array_equal(made.clips(video)[0], expected)


def test_of_several_streams_the_best_is_read(tmp_path: Path) -> None:
    """A small picture that comes first, as a preview, is not the video where the file says that another one is."""
    path = tmp_path / "two.mp4"
    with av.open(str(path), "w") as file:
        streams = [file.add_stream("mpeg4", rate=10) for _ in range(2)]
        for stream, size in zip(streams, (32, 96), strict=True):
            stream.width = stream.height = size
            stream.pix_fmt = "yuv420p"
        streams[0].disposition, streams[1].disposition = Disposition(0), Disposition.default
        for number, shade in enumerate((40, 90, 140, 190)):
            for stream in streams[1:] if number else streams:
                noise = np.random.default_rng(number).integers(0, 60, (stream.height, stream.height, 3))
                picture = (noise + shade).astype(np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            file.mux(stream.encode())
    made = written(tmp_path, short_side=36, crop=32)
    with open_video(path, "pyav") as reader:
        frames = reader.frames([0, 1, 2, 3])
    assert frames.shape == (4, 96, 96, 3)
    assert np.array_equal(made.clips(path)[0], np.stack([made.cropped(frame) for frame in frames]))


def test_flow_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    made = written(tmp_path, "flow")
    files = {"x.mp4": b"", "empty.npy": b"", "text.npy": b"no array", "zip.npy": b"PK"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "floats.npy", np.zeros((3, 8, 8, 2)))
    np.save(tmp_path / "frames.npy", np.zeros((3, 8, 8, 3), np.uint8))
    np.save(tmp_path / "none.npy", np.zeros((0, 8, 8, 2), np.uint8))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for name in (*files, "floats.npy", "frames.npy", "none.npy", "objects.npy", "absent.npy"):
        with pytest.raises((ValueError, OSError, EOFError)):
            made.clips(tmp_path / name)
    np.save(tmp_path / "flow.npy", np.full((9, 40, 50, 2), 128, np.uint8))
    assert made.clips(tmp_path / "flow.npy").shape == (1, 4, 2, 32, 32)


@pytest.mark.parametrize("source", ["frames", "flow"])
@pytest.mark.parametrize("form", program.NEEDS)
def test_the_program_is_short_and_says_what_it_needs(form: str, source: str) -> None:
    text = program.infer(form, source)
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) <= 72 and max(map(len, lines)) <= 120 and "@@" not in text
    imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    usual = {"json", "sys", "pathlib", "numpy", *(["av"] if source == "frames" else [])}
    assert imported == usual | set(program.NEEDS[form])
