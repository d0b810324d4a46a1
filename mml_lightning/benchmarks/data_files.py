"""Synthetic videos with their flow in every form that `mml bench data` compares.

Legend: H height, W width.

Pictures have the spectrum of natural ones, amplitudes that fall with frequency, so that their JPEG files are about as
large as those of real videos; a patch moves over a moving ground, and the flow is theirs, with a little noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mml_lightning.data.packs.encode import Coding, Encoded, encode_item, reduced
from mml_lightning.data.packs.shard import ShardWriter
from mml_lightning.data.video.media import ImageSequence, Media, PackedFrames
from mml_lightning.data.video.pack_format import folder_name, packed

SOURCES = FRAMES, FLOW = "frames", "flow"
SIZE, FPS = (427, 240), 12
BOUND = 20.0
VP9 = {"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0"}  # options of its encoder
PACKS = {
    "pack": Coding(),
    "pack, flow at full size": Coding(flow_short_side=0),
    "pack, flow as PNG": Coding(flow_quality="png"),
    "pack, short side 128": Coding(short_side=128),
}


@dataclass
class Clip:
    """One video in every form: `media`, loose images per source; `packed`, per source of each kind of pack."""

    size: tuple[int, int]
    video: Path
    cache: Path
    media: dict[str, Media]
    packed: dict[str, dict[str, PackedFrames]] = field(default_factory=dict)


def make_clips(
    folder: Path, videos: int, frames: int, size: tuple[int, int] = SIZE, sources: Sequence[str] = SOURCES
) -> list[Clip]:
    """Videos of `size` (W, H) below `folder`, their `sources` in every form.

    Raises:
        OSError: a file can't be written.
    """
    clips = []
    for number in range(videos):
        items = _scene(frames, number, size, FLOW in sources)
        clips.append(_loose(folder, f"{number:05d}", items))
        for kind, coding in kinds_of_packs(sources).items():
            clips[-1].packed[kind] = _pack(folder / kind.replace(" ", "_"), number, items, coding)
    return clips


def kinds_of_packs(sources: Sequence[str]) -> dict[str, Coding]:
    """Those that differ in what they hold of `sources`."""
    return {kind: coding for kind, coding in PACKS.items() if FLOW in sources or FLOW not in kind}


def synthetic_frames(frames: int, seed: int) -> list[np.ndarray]:
    """Pictures uint8 [H, W, 3] of one of the videos."""
    return list(_scene(frames, seed, SIZE, False)[FRAMES])


def _scene(frames: int, seed: int, size: tuple[int, int], with_flow: bool) -> dict[str, np.ndarray]:
    """Pictures uint8 [frames, H, W, 3] and their flow uint8 [frames - 1, H, W, 2]."""
    rng = np.random.default_rng(seed)
    width, height = size
    ground, patch = _picture(rng, size), _picture(rng, size)
    y, x = np.mgrid[0:height, 0:width]
    (dx, dy), (px, py) = rng.integers(-3, 4, 2), rng.integers(-5, 6, 2)
    pictures = np.empty((frames, height, width, 3), np.uint8)
    flow = np.empty((frames - 1, height, width, 2) if with_flow else 0, np.uint8)
    for t in range(frames):
        inside = (x - width / 2 - px * (t - frames / 2)) ** 2 + (y - height / 2 - py * (t - frames / 2)) ** 2 < 60**2
        moved, over = (np.roll(image, (b * t, a * t), (0, 1)) for image, a, b in ((ground, dx, dy), (patch, px, py)))
        noise = rng.normal(0, 1, (height, width, 1))
        pictures[t] = np.clip(np.where(inside[..., None], over, moved) + noise, 0, 255)
        if with_flow and t < frames - 1:
            field = np.where(inside[..., None], (px, py), (dx, dy)) + 0.3 * _noise(rng, 2, size)
            flow[t] = np.rint((np.clip(field, -BOUND, BOUND) + BOUND) * 255 / (2 * BOUND))
    return {FRAMES: pictures, FLOW: flow} if with_flow else {FRAMES: pictures}


def _picture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """float [H, W, 3] from 0 to 255, colours much alike."""
    grey, colour = _noise(rng, 1, size), _noise(rng, 3, size)
    return np.clip(120 + 45 * grey + 15 * colour, 0, 255)


def _noise(rng: np.random.Generator, channels: int, size: tuple[int, int]) -> np.ndarray:
    """[H, W, channels] of standard deviation 1 with amplitudes like 1 / frequency."""
    width, height = size
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = 1 / np.maximum(np.hypot(fx, fy), 1 / max(size)) ** 1.5
    phases = rng.uniform(0, 2 * np.pi, (channels, height, fx.shape[1]))
    made = np.fft.irfft2(amplitude * np.exp(1j * phases), s=(height, width))
    return np.moveaxis(made / made.std(axis=(1, 2), keepdims=True), 0, -1)


def _loose(folder: Path, name: str, items: Mapping[str, np.ndarray]) -> Clip:
    """Files img_00001.jpg, flow_x_00001.jpg, flow_y_00001.jpg in a folder of their own; a VP9 video; a flow cache."""
    import cv2

    loose = folder / "loose" / name
    loose.mkdir(parents=True, exist_ok=True)
    coding, pictures = Coding(), items[FRAMES]
    height, width = pictures.shape[1:3]
    for number, picture in enumerate(pictures, 1):
        (loose / f"img_{number:05d}.jpg").write_bytes(encode_item(FRAMES, picture, (width, height), coding))
    for number, pair in enumerate(items.get(FLOW, ()), 1):
        for axis, image in zip("xy", np.moveaxis(pair, -1, 0), strict=True):
            content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
            (loose / f"flow_{axis}_{number:05d}.jpg").write_bytes(bytes(content))
    video, cache = folder / "video" / f"{name}.webm", folder / "cache" / f"{name}.npy"
    for path in (video, cache):
        path.parent.mkdir(exist_ok=True)
    write_video(video, list(pictures), "libvpx-vp9", FPS, VP9)
    media: dict[str, Media] = {FRAMES: ImageSequence(loose, "img_{:05d}.jpg", len(pictures), FPS)}
    if FLOW in items:
        np.save(cache, items[FLOW])
        count = len(items[FLOW])
        media[FLOW] = ImageSequence(loose, "flow_{axis}_{:05d}.jpg", count, FPS, layout="flow_pair")
    return Clip((width, height), video, cache, media)


def write_video(
    path: Path, pictures: Sequence[np.ndarray], encoder: str, fps: int, options: dict[str, str] | None = None
) -> None:
    """Pictures uint8 [H, W, 3], one or more, as a video file."""
    import av

    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(encoder, rate=fps, options=options)
        (stream.height, stream.width), stream.pix_fmt = pictures[0].shape[:2], "yuv420p"
        for picture in pictures:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))


def _pack(folder: Path, number: int, items: Mapping[str, np.ndarray], coding: Coding) -> dict[str, PackedFrames]:
    folder.mkdir(exist_ok=True)
    name = folder_name(number, f"v{number}")
    sources: dict[str, Encoded | str] = {}
    for source, side in ((FRAMES, coding.short_side), (FLOW, coding.flow_short_side)):
        if source not in items:
            continue
        size = reduced(items[source].shape[2:0:-1], side)
        images = [encode_item(source, item, size, coding) for item in items[source]]
        sources[source] = Encoded(images, size, FPS, coding.ending(source))
    with ShardWriter(folder, 0) as shard:
        if number not in shard.done:
            shard.add(number, name, sources)
        told: Mapping[str, Any] = shard.done[number]["sources"]
        return {source: packed(shard.path, name, source, told[source]) for source in sources}


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
        yield from (media.bytes for media in clip.packed[kind].values())


def _files(media: Media) -> Iterator[Path]:
    assert isinstance(media, ImageSequence)
    for index in range(media.count):
        yield from media.paths(index)
