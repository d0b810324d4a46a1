"""When the items of a source are shown: by number where they come at a constant rate, else by their own timestamps.

Legend: T items of a source. Seconds count from the first frame shown.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from mml_lightning.data.records.records import FrameSpan
from mml_lightning.data.video.decode import DecodeError, even_times

JITTER = 0.25  # of an item: containers round timestamps, most of them to milliseconds
OWN_RATE = 0.01  # by which the rate of a source must differ from that of the frames to be another one
MICROSECOND = 1e-6  # below which a timestamp and a cell of a table are the same time


class Timed(Protocol):
    @property
    def count(self) -> int: ...

    @property
    def fps(self) -> float: ...

    @property
    def times(self) -> np.ndarray | None: ...


def is_constant(source: Timed) -> bool:
    """Whether the items come at a constant rate that is known: all are where it puts them."""
    if source.fps <= 0:
        return False
    if source.times is None:
        return True
    return bool((np.abs(source.times * source.fps - np.arange(len(source.times))) <= JITTER).all())


def clock(source: Timed) -> np.ndarray | None:
    """Seconds float64 [T] of the items; None where nothing tells."""
    return even_times(source.count, source.fps) if is_constant(source) else source.times


def unevenness(source: Timed) -> float:
    """Seconds by which a frame is at most off the place that the average rate gives it; 0 at a constant rate."""
    if is_constant(source) or source.times is None or source.fps <= 0:
        return 0.0
    return float(np.abs(source.times - np.arange(len(source.times)) / source.fps).max())


def length(source: Timed) -> float:
    """Seconds from the first item to the end of the last, which is taken to last as long as the one before; 0 where
    nothing tells."""
    if is_constant(source) or (source.fps > 0 and source.count < 2):
        return source.count / source.fps
    times = source.times
    return 0.0 if times is None or len(times) < 2 else float(2 * times[-1] - times[-2])


def frames_of(span: tuple[float, float], margin: float, frames: Timed, name: str) -> tuple[int, int]:
    """First frame of a part of a video, and the one behind its last.

    At a constant rate they are those nearest to the ends of the part, otherwise those that are on display there.

    Args:
        margin: seconds that a part in seconds has more on both sides.
        name: of the video, for messages.

    Raises:
        DecodeError: the part begins behind the video, or nothing tells when frames are shown.
    """
    if isinstance(span, FrameSpan):
        if span.first >= frames.count:
            raise DecodeError(f"{name}: the part starts at frame {span.first} (from 0), the video has {frames.count}")
        return span.first, min(frames.count, span.last + 1)
    start, end = span
    rate, times, seconds = frames.fps, frames.times, length(frames)
    constant = is_constant(frames)
    if not constant and times is None:
        raise DecodeError(f"{name}: unknown frame rate, its time span can't be located")
    if start * rate >= frames.count if constant else start >= seconds > 0:
        raise DecodeError(f"{name}: the span starts at {start:g} s, the video ends at {seconds:.2f} s")
    if constant or times is None:
        first, last = round((start - margin) * rate), round((end + margin) * rate)
    else:
        ends = np.array([start - margin, end + margin]) + MICROSECOND
        first, last = (np.searchsorted(times, ends, "right") - 1).tolist()
    return max(0, min(frames.count - 1, first)), max(1, min(frames.count, last + 1))


def items_of(first: int, behind: int, frames: Timed, source: Timed) -> tuple[int, int]:
    """First item and item count of `source` in the part of a video from frame `first` to the one before `behind`.

    Flow has an item for each frame and its next one: as many fewer in a part as in the whole video. Where it comes at a
    rate of its own, the part is placed by that.
    """
    times = clock(frames)
    if times is None or min(source.fps, frames.fps) <= 0 or abs(source.fps / frames.fps - 1) <= OWN_RATE:
        begin = min(source.count - 1, first)
        return begin, max(1, behind - begin - (frames.count - source.count))
    begin = min(source.count - 1, round(times[first] * source.fps))
    end = min(source.count, round(times[behind - 1] * source.fps))
    return begin, max(1, end - begin)
