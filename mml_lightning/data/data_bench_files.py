"""Synthetic videos with their flow in every form that `mml bench data` compares.

Legend: H height, W width.

Pictures have the spectrum of natural ones, amplitudes that fall with frequency, so that their JPEG files are about as
large as those of real videos; a patch moves over a moving ground, and the flow is theirs, with a little noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mml_lightning.data.media import ImageSequence, Media, PackedFrames
from mml_lightning.data.packs.encode import Coding, Encoded, encode_item, reduced
from mml_lightning.data.packs.layout import folder_name, packed
from mml_lightning.data.packs.shard import ShardWriter

FRAMES, FLOW = "frames", "flow"
SIZE, FPS = (427, 240), 12
BOUND = 20.0
PACKS = {
    "pack": Coding(),
    "pack, flow at full size": Coding(flow_short_side=0),
    "pack, flow as PNG": Coding(flow_quality="png"),
    "pack, short side 128": Coding(short_side=128),
}


@dataclass
class Clip:
    """One video in every form: `media`, loose images per source; `packed`, kind of pack -> frames and flow."""

    size: tuple[int, int]
    video: Path
    cache: Path
    media: dict[str, Media]
    packed: dict[str, tuple[PackedFrames, PackedFrames]] = field(default_factory=dict)


def make_clips(folder: Path, videos: int, frames: int) -> list[Clip]:
    """Videos below `folder`.

    Raises:
        OSError: a file can't be written.
    """
    clips = []
    for number in range(videos):
        pictures, flow = _scene(frames, number)
        clips.append(_loose(folder, f"{number:05d}", pictures, flow))
        for kind, coding in PACKS.items():
            clips[-1].packed[kind] = _pack(folder / kind.replace(" ", "_"), number, pictures, flow, coding)
    return clips


def synthetic_frames(frames: int, seed: int) -> list[np.ndarray]:
    """Pictures uint8 [H, W, 3] of one of the videos."""
    return list(_scene(frames, seed)[0])


def _scene(frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [frames, H, W, 3] and their flow uint8 [frames - 1, H, W, 2]."""
    rng = np.random.default_rng(seed)
    width, height = SIZE
    ground, patch = _picture(rng), _picture(rng)
    y, x = np.mgrid[0:height, 0:width]
    (dx, dy), (px, py) = rng.integers(-3, 4, 2), rng.integers(-5, 6, 2)
    pictures = np.empty((frames, height, width, 3), np.uint8)
    flow = np.empty((frames - 1, height, width, 2), np.uint8)
    for t in range(frames):
        inside = (x - width / 2 - px * (t - frames / 2)) ** 2 + (y - height / 2 - py * (t - frames / 2)) ** 2 < 60**2
        moved, over = (np.roll(image, (b * t, a * t), (0, 1)) for image, a, b in ((ground, dx, dy), (patch, px, py)))
        noise = rng.normal(0, 1, (height, width, 1))
        pictures[t] = np.clip(np.where(inside[..., None], over, moved) + noise, 0, 255)
        if t < frames - 1:
            field = np.where(inside[..., None], (px, py), (dx, dy)) + 0.3 * _noise(rng, 2)
            flow[t] = np.rint((np.clip(field, -BOUND, BOUND) + BOUND) * 255 / (2 * BOUND))
    return pictures, flow


def _picture(rng: np.random.Generator) -> np.ndarray:
    """float [H, W, 3] from 0 to 255, colours much alike."""
    grey, colour = _noise(rng, 1), _noise(rng, 3)
    return np.clip(120 + 45 * grey + 15 * colour, 0, 255)


def _noise(rng: np.random.Generator, channels: int) -> np.ndarray:
    """[H, W, channels] of standard deviation 1 with amplitudes like 1 / frequency."""
    width, height = SIZE
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = 1 / np.maximum(np.hypot(fx, fy), 1 / max(SIZE)) ** 1.5
    phases = rng.uniform(0, 2 * np.pi, (channels, height, fx.shape[1]))
    made = np.fft.irfft2(amplitude * np.exp(1j * phases), s=(height, width))
    return np.moveaxis(made / made.std(axis=(1, 2), keepdims=True), 0, -1)


def _loose(folder: Path, name: str, pictures: np.ndarray, flow: np.ndarray) -> Clip:
    """Files img_00001.jpg, flow_x_00001.jpg, flow_y_00001.jpg in a folder of their own; a VP9 video; a flow cache."""
    import cv2

    loose = folder / "loose" / name
    loose.mkdir(parents=True, exist_ok=True)
    coding = Coding()
    for number, picture in enumerate(pictures, 1):
        (loose / f"img_{number:05d}.jpg").write_bytes(encode_item(FRAMES, picture, SIZE, coding))
    for number, pair in enumerate(flow, 1):
        for axis, image in zip("xy", np.moveaxis(pair, -1, 0), strict=True):
            content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
            (loose / f"flow_{axis}_{number:05d}.jpg").write_bytes(bytes(content))
    video, cache = folder / "video" / f"{name}.webm", folder / "cache" / f"{name}.npy"
    for path in (video, cache):
        path.parent.mkdir(exist_ok=True)
    _encode(video, pictures)
    np.save(cache, flow)
    media: dict[str, Media] = {
        FRAMES: ImageSequence(loose, "img_{:05d}.jpg", len(pictures), FPS),
        FLOW: ImageSequence(loose, "flow_{axis}_{:05d}.jpg", len(flow), FPS, layout="flow_pair"),
    }
    return Clip(SIZE, video, cache, media)


def _encode(path: Path, pictures: np.ndarray) -> None:
    import av

    with av.open(str(path), "w") as output:
        options = {"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0"}
        stream: Any = output.add_stream("libvpx-vp9", rate=Fraction(FPS), options=options)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for picture in pictures:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))


def _pack(
    folder: Path, number: int, pictures: np.ndarray, flow: np.ndarray, coding: Coding
) -> tuple[PackedFrames, PackedFrames]:
    folder.mkdir(exist_ok=True)
    name = folder_name(number, f"v{number}")
    sources: dict[str, Encoded | str] = {}
    for source, items, side in ((FRAMES, pictures, coding.short_side), (FLOW, flow, coding.flow_short_side)):
        size = reduced(SIZE, side)
        images = [encode_item(source, item, size, coding) for item in items]
        sources[source] = Encoded(images, size, FPS, coding.ending(source))
    with ShardWriter(folder, 0) as shard:
        if number not in shard.done:
            shard.add(number, name, sources)
        told: Mapping[str, Any] = shard.done[number]["sources"]
        frames, pairs = (packed(shard.path, name, source, told[source]) for source in (FRAMES, FLOW))
    return frames, pairs


def measured_bytes(clips: Sequence[Clip], kinds: Sequence[str]) -> tuple[float, float]:
    """Files and bytes per video of one form."""
    sizes = [size for clip in clips for kind in kinds for size in _sizes(clip, kind)]
    whole = 1 if kinds[0].startswith("pack") else len(sizes)
    return whole / len(clips), sum(sizes) / len(clips)


def _sizes(clip: Clip, kind: str) -> Iterator[int]:
    if kind == "loose":
        yield from (path.stat().st_size for media in clip.media.values() for path in _files(media))
    elif kind in ("video", "cache"):
        yield (clip.video if kind == "video" else clip.cache).stat().st_size
    else:
        yield from (media.bytes for media in clip.packed[kind])


def _files(media: Media) -> Iterator[Path]:
    assert isinstance(media, ImageSequence)
    for index in range(media.count):
        yield from media.paths(index)
