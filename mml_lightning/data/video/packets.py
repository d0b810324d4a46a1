"""Packets and pictures of a video file by PyAV, past what is damaged.

Legend: T pictures shown, P packets of the video stream. Timestamps are whole numbers of the stream's time base.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mml_lightning.data.video.coded import Coded, Look, look_into

MOST_PIXELS = 2**26  # of a frame, 8192 x 8192: a header may claim any size, and the memory is taken before one is seen
MOST_GAPS = 64  # damaged places of a container that are stepped over, after which the rest is given up


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """(container, video stream) of PyAV.

    Raises:
        ValueError: there is no video stream, or its frames are too large.
        av.error.FFmpegError: it is no video file.
    """
    import av

    with av.open(str(path)) as container:
        stream: Any = container.streams.best("video")
        if stream is None:
            raise ValueError("it has no video stream")
        coded = stream.codec_context
        if coded.width * coded.height > MOST_PIXELS:
            raise ValueError(f"its frames are {coded.width}x{coded.height}, too large to be read")
        alone(stream)
        yield container, stream


def alone(stream: Any) -> None:
    """Decode without threads: what a fork copies of an object that has some waits for them for ever, or crashes, where
    it is freed. Scaling has threads of its own by default: give each `reformat` and `to_ndarray` `threads=1`."""
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1  # decoders of other libraries heed no type


@dataclass
class Damage:
    """What could not be used: `packets` that don't decode, `gaps` where the container itself is broken."""

    packets: int = 0
    gaps: int = 0


def packets(container: Any, stream: Any, damage: Damage) -> Iterator[Any]:
    """All packets of the stream from where the container stands, the empty one that flushes the decoder last."""
    import av

    while True:
        try:
            yield from container.demux(stream)
            return
        except av.error.FFmpegError as error:
            _raise_if_ours(error)
            damage.gaps += 1
        if damage.gaps > MOST_GAPS:
            return


def pictures(container: Any, stream: Any, damage: Damage, begin: Callable[[Any], bool] | None = None) -> Iterator[Any]:
    """All frames in the order shown: a damaged packet costs what was in it.

    Args:
        begin: `opaque` of a frame is to be the number of its packet, counted from the first one for which this is true;
            only in decoders without threads of their own, which would wait for Python's lock for ever.
    """
    import av

    flushed, number = False, -1
    if begin is not None:
        stream.codec_context.copy_opaque = True
    for packet in packets(container, stream, damage):
        flushed = not packet.size
        if begin is not None and not flushed:
            if number < 0 and not begin(packet):
                continue
            packet.opaque = number = number + 1
        try:
            yield from stream.codec_context.decode(None if flushed else packet)
        except av.error.FFmpegError as error:
            _raise_if_ours(error)
            damage.packets += 1
    if not flushed:
        yield from stream.codec_context.decode(None)


def luminance_sum(frame: Any) -> int:
    """Check sum of what a frame shows, without its colours."""
    return zlib.crc32(frame.to_ndarray(format="gray", threads=1).tobytes())


def _raise_if_ours(error: Exception) -> None:
    if isinstance(error, MemoryError):
        raise error


@dataclass
class Seen:
    """A file as its packets tell.

    Args:
        format: names of the container's reader in libavformat; codec: of the decoder, AV1 always as "av1".
        stated: pictures that the container's table counts; 0 where it has none, as in fragmented files.
        listed: pictures that it should have given: the same without what an edit list drops, with those of fragments.
        seconds: how long the pictures last by the container; 0 where it does not say, or only guesses.
        first: the first frame that decodes; None where none of the first packets gives one.
        looked: what each packet says of itself; empty where nothing here can read the codec.
        pts, dts, keys, places: of each packet; keys by the container, places as (offset in the file, size, sum).
        whole: the file is as long as it says, if it says so.
        videos: streams of pictures that the file has.
        odd: packets that are to be left out, are marked damaged or bring a new description of the stream.
    """

    format: str
    codec: str
    fps: float
    time_base: Any
    stated: int
    progressive: bool
    seconds: float
    first: Any = None
    looked: list[Coded] = field(default_factory=list)
    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    keys: list[bool] = field(default_factory=list)
    places: list[tuple[int, int, int]] = field(default_factory=list)
    odd: list[int] = field(default_factory=list)
    left_out: int = 0
    whole: bool = True
    videos: int = 1
    listed: int = 0
    damage: Damage = field(default_factory=Damage)

    @property
    def packets(self) -> int:
        return len(self.pts)


def look_at(path: Path) -> Seen:
    """Every packet of `path`; the first few are decoded, for one frame.

    Raises:
        as :func:`opened`.
    """
    with opened(path) as (container, stream):
        coded = stream.codec_context
        name = {"libdav1d": "av1", "libaom-av1": "av1"}.get(coded.name, coded.name)
        look = look_into(name, bytes(coded.extradata or b""), coded.codec.intra_only)
        seen = Seen(
            container.format.name,
            name,
            float(stream.average_rate or stream.base_rate or 0.0),
            stream.time_base,
            stream.frames,
            coded.field_order == 1 or name != "h264",
            _seconds(container, stream),
            videos=len(container.streams.video),
        )
        if container.format.name == "avi":
            seen.whole = _riff_bytes(container.name) == os.path.getsize(container.name)
        for packet in packets(container, stream, seen.damage):
            _note(seen, packet, look)
            if seen.first is None:
                seen.first = _first(coded, packet)
        if container.format.name.startswith("mov") and stream.index_entries is not None:
            seen.listed = len(stream.index_entries)
        return seen


def _note(seen: Seen, packet: Any, look: Look | None) -> None:
    if not packet.size:
        return
    if packet.is_discard or packet.is_corrupt or packet.has_sidedata("new_extradata"):
        seen.odd.append(seen.packets)
    seen.left_out += packet.is_discard
    seen.pts.append(packet.pts)
    seen.dts.append(packet.dts)
    seen.keys.append(bool(packet.is_keyframe))
    content = bytes(packet)
    seen.places.append((-1 if packet.pos is None else packet.pos, packet.size, zlib.crc32(content)))
    if look is not None:
        seen.looked.append(look(content))


def _first(coded: Any, packet: Any) -> Any:
    import av

    try:
        return next(iter(coded.decode(packet if packet.size else None)), None)
    except av.error.FFmpegError as error:
        _raise_if_ours(error)
        return None


def _seconds(container: Any, stream: Any) -> float:
    told = stream.metadata.get("DURATION", "")
    if told.count(":") == 2:
        hours, minutes, seconds = told.split(":")
        try:
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
        except ValueError:
            return 0.0
    family = container.format.name.split(",")[0]
    if family == "avi" and _riff_bytes(container.name) > os.path.getsize(container.name):
        return float((stream.duration or 0) * stream.time_base)
    alone = len(container.streams) == 1 and family in ("matroska", "flv", "asf")
    return container.duration / 1e6 if alone and container.duration else 0.0


def _riff_bytes(path: str) -> int:
    """Size of an AVI file by its own word."""
    with open(path, "rb") as handle:
        return int.from_bytes(handle.read(8)[4:], "little") + 8
