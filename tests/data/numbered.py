"""Videos whose frames carry their number as a pattern, in any codec and container: eight blocks, bright is 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

WIDTH, HEIGHT, RATE = 96, 64, 25


@dataclass(frozen=True)
class Made:
    """How a file is encoded and wrapped.

    Args:
        options: of the encoder; muxing: of the container.
        stamps: "even", "offset" (begins at 2 s), "uneven" (a rate that changes), "cut" (the first frames are hidden by
            an edit list).
    """

    name: str
    codec: str
    ending: str
    options: dict[str, str] = field(default_factory=dict)
    muxing: dict[str, str] = field(default_factory=dict)
    stamps: str = "even"
    format: str | None = None
    pixels: str = "yuv420p"
    frames: int = 50
    width: int = WIDTH
    height: int = HEIGHT

    def write(self, folder: Path) -> Path:
        path = folder / f"{self.name}.{self.ending}"
        content = [numbered(n, self.width, self.height) for n in range(self.frames)]
        with av.open(str(path), "w", format=self.format, options=self.muxing) as output:
            stream: Any = output.add_stream(self.codec, rate=RATE, options=self.options)
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, self.pixels
            stream.codec_context.thread_count = 1
            for number, pixels in enumerate(content):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=self.pixels)
                frame.pts, frame.time_base = self._stamp(number), Fraction(1, RATE)
                for packet in stream.encode(frame):
                    output.mux(packet)
            output.mux(stream.encode(None))
        return path

    def _stamp(self, number: int) -> int:
        if self.stamps == "uneven":
            return number if number < 20 else 20 + 5 * (number - 20)
        return number + {"offset": 2 * RATE, "cut": -7}.get(self.stamps, 0)


def numbered(n: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """RGB uint8 [H, W, 3]: a pattern that moves, with the number in the middle half of the height."""
    y, x = np.mgrid[0:height, 0:width]
    frame = np.stack([(x + 3 * n) % 64 + 60, (y + 2 * n) % 64 + 60, (x + y) % 64 + 60], axis=-1).astype(np.uint8)
    high, wide = height // 4, width // 8
    for block in range(8):
        frame[high : 3 * high, block * wide : (block + 1) * wide] = 235 if n >> (7 - block) & 1 else 20
    return frame


def number(pixels: np.ndarray) -> int:
    """The number that :func:`numbered` wrote, read inside of the blocks."""
    height, width = pixels.shape[:2]
    high, wide = height // 4, width // 8
    blocks = [
        pixels[high + high // 2 : 3 * high - high // 2, b * wide + wide // 4 : (b + 1) * wide - wide // 4]
        for b in range(8)
    ]
    return sum(int(block.mean() > 128) << (7 - b) for b, block in enumerate(blocks))


def from_the_start(path: Path) -> list[int]:
    """The referee: what PyAV shows when it decodes all, by no code of the package; damaged packets are passed over."""
    shown = []
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.thread_type = "NONE"  # what is made up for damaged parts depends on it
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            try:
                shown += [number(frame.to_ndarray(format="rgb24")) for frame in packet.decode()]
            except av.error.InvalidDataError:
                continue
    return shown


X264 = {"preset": "veryfast", "crf": "18"}
GOPS: dict[str, dict[str, str]] = {
    "closed": {"g": "12", "bf": "2"},
    "open": {"g": "12", "bf": "3", "x264-params": "open-gop=1:b-adapt=0"},
    "plain": {"g": "8", "bf": "0"},
    "short": {"g": "2", "bf": "2"},
    "intra": {"g": "1", "bf": "0"},
    "one": {"g": "250", "bf": "3"},
    "pyramid": {"g": "16", "bf": "7", "x264-params": "b-pyramid=normal:b-adapt=0:scenecut=0"},
}


def everything() -> list[Made]:
    made: list[Made] = []

    def add(codec: str, label: str, options: dict[str, str], endings: Sequence[str], **more: Any) -> None:
        for ending in endings:
            tag = "-".join(filter(None, [label, more.get("stamps", ""), more.get("format", "") or ""]))
            made.append(Made(f"{codec}-{tag}", codec, ending, options, **more))

    for gop, options in GOPS.items():
        add("libx264", gop, {**X264, **options}, ["mp4", "mkv", "mov", "avi", "ts", "flv"])
        add("libx264", f"frag-{gop}", {**X264, **options}, ["mp4"], muxing={"movflags": "frag_keyframe+empty_moov"})
        add("libx264", f"noedit-{gop}", {**X264, **options}, ["mp4"], muxing={"use_editlist": "0"})
    add(
        "libx264", "hybrid", {**X264, **GOPS["closed"]}, ["mp4"], muxing={"movflags": "hybrid_fragmented+frag_keyframe"}
    )
    for stamps in ("offset", "uneven", "cut"):
        add("libx264", "closed", {**X264, **GOPS["closed"]}, ["mp4", "mkv", "mov"], stamps=stamps)
        add("libx264", "open", {**X264, **GOPS["open"]}, ["mp4", "mkv"], stamps=stamps)
    add(
        "libx264",
        "tff",
        {**X264, **GOPS["closed"], "flags": "+ildct+ilme", "x264-params": "tff=1"},
        ["mp4", "mkv", "ts"],
    )
    add("libx264", "refresh", {**X264, "g": "12", "bf": "0", "x264-params": "intra-refresh=1"}, ["mp4", "mkv", "ts"])
    add("libx264", "raw", {**X264, **GOPS["closed"]}, ["h264"])
    hevc = {"preset": "ultrafast", "x265-params": "log-level=none:keyint=12:min-keyint=12"}
    closed = {**hevc, "x265-params": hevc["x265-params"] + ":open-gop=0"}
    add("libx265", "default", hevc, ["mp4", "mkv", "ts"])
    add("libx265", "closed", closed, ["mp4", "mkv"])
    add("libx265", "default", hevc, ["mp4"], stamps="cut")
    add("libx265", "frag", hevc, ["mp4"], muxing={"movflags": "frag_keyframe+empty_moov"})
    for bf in ("0", "2"):
        add("mpeg4", f"b{bf}", {"g": "10", "bf": bf, "b": "400k"}, ["mp4", "avi", "mkv", "mov"])
        add("mpeg2video", f"b{bf}", {"g": "10", "bf": bf, "b": "600k"}, ["mpg", "ts", "mp4", "mkv", "avi"])
        add("mpeg1video", f"b{bf}", {"g": "10", "bf": bf, "b": "600k"}, ["mpg", "mkv"])
    add("mpeg4", "b2", {"g": "10", "bf": "2", "b": "400k"}, ["mp4"], stamps="cut")
    vp = {"deadline": "realtime", "cpu-used": "8", "b": "400k"}
    add("libvpx", "plain", {**vp, "g": "12"}, ["webm", "mkv"])
    add(
        "libvpx",
        "altref",
        {"deadline": "good", "cpu-used": "5", "g": "12", "auto-alt-ref": "1", "lag-in-frames": "10", "b": "400k"},
        ["webm"],
    )
    add("libvpx-vp9", "plain", {**vp, "g": "12"}, ["webm", "mkv", "mp4"])
    add(
        "libvpx-vp9",
        "altref",
        {"deadline": "good", "cpu-used": "5", "g": "20", "auto-alt-ref": "1", "lag-in-frames": "12", "b": "400k"},
        ["webm"],
    )
    for stamps in ("offset", "uneven"):
        add("libvpx-vp9", "plain", {**vp, "g": "12"}, ["webm"], stamps=stamps)
    add("libsvtav1", "plain", {"preset": "10", "crf": "2", "g": "12", "svtav1-params": "lp=1"}, ["mp4", "mkv"])
    add("mjpeg", "intra", {"q": "3"}, ["avi", "mov", "mkv"], pixels="yuvj420p")
    add("wmv2", "plain", {"g": "10", "b": "500k"}, ["wmv", "avi"])
    add("wmv1", "plain", {"g": "10", "b": "500k"}, ["wmv"])
    add("flv", "plain", {"g": "10", "b": "500k"}, ["flv"])
    add("prores", "intra", {}, ["mov"], pixels="yuv422p10le")
    add("png", "intra", {}, ["mov", "avi"], pixels="rgb24")
    add("ffv1", "intra", {}, ["mkv", "avi"])
    add("huffyuv", "intra", {}, ["avi"], pixels="yuv422p")
    add("gif", "plain", {}, ["gif"], pixels="rgb8")
    return made
