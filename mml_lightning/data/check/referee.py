"""What decoding from the start shows, by nothing that runs read with: no index, no jumps, turned by FFmpeg's filters.

Legend: H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from math import atan2, degrees, hypot
from pathlib import Path
from typing import Any

import numpy as np

from mml_lightning.data.video.packets import alone


@dataclass
class Shown:
    """All that a file shows: `count` frames of `size` (W, H), some of them as uint8 [H, W, 3] by their index."""

    count: int = 0
    size: tuple[int, int] = (0, 0)
    frames: dict[int, np.ndarray] = field(default_factory=dict)


def shown_from_the_start(path: Path, wanted: Collection[int]) -> Shown:
    """The frames `wanted` of a video.

    Raises:
        av.error.FFmpegError: it can't be opened.
    """
    found = Shown()
    upright: Callable[[Any], Any] | None = None
    for frame in _decoded(path):
        if upright is None:
            upright = _upright(frame)
            shown = upright(frame)
            found.size = (shown.width, shown.height)
        if found.count in wanted:
            shown = upright(frame)
            width, height = found.size
            found.frames[found.count] = shown.to_ndarray(format="rgb24", width=width, height=height, threads=1)
        found.count += 1
    return found


def _decoded(path: Path) -> Iterator[Any]:
    import av

    with av.open(str(path)) as container:
        stream: Any = container.streams.best("video")
        alone(stream)
        more = True
        while more:
            try:
                for packet in container.demux(stream):
                    more = bool(packet.size)
                    try:
                        yield from packet.decode()
                    except av.error.InvalidDataError:
                        continue
            except av.error.EOFError:
                return
            except av.error.FFmpegError:
                continue


def _upright(frame: Any) -> Callable[[Any], Any]:
    """What turns frames as FFmpeg's own programs do by default."""
    from av.filter import Graph

    stored = frame.side_data.get("DISPLAYMATRIX")
    filters = [] if stored is None else _filters(np.frombuffer(bytes(stored), dtype=np.int32).tolist())
    if not filters:
        return lambda one: one
    graphs: dict[tuple[int, int, str], Any] = {}

    def turn(one: Any) -> Any:
        key = (one.width, one.height, one.format.name)
        if key not in graphs:
            graphs[key] = graph = Graph()
            graph.threads = 1
            source = graph.add_buffer(width=key[0], height=key[1], format=one.format, time_base=one.time_base)
            graph.link_nodes(source, *(graph.add(*name) for name in filters), graph.add("buffersink")).configure()
        graphs[key].push(one)
        return graphs[key].pull()

    return turn


def _filters(m: list[int]) -> list[tuple[str, ...]]:
    """Names and arguments of the filters for a display matrix."""
    across, down = hypot(m[0], m[3]), hypot(m[1], m[4])
    if not across or not down:
        return []
    angle = round(degrees(atan2(m[1] / down, m[0] / across))) % 360
    if angle == 90:
        return [("transpose", "cclock_flip" if m[3] > 0 else "clock")]
    if angle == 270:
        return [("transpose", "clock_flip" if m[3] < 0 else "cclock")]
    mirrored = [("hflip",)] if angle == 180 and m[0] < 0 else []
    return [*mirrored, *([("vflip",)] if angle in (0, 180) and m[4] < 0 else [])]
