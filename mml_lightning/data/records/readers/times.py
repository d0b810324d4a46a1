"""Which columns of a table tell the part of a video that a line is about, and what their cells say."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from mml_lightning.data.records.records import FrameSpan
from mml_lightning.utils.errors import UserError

SECONDS, MILLISECONDS, FRAMES = "seconds", "milliseconds", "frames"
_UNITS = {
    **dict.fromkeys(("", "t", "time", "timestamp", "ts", "s", "sec", "secs", "second", "seconds"), SECONDS),
    **dict.fromkeys(("ms", "msec", "millis", "millisecond", "milliseconds"), MILLISECONDS),
    **dict.fromkeys(("frame", "frames"), FRAMES),
}
_UNIT = "|".join(sorted(filter(None, _UNITS), key=len, reverse=True))
_NAME = re.compile(
    rf"(?:(?:clip|segment|seg|action|event)_?)?(?P<before>{_UNIT})??_?"
    rf"(?P<point>start|begin|end|stop|duration)(?:_?(?:in_)?(?P<after>{_UNIT}))?"
)
_POINTS = {"start": "start", "begin": "start", "end": "end", "stop": "end", "duration": "duration"}
_SUSPECT = {"start", "begin", "begins", "end", "ends", "stop", "finish", "onset", "offset"}
_CLOCK = re.compile(r"(?:(?P<hours>\d+):(?=\d\d?:))?(?P<minutes>\d+):(?P<seconds>\d\d?(?:\.\d*)?)")


@dataclass(frozen=True)
class Times:
    """The columns that tell a part: `start`, and beside it `end`, or else `duration`.

    Args:
        start, other: their names, as the header writes them.
        by_duration: `other` is how long the part lasts, not where it ends.
    """

    start: str
    other: str
    unit: str
    by_duration: bool

    @property
    def told(self) -> str:
        return f"parts from {self.start!r} and {self.other!r} ({self.unit})"

    def span(self, cells: Sequence[str], first_frame: int, where: str) -> tuple[float, float]:
        """(start, end) in seconds from the first frame shown, or the frames of a part, both ends included.

        Args:
            cells: of `start` and of `other`, not both empty.
            first_frame: the number that the table gives to the first frame.

        Raises:
            UserError: a cell is empty or says no time, or the part does not lie before its end.
        """
        names = ("start", "duration" if self.by_duration else "end")
        numbers = [_number(cell, self.unit) for cell in cells]
        start, other = numbers
        if start is None or other is None:
            unit = "seconds (or hh:mm:ss)" if self.unit == SECONDS else self.unit
            raise UserError(f"{where}: {names[0]} and {names[1]} must both be {unit}, or both empty")
        if self.unit == FRAMES:
            return self._frames(start, other, first_frame, where)
        end = start + other if self.by_duration else other
        if self.unit == MILLISECONDS:
            start, end = start / 1000, end / 1000
        span = float(start), float(end)
        if not 0 <= span[0] < span[1] < math.inf:
            raise UserError(f"{where}: start {span[0]:g} must lie before end {span[1]:g}, from 0 on")
        return span

    def _frames(self, start: Decimal, other: Decimal, first_frame: int, where: str) -> FrameSpan:
        last = start + other - 1 if self.by_duration else other
        if start != int(start) or last != int(last):
            raise UserError(f"{where}: frames {start} to {last} are not whole numbers; fix the line")
        span = FrameSpan(int(start) - first_frame, int(last) - first_frame)
        if not 0 <= span.first <= span.last:
            raise UserError(
                f"{where}: frame {int(start)} must not come after frame {int(last)}, and the first frame is "
                f"{first_frame}; fix the line, or set data.first_frame"
            )
        return span


def find_times(path: Path, header: Sequence[str]) -> Times | None:
    """The columns of a header that tell parts of videos; seconds count before milliseconds, and these before frames.

    Raises:
        UserError: two columns tell the same, or none tells parts although a start has no end or duration beside it, an
            end no start, or a column looks like a time and is not understood.
    """
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    suspect = []
    for name in header:
        known = _understood(name)
        if known:
            found[known[0]][known[1]].append(name)
        elif _SUSPECT & set(_words(name).split("_")):
            suspect.append(name)
    units = [unit for unit in (SECONDS, MILLISECONDS, FRAMES) if unit in found]
    for unit in units:
        points = {point: _chosen(path, names, point) for point, names in found[unit].items()}
        if "start" in points and points.keys() & {"end", "duration"}:
            by_duration = "end" not in points
            return Times(points["start"], points["duration" if by_duration else "end"], unit, by_duration)
    for unit in units:
        for point, missing in (("start", "end, or duration,"), ("end", "start")):
            for name in found[unit].get(point, ()):  # a duration alone is that of the video
                raise UserError(
                    f"{path}: column {name!r} has no {missing} in {unit} beside it; add it, or rename {name!r}"
                )
    if suspect:
        raise UserError(
            f"{path}: column {suspect[0]!r} looks like a time; rename it to start, end or duration "
            "(seconds), or start_frame and end_frame, or something else"
        )
    return None


def _chosen(path: Path, names: Sequence[str], point: str) -> str:
    """The column that is called exactly as what it tells, else the only one."""
    exact = [name for name in names if name.strip().casefold() == point]
    if len(names) > 1 and not exact:
        raise UserError(f"{path}: columns {names[0]!r} and {names[1]!r} both give the {point} of a clip; rename one")
    return (exact or names)[0]


def _words(name: str) -> str:
    """ "startTime", "Start-Time" -> "start_time" """
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[^0-9a-z]+", "_", parted.lower()).strip("_")


def _understood(name: str) -> tuple[str, str] | None:
    """(unit, point) of a column name."""
    match = _NAME.fullmatch(_words(name))
    if match is None or (match["before"] and match["after"]):
        return None
    return _UNITS[match["before"] or match["after"] or ""], _POINTS[match["point"]]


def _number(cell: str, unit: str) -> Decimal | None:
    """What a cell says in its unit; None if it is no number. Seconds may be hh:mm:ss or mm:ss."""
    match = _CLOCK.fullmatch(cell) if unit == SECONDS else None
    try:
        if match is None:
            number = Decimal(cell)
            return number if number.is_finite() else None
        hours, minutes, seconds = int(match["hours"] or 0), int(match["minutes"]), Decimal(match["seconds"])
    except InvalidOperation:
        return None
    if seconds >= 60 or (match["hours"] and minutes >= 60):
        return None
    return 3600 * hours + 60 * minutes + seconds
