"""Encoding of a demo video: VP9 + Opus in WebM, or H.264 + AAC in MP4; equal input gives equal bytes."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np

_RATE = 24_000
# mbtree=0: with AVX-512, libx264's macroblock tree gives bytes that differ from run to run.
_VIDEO: dict[str, tuple[str, str, dict[str, str]]] = {
    "vp9": (
        "webm",
        "libvpx-vp9",
        {"deadline": "realtime", "cpu-used": "8", "crf": "30", "b": "0", "lag-in-frames": "0", "row-mt": "0"},
    ),
    "h264": ("mp4", "libx264", {"preset": "veryfast", "crf": "24", "x264-params": "mbtree=0"}),
}
# The fastest of each encoder: with its usual search, sound took as long as rendering and encoding the pictures.
_AUDIO: dict[str, tuple[str, dict[str, str]]] = {
    "vp9": ("libopus", {"compression_level": "0"}),
    "h264": ("aac", {"aac_coder": "fast"}),
}


def encode(frames: np.ndarray, fps: int, codec: str, tone: int | None) -> bytes:
    """A video file as bytes.

    frames: uint8 [T, H, W, 3] RGB with even H and W; codec: "vp9" or "h264"; tone: pitch of the soundtrack in hertz,
    or None for a silent file without a soundtrack.
    """
    container, encoder, options = _VIDEO[codec]
    sink = io.BytesIO()
    # Bit-exact muxing leaves out dates, random ids and library versions.
    with av.open(sink, "w", format=container, options={"fflags": "+bitexact"}) as output:
        video: Any = output.add_stream(encoder, rate=fps, options=options)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        video.codec_context.flags |= av.codec.context.Flags.bitexact
        audio: Any = None
        if tone is not None:
            name, quick = _AUDIO[codec]
            audio = output.add_stream(name, rate=_RATE, layout="mono", options=quick)
            audio.codec_context.bit_rate = 32_000
            audio.codec_context.flags |= av.codec.context.Flags.bitexact
        for pixels in frames:
            output.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(video.encode(None))
        if tone is not None:
            sound = _sound(audio, tone, _RATE * len(frames) // fps)
            output.mux(audio.encode(sound))
            output.mux(audio.encode(None))
    return sink.getvalue()


def _sound(stream: Any, pitch: int, samples: int) -> av.AudioFrame:
    """A quiet triangle wave (integers only), in the sample format of the stream's encoder."""
    period = max(2, _RATE // pitch)
    ramp = np.arange(samples) % period
    wave = (np.abs(2 * ramp - period) * 6000 // period - 3000).astype(np.int16)
    planar = stream.codec_context.format.name == "fltp"
    data: np.ndarray = wave.astype(np.float32) / np.float32(32768) if planar else wave
    frame = av.AudioFrame.from_ndarray(data[None], format=stream.codec_context.format.name, layout="mono")
    frame.sample_rate = _RATE
    frame.time_base = Fraction(1, _RATE)
    frame.pts = 0
    return frame
