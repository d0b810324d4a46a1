"""What exact frames cost: 8 sparse frames of a video, by codec, container and distance of key frames.

Legend: H height, W width. Files lie in the page cache, one thread decodes. All ways are measured in turn in each round,
so that whatever else the machine does meets them alike; the median of the rounds counts.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mml_lightning.data.video.decode import DecodeError, by_decord_alone, installed, open_video
from mml_lightning.data.video.index_store import IndexStore
from mml_lightning.data.video.video_index import judge
from mml_lightning.utils.errors import UserError

DRAWN, RATE = 8, 25
WRONG = 3.0  # mean absolute difference in levels of 0..255 above which a frame is another one

Make = tuple[str, str, dict[str, str]]
X264, VP = {"preset": "veryfast", "crf": "23"}, {"deadline": "realtime", "cpu-used": "8", "b": "500k"}
KINDS: dict[str, Make] = {
    "H.264 mp4, key frames every 250": ("libx264", "mp4", {**X264, "g": "250"}),
    "H.264 mp4, every 12": ("libx264", "mp4", {**X264, "g": "12"}),
    "VP9 webm, every 128": ("libvpx-vp9", "webm", {**VP, "g": "128"}),
    "VP9 webm, every 12": ("libvpx-vp9", "webm", {**VP, "g": "12"}),
    "H.264 mp4, open groups of 12": ("libx264", "mp4", {**X264, "g": "12", "x264-params": "open-gop=1"}),
    "HEVC mp4, open groups of 12": (
        "libx265",
        "mp4",
        {"preset": "ultrafast", "x265-params": "log-level=none:keyint=12"},
    ),
    "MPEG-4 avi, every 12": ("mpeg4", "avi", {"g": "12", "bf": "2", "b": "800k"}),
    "MPEG-4 mp4, every 12": ("mpeg4", "mp4", {"g": "12", "bf": "2", "b": "800k"}),
    "H.264 avi, every 12": ("libx264", "avi", {**X264, "g": "12"}),
    "H.264 ts, every 12": ("libx264", "ts", {**X264, "g": "12"}),
    "MPEG-2 mpg, every 12": ("mpeg2video", "mpg", {"g": "12", "bf": "2", "b": "1500k"}),
    "WMV2 wmv, every 12": ("wmv2", "wmv", {"g": "12", "b": "800k"}),
    "MJPEG avi": ("mjpeg", "avi", {"q": "4"}),
}


@dataclass(frozen=True)
class Settings:
    """Frames of a video, their size (W, H), of which codecs make the even number below, rounds.

    Raises:
        UserError: a number is out of range.
    """

    frames: int = 300
    size: tuple[int, int] = (340, 256)
    rounds: int = 9

    def __post_init__(self) -> None:
        if self.frames < DRAWN or self.rounds < 1 or min(self.size) < 16:
            told = f"--frames {self.frames} --rounds {self.rounds} --size {self.size[0]}x{self.size[1]}"
            raise UserError(f"{told}: use {DRAWN} frames or more, 1 round or more, and sides of 16 or more")


@dataclass(frozen=True)
class Row:
    """Milliseconds of one kind of file.

    Args:
        used: the library that reads it where data.decoder=decord.
        first: judging it, once per file; whole: decoding all of it.
        sample, pyav: opening it and reading 8 frames, with data.decoder=decord and pyav.
        alone: the same by decord without proof, None where it can't; wrong: share of other frames that it gives then.
    """

    kind: str
    used: str
    first: float
    whole: float
    sample: float
    pyav: float
    alone: float | None
    wrong: float | None


def compare(settings: Settings, advance: Callable[[str], object] = lambda kind: None) -> list[Row]:
    """A row for each kind of file that this machine can encode."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rows = []
        for number, (kind, made) in enumerate(KINDS.items()):
            path = folder / f"{number}.{made[1]}"
            if _write(path, made, settings):
                rows.append(_measure(kind, path, settings))
            advance(kind)
        return rows


def _measure(kind: str, path: Path, settings: Settings) -> Row:
    indexes = IndexStore()
    with open_video(path, "pyav", indexes) as video:
        truth, count = np.stack(list(video.stream())), video.count
    times: dict[str, list[float]] = {}
    used, wrong, tried = "", 0, 0
    default = "decord" if installed("decord") else "pyav"
    for number in range(settings.rounds):
        at = sorted(np.random.default_rng(number).choice(count, DRAWN, replace=False).tolist())
        ways: dict[str, Callable[[], Any]] = {
            "first": partial(judge, path),
            "whole": partial(judge, path, decode=True),
            "sample": partial(_read, path, default, indexes, at),
            "pyav": partial(_read, path, "pyav", indexes, at),
            "alone": partial(_alone, path, at),
        }
        for way, run in ways.items():
            begun = time.process_time()
            found = run()
            times.setdefault(way, []).append(1e3 * (time.process_time() - begun))
            if way == "sample":
                used = found
            elif way == "alone" and found is not None:
                tried += DRAWN
                wrong += sum(_other(given, truth[i]) for given, i in zip(found, at, strict=True))
    middle = {way: statistics.median(each) for way, each in times.items()}
    alone = (middle["alone"], wrong / tried) if tried else (None, None)
    return Row(kind, used, middle["first"], middle["whole"], middle["sample"], middle["pyav"], *alone)


def _read(path: Path, decoder: str, indexes: IndexStore, at: list[int]) -> str:
    with open_video(path, decoder, indexes) as video:
        video.frames(at)
        return str(video.used)  # type: ignore[attr-defined]


def _alone(path: Path, at: list[int]) -> np.ndarray | None:
    try:
        return by_decord_alone(path, at) if installed("decord") else None
    except DecodeError:
        return None


def _other(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape != other.shape or float(np.abs(one.astype(np.int16) - other).mean()) > WRONG


def _write(path: Path, made: Make, settings: Settings) -> bool:
    """Whether this machine has the encoder."""
    import av

    codec, _, options = made
    width, height = (side // 2 * 2 for side in settings.size)
    try:
        with av.open(str(path), "w") as output:
            stream: Any = output.add_stream(codec, rate=Fraction(RATE), options=options)
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for pixels in _scene(settings.frames, width, height):
                output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            output.mux(stream.encode(None))
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def _scene(frames: int, width: int, height: int) -> Iterator[np.ndarray]:
    """Blocks that move over a pattern, with some noise: no two frames alike, and something to encode."""
    rng = np.random.default_rng(0)
    cells = rng.integers(20, 230, (height // 8 + 1, width // 8 + 1, 3))
    base = cells.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    for number in range(frames):
        noise = rng.integers(-6, 7, (height, width, 1))
        yield np.clip(np.roll(base, (3 * number, 5 * number), (0, 1)) + noise, 0, 255).astype(np.uint8)
