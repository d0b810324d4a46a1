"""The sound of a video as it was encoded: its packets in a Matroska file, none decoded, none encoded again."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mml_lightning.data.packs.encode import Encoded
from mml_lightning.data.video.decode import DecodeError, NoSource
from mml_lightning.data.video.media import Media, PackedFrames
from mml_lightning.data.video.sound import PACKED, packed_sound


def encoded_sound(media: Media) -> Encoded:
    """The best audio stream of a video file, or the sound of a pack, as it is. Equal files give equal bytes.

    `start` is the time of its first packet, in seconds after the first frame: negative where an encoder leads in. The
    clock of the Matroska file is another.

    Raises:
        NoSource: there is no sound: images, or a video without an audio stream.
        DecodeError: it can't be read, or its codec has no place in Matroska.
    """
    if isinstance(media, PackedFrames) and media.source == PACKED:
        return Encoded([packed_sound(media)], (0, 0), 0.0, media.coding, media.start)
    if not isinstance(media, Path):
        raise NoSource(f"{media}: images have no sound")
    import av

    out = io.BytesIO()
    try:
        with av.open(str(media)) as source:
            audio, video = source.streams.best("audio"), source.streams.best("video")
            if audio is None:
                raise NoSource(f"{media}: it has no audio stream")
            first = _copy(audio, out)
            start = first - (_seconds(video, video.start_time or 0) if video is not None else first)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise DecodeError(f"{media}: its sound can't be copied: {error}") from None
    return Encoded([out.getvalue()], (0, 0), 0.0, "mka", round(start, 6))


def _copy(audio: Any, out: io.BytesIO) -> float:
    """Write the packets of a stream to `out`; returns the time of the first, in seconds of the source."""
    import av

    # without `bitexact` every file gets a random number and the name of its library
    with av.open(out, "w", format="matroska", options={"fflags": "+bitexact"}) as target:
        stream = target.add_stream_from_template(audio)
        first: float | None = None
        for packet in _packets(audio):
            if first is None:
                first = _seconds(packet, packet.dts if packet.pts is None else packet.pts)
            packet.stream = stream
            target.mux(packet)
    if first is None:
        raise ValueError("its audio stream is empty")
    return first


def _seconds(clock: Any, ticks: int) -> float:
    return float(ticks * clock.time_base)


def _packets(audio: Any) -> Iterator[Any]:
    return (packet for packet in audio.container.demux(audio) if packet.size and packet.dts is not None)
