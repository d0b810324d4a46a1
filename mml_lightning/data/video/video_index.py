"""What is known of a video file: its frames, their times, where decoding may begin, and which reader may do so.

Legend: T frames, K places where decoding may begin.

Frame i is the i-th picture that decoding from the start shows. Most files are judged by their packets alone, without
decoding; where packets don't tell which pictures will be shown, the file is decoded once and the pictures are counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mml_lightning.data.video.orientation import Orientation, orientation_of
from mml_lightning.data.video.packets import Damage, Seen, look_at, luminance_sum, opened, pictures

MOST_LOST = 0.5  # share of the pictures of a file that may be lost to damage; beyond it the video is unreadable
TIMED = ("mov", "matroska")  # containers that keep the time of every picture, and find it again
COUNTED = ("avi", "mpegts", "flv")  # containers whose packets are found again by their place in the file
THREADED = ("av1",)  # codecs whose decoder has threads of its own: their frames don't tell their packets
BY_DECORD = ("h264", "vp8", "vp9")  # codecs whose sparse reading by decord is tested, in these containers


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """One video file, judged.

    Args:
        count: frames that are shown, T.
        size: (W, H) of the first frame as shown; all others are given in it.
        fps: average rate by the container; 0 where unknown.
        pts: timestamps of the frames, int64 [T] rising, in `time_base` seconds; None where they have none of their own.
        starts: frames int64 [K], rising, at which a decoder may begin and be right from there on; 0 is always one.
        order: number of the packet of each frame, int64 [T], in files whose frames are not told by `pts`.
        jumps: how their `starts` are found, int64 [K, 4]: decoding time, offset, size and check sum of the packet.
        orientation: how stored pictures are shown, see :class:`Orientation`.
        decoded: the frames were counted by decoding all of them, else by the packets' own words.
        promised: pictures that the file says it has.
        loss: what of them can't be shown for damage, in words; "" if nothing is known to be lost.
        by_pyav: why decord must not read the file; "" if it may.
        sums: check sums of the frames at `starts`, int64 [K], where all were decoded: whether a decoder that begins
            there shows the same, even where it makes up for damage.
    """

    count: int
    size: tuple[int, int]
    fps: float
    pts: np.ndarray | None
    time_base: Fraction
    starts: np.ndarray
    orientation: int
    decoded: bool
    promised: int
    loss: str = ""
    by_pyav: str = ""
    order: np.ndarray | None = None
    jumps: np.ndarray | None = None
    sums: np.ndarray | None = None

    @property
    def times(self) -> np.ndarray | None:
        """Seconds float64 [T] from the first frame shown; by the average rate where frames have no timestamps."""
        if self.pts is not None:
            return (self.pts - self.pts[0]) * float(self.time_base)
        return np.arange(self.count) / self.fps if self.fps > 0 else None

    def start_of(self, frame: int) -> int:
        """The last frame, `frame` or before it, at which decoding may begin."""
        return int(self.starts[np.searchsorted(self.starts, frame, side="right") - 1])


def judge(path: Path, decode: bool = False) -> VideoIndex:
    """The index of a file.

    Args:
        decode: decode all of it in any case, so that damage inside of whole packets is found too.

    Raises:
        ValueError: it has no video, none of its frames decodes, or more than MOST_LOST of them are lost.
        av.error.FFmpegError: it is no video file.
    """
    seen = look_at(path)
    reason = _why_decode(seen)
    index = _by_decoding(path, seen, reason) if reason or decode else _by_packets(seen)
    lost = index.promised - index.count
    if index.loss and lost > MOST_LOST * index.promised:
        raise ValueError(f"it is damaged: {index.loss}")
    return index


def _family(seen: Seen) -> str:
    return seen.format.split(",")[0]


def _why_decode(seen: Seen) -> str:
    """Why the packets alone don't tell which pictures are shown; "" where they do."""
    shown = [one.shown for one in seen.looked]
    pts = [stamp for stamp in seen.pts if stamp is not None]
    for reason, holds in (
        (f"{_family(seen)} stores no timestamp per picture", _family(seen) not in TIMED),
        ("it is damaged", seen.damage.gaps > 0 or not all(one.whole for one in seen.looked)),
        (f"{seen.codec} does not mark which pictures are shown", min(shown, default=-1) < 0),
        ("it is cut off", seen.listed > seen.packets or _seconds_missing(seen) > 0),
        ("an edit list hides pictures", seen.left_out > 0),
        ("packets are marked as damaged or as another stream", len(seen.odd) > seen.left_out),
        ("it is interlaced", not seen.progressive),
        ("packets hold more than one picture", max(shown, default=0) > 1),
        ("timestamps are missing", len(pts) < seen.packets),
        ("timestamps repeat", len(set(pts)) < len(pts)),
        (
            "it does not begin with a key frame",
            not shown or not seen.looked[0].start or (bool(pts) and min(pts) < pts[0]),
        ),
        ("its first frame does not decode", seen.first is None),
    ):
        if holds:
            return reason
    return ""


def _by_packets(seen: Seen) -> VideoIndex:
    told = np.array([stamp for stamp, one in zip(seen.pts, seen.looked, strict=True) if one.shown], dtype=np.int64)
    pts = np.sort(told)
    places = _safe_starts(seen)
    orientation = orientation_of(seen.first)
    size = orientation.size((seen.first.width, seen.first.height))
    starts = np.searchsorted(pts, [seen.pts[place] or 0 for place in places])
    by_pyav = _why_not_decord(seen, places, orientation)
    return VideoIndex(
        len(pts), size, seen.fps, pts, Fraction(seen.time_base), starts, orientation.code, False, len(pts), "", by_pyav
    )


def _safe_starts(seen: Seen) -> list[int]:
    """Packets at which a decoder may begin: nothing before them is needed, or shown after them."""
    places, latest = [], -(2**63)
    for place, (stamp, one) in enumerate(zip(seen.pts, seen.looked, strict=True)):
        if stamp is None:
            continue
        if one.start and one.shown and stamp > latest:
            places.append(place)
        latest = max(latest, stamp)
    return places


def _why_not_decord(seen: Seen, places: list[int], orientation: Orientation) -> str:
    """decord goes to the last key frame decoded by the time wanted and counts packets: both must fit what is shown."""
    pts = np.array(seen.pts, dtype=np.int64)
    lags = {seen.pts[place] - (seen.dts[place] or 0) for place in places}  # type: ignore[operator]
    closed = all(pts[place:].min() == pts[place] for place in places)
    for reason, holds in (
        (f"{seen.codec} in {_family(seen)}", seen.codec not in BY_DECORD),
        ("several streams of pictures", seen.videos > 1),  # decord may choose another one
        ("a fragmented file", _family(seen) == "mov" and seen.stated != seen.packets),
        ("open groups of pictures", not closed or places != [place for place, key in enumerate(seen.keys) if key]),
        ("key frames of uneven delay", _family(seen) == "mov" and len(lags) > 1),
        ("key frames closer than their delay", _family(seen) == "mov" and _overtaken(seen, places)),
        ("hidden pictures", not all(one.shown for one in seen.looked)),
        ("coding parameters that change", len({one.parameters for one in seen.looked if one.parameters}) > 1),
        ("rotated or mirrored pictures", orientation.code != 0),
    ):
        if holds:
            return reason
    return ""


def _overtaken(seen: Seen, places: list[int]) -> bool:
    """Whether a jump by the time of a key frame finds one behind it, which is decoded by then: so where no edit list
    sets the delay of the first picture off."""
    return seen.pts[0] != 0 and any(seen.dts[later] <= seen.pts[one] for one, later in pairwise(places))  # type: ignore[operator]


def _seconds_missing(seen: Seen) -> float:
    """Seconds that the container promises after the last picture, beyond what its last picture may stand for."""
    stamps = np.sort(np.array([stamp for stamp in seen.pts if stamp is not None], dtype=np.float64))
    if len(stamps) < 2 or not seen.seconds:
        return 0.0
    times = stamps * float(seen.time_base)
    ended = times[-1] - min(0.0, times[0]) if _family(seen) != "avi" else times[-1] - times[0]
    slack = max(2 * float(np.diff(times).max()), 2 / seen.fps if seen.fps else 0.0)
    missing = seen.seconds - ended - slack
    return missing if missing > 0 else 0.0


def _by_decoding(path: Path, seen: Seen, reason: str) -> VideoIndex:
    damage, first = Damage(), None
    stamps: list[Any] = []
    numbers: list[Any] = []
    counted = _family(seen) not in TIMED and seen.codec not in THREADED
    maybe = {seen.pts[place] for place in _safe_starts(seen)} if _family(seen) in TIMED and seen.looked else set()
    sums: dict[int, int] = {}
    with opened(path) as (container, stream):
        for frame in pictures(container, stream, damage, (lambda packet: True) if counted else None):
            first = frame if first is None else first
            if frame.pts in maybe or (counted and _may_start(seen, frame.opaque)):
                sums[len(stamps)] = luminance_sum(frame)
            stamps.append(frame.pts)
            numbers.append(frame.opaque)
    if first is None:
        raise ValueError("none of its frames decodes" if seen.packets else "it has no frame")
    orientation = orientation_of(first)
    timed = None not in stamps and bool((np.diff(stamps) > 0).all())
    pts = np.array(stamps, dtype=np.int64) if timed else None
    promised, loss = _loss(seen, damage, len(stamps))
    size = orientation.size((first.width, first.height))
    starts, order, jumps = np.zeros(1, dtype=np.int64), None, None
    if counted and None not in numbers:
        order = np.array(numbers, dtype=np.int64)
        if not loss and seen.whole and _family(seen) in COUNTED:
            starts, jumps = _counted_starts(seen, order)
    elif pts is not None and _family(seen) in TIMED and not loss and seen.looked:
        told = [stamp for place in _safe_starts(seen) if (stamp := seen.pts[place]) is not None]
        starts = np.union1d(starts, np.searchsorted(pts, np.intersect1d(pts, told)))
    by_pyav = reason or _by_packets(seen).by_pyav
    count = len(stamps)
    if not by_pyav and (loss or count != seen.packets):
        by_pyav = "damage" if loss else "packets without a picture"
    proof = np.array([sums.get(start, 0) for start in starts.tolist()], dtype=np.int64)
    base, code = Fraction(seen.time_base), orientation.code
    return VideoIndex(
        count, size, seen.fps, pts, base, starts, code, True, promised, loss, by_pyav, order, jumps, proof
    )


def _may_start(seen: Seen, packet: int | None) -> bool:
    return packet is not None and packet < len(seen.looked) and seen.looked[packet].start


def _counted_starts(seen: Seen, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(starts, jumps) of a file whose frames are told by their packets: nothing before a start is shown after it."""
    later = np.minimum.accumulate(order[::-1])[::-1]  # the first packet of this frame and all that follow
    alone = Counter(seen.places)
    found = [(0, 0, 0, 0, 0)]
    for frame, packet in enumerate(order.tolist()):
        place, dts = seen.places[packet], seen.dts[packet]
        ready = frame > 0 and later[frame] == packet and _may_start(seen, packet)
        if ready and place[0] >= 0 and dts is not None and alone[place] == 1:
            found.append((frame, dts, *place))
    table = np.array(found, dtype=np.int64)
    return table[:, 0], table[:, 1:]


def _loss(seen: Seen, damage: Damage, count: int) -> tuple[int, str]:
    """(pictures promised, what is lost of them in words)."""
    cut = max(0, seen.listed - seen.packets)
    if not cut and (missing := _seconds_missing(seen)):
        cut = max(1, round(missing * seen.fps))
    if not (damage.packets or damage.gaps or cut):
        return count, ""
    promised = max(seen.packets - seen.left_out + cut, count)
    damaged = damage.packets + damage.gaps
    what = [f"{damaged} damaged {'packet is' if damaged == 1 else 'packets are'} skipped"] if damaged else []
    what += [f"the file ends {cut} {'picture' if cut == 1 else 'pictures'} early"] if cut else []
    return promised, f"{count} of {promised} pictures decode, {' and '.join(what)}"


def remember(index: VideoIndex, reason: str) -> VideoIndex:
    """`index` of a file that decord turned out not to read."""
    return replace(index, by_pyav=reason)


def plain(index: VideoIndex) -> dict[str, Any]:
    """As numbers and words for a file; timestamps as runs of equal steps."""
    return {
        "count": index.count,
        "size": list(index.size),
        "fps": index.fps,
        "pts": _runs(index.pts),
        "order": _runs(index.order),
        "jumps": None if index.jumps is None else index.jumps.tolist(),
        "sums": None if index.sums is None else index.sums.tolist(),
        "time_base": [index.time_base.numerator, index.time_base.denominator],
        "starts": index.starts.tolist(),
        "orientation": index.orientation,
        "decoded": index.decoded,
        "promised": index.promised,
        "loss": index.loss,
        "by_pyav": index.by_pyav,
    }


def _runs(values: np.ndarray | None) -> list[Any] | None:
    """The first value and the steps from each to the next, equal ones counted."""
    if values is None:
        return None
    steps: list[list[int]] = []
    for step in np.diff(values).tolist():
        if steps and steps[-1][0] == step:
            steps[-1][1] += 1
        else:
            steps.append([step, 1])
    return [int(values[0]), steps]


def _of_runs(told: list[Any] | None, count: int) -> np.ndarray | None:
    if told is None:
        return None
    steps = np.array(told[1], dtype=np.int64).reshape(-1, 2)
    if steps[:, 1].sum() != count - 1 or (steps[:, 1] < 1).any():
        raise ValueError("there is not one value for each frame")
    return told[0] + np.concatenate([[0], np.cumsum(np.repeat(steps[:, 0], steps[:, 1]))])


def of_plain(fields: dict[str, Any]) -> VideoIndex:
    """What :func:`plain` has written.

    Raises:
        KeyError, TypeError, ValueError: it is not.
    """
    count, starts = fields["count"], np.array(fields["starts"], dtype=np.int64)
    pts, order = _of_runs(fields["pts"], count), _of_runs(fields["order"], count)
    jumps = None if fields["jumps"] is None else np.array(fields["jumps"], dtype=np.int64).reshape(len(starts), 4)
    sums = None if fields["sums"] is None else np.array(fields["sums"], dtype=np.int64).reshape(len(starts))
    if pts is not None and not (np.diff(pts) > 0).all():
        raise ValueError("its timestamps don't rise")
    width, height = fields["size"]
    whole = [count, width, height, fields["orientation"], fields["promised"]]
    if not all(type(value) is int for value in whole) or min(count, width, height) < 1:
        raise ValueError("its numbers are none of a video")
    if starts.ndim != 1 or not len(starts) or starts[0] != 0 or (np.diff(starts) <= 0).any() or starts[-1] >= count:
        raise ValueError("its starts are not frames of it")
    for name, kind in (("decoded", bool), ("loss", str), ("by_pyav", str)):
        if type(fields[name]) is not kind:
            raise ValueError(f"its field {name} is wrong")
    return VideoIndex(
        count,
        (width, height),
        float(fields["fps"]),
        pts,
        Fraction(*fields["time_base"]),
        starts,
        Orientation.of_code(fields["orientation"]).code,
        fields["decoded"],
        fields["promised"],
        fields["loss"],
        fields["by_pyav"],
        order,
        jumps,
        sums,
    )
