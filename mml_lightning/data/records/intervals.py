"""Labels that hold in a part of a video: which classes are seen in a stretch of it.

Frame i (from 0) is shown at i / fps seconds, at a variable rate when its timestamp says so; a class is on at that frame
if its interval holds that time. A stretch has the classes that are on at one of its frames at least (Charades in
PySlowFast and in Long-Term Feature Banks).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np

Interval = tuple[int, float, float]
"""(class, start, end) in seconds."""

Ends = Literal["inclusive", "exclusive"]
"""Whether a class is still on at the very moment its interval ends; at its start it is on either way."""

ENDS = get_args(Ends)


def classes_between(
    intervals: Iterable[Interval], first: int, last: int, clock: float | np.ndarray, ends: Ends = "inclusive"
) -> tuple[int, ...]:
    """Sorted classes that are on at one frame at least of `first` to `last`, both included.

    Args:
        clock: frames per second, or the seconds float64 [T] at which each frame of the video is shown.

    Raises:
        ValueError: no frame, or an unknown frame rate.
    """
    if not 0 <= first <= last:
        raise ValueError(f"frames {first} to {last} are not a valid range: use 0 <= first <= last")
    if isinstance(clock, np.ndarray):
        times = clock[first : last + 1]
    elif clock > 0:
        times = np.arange(first, last + 1) / clock
    else:
        raise ValueError(f"the frame rate is {clock:g}: labels in seconds can't be located; set it in the reader")
    found = set()
    for label, start, end in intervals:
        before_end = times <= end if ends == "inclusive" else times < end
        if bool(((times >= start) & before_end).any()):
            found.add(label)
    return tuple(sorted(found))


def intervals_of_frames(labels: Sequence[frozenset[int]], fps: float) -> tuple[Interval, ...]:
    """Label sets of consecutive frames as intervals, by class and start.

    An interval begins half a frame before the first frame and ends half a frame behind the last one, so that exactly
    these frames lie in it, whatever the rounding of their times and whether its end counts.
    """
    result: list[Interval] = []
    began: dict[int, int] = {}
    for frame, present in enumerate([*labels, frozenset[int]()]):
        for label in [label for label in began if label not in present]:
            result.append((label, max(0.0, (began.pop(label) - 0.5) / fps), (frame - 0.5) / fps))
        for label in present:
            began.setdefault(label, frame)
    return tuple(sorted(result))
