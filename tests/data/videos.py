"""Tiny encoded videos that know themselves: the grey level of a frame is its index, whatever the crop."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mml_lightning.data.records.records import Record

WIDTH, HEIGHT, FPS = 64, 48, 12
BASE, STEP = 20, 6  # grey level of frame 0, and from frame to frame: coding noise stays far below half of it

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("MML_SHARED_DATA", ROOT.parent / "shared" / "data"))
CODECS: dict[str, tuple[str, dict[str, str]]] = {
    "webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"}),
    "mp4": ("libx264", {"preset": "veryfast", "crf": "16", "bf": "2", "g": "8"}),
}


def real(path: str) -> Path:
    """A file below the shared data; the test is skipped where it is absent."""
    if not (REAL / path).exists():
        pytest.skip(f"{path} is not below {REAL.name}; set MML_SHARED_DATA")
    return REAL / path


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int = FPS) -> Path:
    """Encode RGB frames uint8 [H, W, 3]; the ending of `path` names the codec."""
    encoder, options = CODECS[path.suffix[1:]]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as output:
        stream: Any = None
        for pixels in frames:
            if stream is None:
                stream = output.add_stream(encoder, rate=Fraction(fps), options=options)
                stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], "yuv420p"
                stream.codec_context.thread_count = 1
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        output.mux(stream.encode(None))
    return path


def counted(count: int, width: int = WIDTH, height: int = HEIGHT) -> list[np.ndarray]:
    """Frames whose grey level is their index."""
    return [np.full((height, width, 3), BASE + STEP * i, dtype=np.uint8) for i in range(count)]


def numbers(pixels: Any, axis: tuple[int, ...]) -> np.ndarray:
    """Frame index per item of an array of counted frames, averaged over `axis`."""
    levels = np.asarray(pixels, dtype=np.float64).mean(axis=axis)
    found = np.rint((levels - BASE) / STEP).astype(int)
    assert np.abs(levels - BASE - STEP * found).max() < STEP / 3, "not a counted video"
    return found


def texture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Smooth random pattern uint8 [height, width, 3] with structure everywhere, periodic."""
    y, x = np.mgrid[0:height, 0:width]
    rng = np.random.default_rng(seed)
    grey = np.zeros((height, width))
    for _ in range(24):
        fx, fy = rng.integers(-6, 7, size=2)
        grey += np.cos(2 * np.pi * (fx * x / width + fy * y / height) + rng.uniform(0, 6.3))
    grey = (grey - grey.min()) / (grey.max() - grey.min())
    return np.repeat((30 + 195 * grey)[..., None], 3, axis=2).astype(np.uint8)


def moving(count: int, dx: int, dy: int, width: int = 96, height: int = 80) -> list[np.ndarray]:
    """A pattern that moves by (dx, dy) pixels per frame, right and down positive."""
    pattern = texture(width, height)
    return [np.roll(pattern, (dy * i, dx * i), axis=(0, 1)) for i in range(count)]


def record(path: Path, label: int = 0, **fields: Any) -> Record:
    return Record(fields.pop("id", path.stem), {"frames": path}, {"label": label}, **fields)


def turned(source: Path, path: Path, quarter_turns_clockwise: int) -> Path:
    """Copy an mp4 with a rotation flag."""
    cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarter_turns_clockwise % 4]
    return with_matrix(source, path, (cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30))


def with_matrix(source: Path, path: Path, matrix: Sequence[int]) -> Path:
    """Copy an mp4 with another display matrix: that of its track header says how to show it."""
    content = bytearray(source.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # version, times, ids and volumes of a version 0 header
    content[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(content)
    return path


def damaged(kind: str, good: Path, path: Path) -> Path:
    """A file that is no video, of one of the kinds that happen."""
    makers: dict[str, Callable[[bytes], bytes]] = {
        "empty": lambda content: b"",
        "zeros": lambda content: bytes(len(content)),
        "truncated": lambda content: content[: len(content) // 3],  # an mp4 ends with its index
        "text": lambda content: b"<!DOCTYPE html><html>404 Not Found</html>\n" * 40,
    }
    path.write_bytes(makers[kind](good.read_bytes()))
    return path


def write_sound(path: Path, video: bool = False) -> Path:
    """A second of a rising tone, alone or behind 12 frames that begin 0.25 s after it."""
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("aac", rate=16_000, layout="mono")
        pictures: Any = output.add_stream("libx264", rate=FPS) if video else None
        if video:
            pictures.width, pictures.height, pictures.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for number, pixels in enumerate(counted(12)):
                picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                picture.pts, picture.time_base = number + FPS // 4, Fraction(1, FPS)
                output.mux(pictures.encode(picture))
            output.mux(pictures.encode(None))
        time = np.arange(16_000) / 16_000
        tone = np.sin(2 * np.pi * (200 + 300 * time) * time).astype(np.float32)[None] / 4
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path
