"""Tiny files with sound: clicks at known times, so that where a sample lies can be told from the sample."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.data.videos import BASE, FPS, HEIGHT, STEP, WIDTH

RATE = 16000


def clicks(seconds: float, at: Sequence[float], rate: int = RATE) -> np.ndarray:
    """Silence int16 [N] with a burst of 5 ms at each of the times."""
    sound = np.zeros(round(seconds * rate), np.int16)
    for time in at:
        begin = round(time * rate)
        sound[begin : begin + rate // 200] = 20000
    return sound


def write_sound(path: Path, sound: np.ndarray, rate: int = RATE, layout: str = "mono") -> Path:
    """Encode int16 [N], or [N, channels], as 16-bit PCM (.wav) or lossless (.flac)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as output:
        codec = "flac" if path.suffix == ".flac" else "pcm_s16le"
        stream: Any = output.add_stream(codec, rate=rate, layout=layout)
        _encode(output, stream, sound.reshape(1, -1), rate, layout, 0)
    return path


def write_audible(
    path: Path, frames: int, sound: np.ndarray | None, start: float = 0.0, rate: int = RATE, fps: int = FPS
) -> Path:
    """A video (.mkv) of `frames` counted frames, and lossless sound that begins `start` seconds after the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as output:
        video: Any = output.add_stream("libx264", rate=Fraction(fps), options={"preset": "veryfast", "bf": "0"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.thread_count = 1
        audio: Any = None if sound is None else output.add_stream("flac", rate=rate, layout="mono")
        for n in range(frames):
            pixels = np.full((HEIGHT, WIDTH, 3), BASE + STEP * (n % 30), np.uint8)
            output.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(video.encode(None))
        if sound is not None:
            _encode(output, audio, sound.reshape(1, -1), rate, "mono", round(start * rate))
    return path


def _encode(output: Any, stream: Any, sound: np.ndarray, rate: int, layout: str, first: int) -> None:
    channels = len(av.AudioLayout(layout).channels)
    for begin in range(0, sound.shape[1], 1024 * channels):
        frame = av.AudioFrame.from_ndarray(sound[:, begin : begin + 1024 * channels], format="s16", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, first + begin // channels, Fraction(1, rate)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def onsets(sound: np.ndarray, rate: int) -> list[float]:
    """Seconds at which bursts begin."""
    loud = np.abs(sound.astype(np.float64)) > 0.25 * 32768
    at = np.flatnonzero(loud)
    return [float(one) / rate for one in at[np.diff(at, prepend=-rate) > rate // 50]]
