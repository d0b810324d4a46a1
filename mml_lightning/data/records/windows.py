"""A long video as a row of windows of equal length. Legend: seconds count from the first frame shown."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

from mml_lightning.data.records.clock import Timed, length
from mml_lightning.data.records.records import Record
from mml_lightning.data.video.decode import DecodeError
from mml_lightning.utils.errors import UserError

ROUNDING = 1e-6  # seconds below which two times are one


def window_spans(duration: float, window: float, stride: float) -> list[tuple[float, float]]:
    """(start, end) of windows of `window` seconds, one every `stride` seconds, as far as they fit; a last one ends with
    the video where something would be left. A shorter video is one window.

    >>> window_spans(5.5, 2, 2)
    [(0.0, 2.0), (2.0, 4.0), (3.5, 5.5)]
    """
    if duration <= window + ROUNDING:
        return [(0.0, duration)]
    count = math.floor((duration - window + ROUNDING) / stride) + 1
    spans = [(k * stride, k * stride + window) for k in range(count)]
    if spans[-1][1] < duration - ROUNDING:
        spans.append((duration - window, duration))
    return [(round(start, 6), round(end, 6)) for start, end in spans]


def windows(
    records: Sequence[Record],
    window: float,
    stride: float,
    look: Callable[[Record], Timed],
    advance: Callable[[], None],
) -> Iterator[tuple[str, Record]]:
    """(id of the video, window of it) for each window of each record, in order. A video that can't be read comes
    whole: whoever reads it will say why.

    Args:
        look: the frames of a record, their number and times. advance: called after each record.

    Raises:
        UserError: a record is a part of a video already, or a length is not positive.
    """
    for name, value in (("window", window), ("stride", stride)):
        if not 0 < value < math.inf:
            raise UserError(f"--{name} {value:g} must be a positive number of seconds")
    for record in records:
        if record.span is not None:
            raise UserError(f"{record.id} is a part of a video (start and end): leave out --window, or these columns")
        try:
            duration = length(look(record))
        except DecodeError:
            duration = 0.0
        # without a duration the reader will say what is wrong with the file
        for start, end in window_spans(duration, window, stride) if duration else [(0.0, 0.0)]:
            if not end:
                yield record.id, record
                continue
            yield record.id, dataclasses.replace(record, id=f"{record.id}#t={start:g},{end:g}", span=(start, end))
        advance()
