"""The sound of a video, or of a file beside it, as samples in the video's own time. Read by PyAV only.

Legend: N samples.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mml_lightning.data.video.decode import DecodeError, NoSource
from mml_lightning.data.video.media import Media, PackedFrames
from mml_lightning.data.video.pack_reader import PackReader

PACKED = "audio"  # the source of sound in a pack
GAP = 0.05  # seconds between two pieces of sound from which on something is missing; containers round to milliseconds


@dataclass(frozen=True)
class Sound:
    """Mono sound.

    Args:
        samples: int16 [N].
        rate: samples per second.
        start: seconds of the first sample after the first frame shown; negative where the sound begins earlier.
        gap: where a piece of it is missing first: seconds after the first frame shown, and how long; None if nowhere.
    """

    samples: np.ndarray
    rate: int
    start: float
    gap: tuple[float, float] | None = None

    @property
    def end(self) -> float:
        """Seconds of its end after the first frame shown."""
        return self.start + len(self.samples) / self.rate

    def resampled(self, rate: int) -> np.ndarray:
        """Its samples int16 [N'] at `rate` per second."""
        if rate == self.rate:
            return self.samples
        import av

        resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
        frame = av.AudioFrame.from_ndarray(self.samples[None], format="s16", layout="mono")
        frame.sample_rate = self.rate
        parts = [*resampler.resample(frame), *resampler.resample(None)]
        return np.concatenate([part.to_ndarray()[0] for part in parts])


def read_sound(media: Media) -> Sound:
    """The best audio stream of a file, or the sound of a pack, mixed down to mono.

    A sound file without pictures begins with the first frame of its video.

    Raises:
        NoSource: there is none: images, or a video without an audio stream. DecodeError: it can't be read.
    """
    if isinstance(media, PackedFrames):
        if media.source != PACKED:
            raise NoSource(f"{media}: it was packed without its sound; pack it with mml pack --audio")
        return _decoded(io.BytesIO(packed_sound(media)), str(media), media.start)
    if not isinstance(media, Path):
        raise NoSource(f"{media}: images have no sound; name a sound file beside them")
    return _decoded(str(media), str(media), None)


def packed_sound(media: PackedFrames) -> bytes:
    """The Matroska file of a packed sound.

    Raises:
        DecodeError: it could not be packed, or it is damaged.
    """
    return next(PackReader(media).encoded([0]))[1]


def _decoded(file: Any, name: str, start: float | None) -> Sound:
    """Args:
    start: seconds of the first sample, where its file has a clock of its own.
    """
    import av

    try:
        with av.open(file) as container:
            stream, video = container.streams.best("audio"), container.streams.best("video")
            if stream is None:
                raise NoSource(f"{name}: it has no audio stream")
            rate, first, pieces, gap = _pieces(stream)
            if start is None:
                shown = video.start_time if video is not None else None
                start = first - float(shown * video.time_base) if shown is not None else 0.0
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise DecodeError(f"{name}: its sound can't be read: {error}") from None
    if not pieces:
        raise NoSource(f"{name}: its audio stream is empty")
    return Sound(np.concatenate(pieces), rate, start, gap and (gap[0] - first + start, gap[1]))


def _pieces(stream: Any) -> tuple[int, float, list[np.ndarray], tuple[float, float] | None]:
    """Samples per second, seconds of the first sample by the stream's clock, the samples, and the first gap."""
    import av

    rate = int(stream.rate or 0)
    mono = av.AudioResampler(format="s16", layout="mono", rate=rate)  # of floats the sum of channels would be louder
    pieces: list[np.ndarray] = []
    first = expected = 0.0
    gap = None
    for packet in stream.container.demux(stream):
        for frame in packet.decode():
            now = expected if frame.time is None else frame.time
            if not pieces:
                first = now
            elif now - expected > GAP and gap is None:
                gap = (expected, now - expected)
            expected = now + frame.samples / frame.sample_rate
            pieces += [part.to_ndarray()[0] for part in mono.resample(frame)]
    return rate, first, pieces, gap
