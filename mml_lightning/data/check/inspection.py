"""What one video, or one folder of images, is like. PyAV, which decodes in order, is the referee of decord."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mml_lightning.data.check.findings import UNREADABLE, Finding, state
from mml_lightning.data.check.hashes import hash_frames
from mml_lightning.data.clock import length, unevenness
from mml_lightning.data.decode import DECODERS, DecodeError, installed, open_video
from mml_lightning.data.images import open_media
from mml_lightning.data.media import ImageSequence, Media, PackedFrames
from mml_lightning.data.records import FrameSpan, Record

LEVELS = 3.0  # mean absolute difference of a frame, in levels of 0..255, above which decord's is wrong
CLEARER = 0.5  # levels by which a neighbour must fit better to show that decord counts frames differently


@dataclass(frozen=True)
class View:
    """What one reader sees: `frames` {index: uint8 [H, W, 3]} at the sampled indices and their neighbours."""

    count: int
    size: tuple[int, int]
    fps: float
    sampled: Sequence[int]
    frames: Mapping[int, np.ndarray]
    seconds: float = 0.0
    uneven: float = 0.0


def inspect(media: Media, samples: int = 4) -> Finding:
    """Read `samples` frames of `media`, spread from the first to the last; of a video with both readers."""
    return _inspect_video(media, samples) if isinstance(media, Path) else _inspect_images(media, samples)


def _inspect_video(path: Path, samples: int) -> Finding:
    views: dict[str, View] = {}
    errors: dict[str, str] = {}
    for decoder in DECODERS:
        if installed(decoder):
            try:
                views[decoder] = _view(path, decoder, samples)
            except DecodeError as error:
                errors[decoder] = str(error)
    difference, decoder, problem = judge(views, errors)
    seen = views.get("pyav") or views.get("decord")
    width, height = seen.size if seen else (0, 0)
    return Finding(
        path=str(path),
        state=state(path),
        bytes=file_bytes(path),
        width=width,
        height=height,
        fps=round(seen.fps, 3) if seen else 0.0,
        frames_decord=views["decord"].count if "decord" in views else None,
        frames_pyav=views["pyav"].count if "pyav" in views else None,
        difference=difference,
        decoder=decoder,
        problem=problem,
        hashes=hash_frames([seen.frames[i] for i in seen.sampled]) if seen else "",
        seconds=round(seen.seconds, 6) if seen else 0.0,
        uneven=round(seen.uneven, 6) if seen else 0.0,
    )


def _inspect_images(images: ImageSequence | PackedFrames, samples: int) -> Finding:
    """Every listed image of a folder is looked for, `samples` items are read."""
    found = {"path": str(images), "state": state(images), "listed": images.count, "fps": images.fps}
    present, first_missing, further = (
        _count_images(images) if isinstance(images, ImageSequence) else (images.count, None, 0)
    )
    if first_missing is not None and isinstance(images, ImageSequence):
        what = "no such folder" if not images.folder.is_dir() else f"no {first_missing.name}"
        problem = f"{images.folder}: {images.count - present} of {images.count} listed items are missing ({what})"
        return Finding(**found, images=present, decoder=UNREADABLE, problem=problem)  # type: ignore[arg-type]
    try:
        with open_media(images) as reader:
            sampled = _spread(reader.count, samples)
            frames, (width, height) = reader.frames(sampled), reader.size
            seconds, uneven = length(reader), unevenness(reader)
    except DecodeError as error:
        return Finding(**found, images=present, decoder=UNREADABLE, problem=str(error))  # type: ignore[arg-type]
    return Finding(
        **found,  # type: ignore[arg-type]
        images=present,
        width=width,
        height=height,
        problem=f"{images.folder}: {images.count} items are listed, {further} more are there" if further else "",
        hashes=hash_frames(list(frames)) if images.layout == "rgb" else "",
        seconds=round(seconds, 6),
        uneven=round(uneven, 6),
    )


def _count_images(images: ImageSequence) -> tuple[int, Path | None, int]:
    """How many listed items are there, the first missing image, and how many more follow the last listed one."""
    names: dict[Path, set[str]] = {}

    def there(path: Path) -> bool:
        if path.parent not in names:
            names[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
        return path.name in names[path.parent]

    present, missing, further = 0, None, 0
    for index in range(images.count):
        absent = next((path for path in images.paths(index) if not there(path)), None)
        present += absent is None
        missing = missing or absent
    while missing is None and all(there(path) for path in images.paths(images.count + further)):
        further += 1
    return present, missing, further


def of_record(seen: Finding, split: str, record: Record, source: str) -> Finding:
    """The finding of `record`, whose media is the one `seen`: its span must lie in it."""
    own = {"split": split, "id": record.id, "source": source}
    problem = _span_problem(seen, record) if source == "frames" and seen.usable else ""
    changed = {"decoder": UNREADABLE, "problem": problem} if problem else {}
    return Finding(**{**vars(seen), **own, **changed})


def _span_problem(seen: Finding, record: Record) -> str:
    if record.span is None:
        return ""
    starts = record.span[0]
    if isinstance(record.span, FrameSpan):
        behind = f"{seen.path}: the part starts at frame {starts} (from 0), the video has {seen.frames}"
        return behind if starts >= seen.frames else ""
    if seen.lasts <= 0:
        return f"{seen.path}: unknown frame rate, its span can't be placed"
    behind = f"{seen.path}: the span starts at {starts:g} s, the video ends at {seen.lasts:.2f} s"
    return behind if starts >= seen.lasts else ""


def _spread(count: int, samples: int) -> list[int]:
    """`samples` indices from the first to the last, fewer of a shorter video."""
    return np.unique(np.linspace(0, count - 1, samples).astype(np.int64)).tolist()


def _view(path: Path, decoder: str, samples: int) -> View:
    with open_video(path, decoder) as reader:
        sampled = _spread(reader.count, samples)
        # the neighbours of the referee's frames tell a misplaced frame from another rounding of colours
        wanted = {i + step for i in sampled for step in ((-1, 0, 1) if decoder == "pyav" else (0,))}
        indices = sorted(wanted & set(range(reader.count)))
        frames = dict(zip(indices, reader.frames(indices), strict=True))
        return View(reader.count, reader.size, reader.fps, sampled, frames, length(reader), unevenness(reader))


def judge(views: Mapping[str, View], errors: Mapping[str, str]) -> tuple[float | None, str, str]:
    """(difference, decoder, problem) of :class:`Finding`."""
    if errors:
        return None, next(iter(views), UNREADABLE), errors.get("pyav") or errors["decord"]
    if len(views) < 2:
        return None, "", ""
    decord, referee = views["decord"], views["pyav"]
    if decord.count != referee.count:
        return None, "pyav", f"decord counts {decord.count} frames, {referee.count} decode"
    if decord.size != referee.size:
        return None, "pyav", f"decord gives frames of {decord.size}, PyAV of {referee.size}"
    apart = {i: _apart(decord.frames[i], referee.frames[i]) for i in referee.sampled}
    worst = max(apart, key=lambda i: apart[i])
    difference = round(apart[worst], 2)
    if apart[worst] > LEVELS:
        return difference, "pyav", f"decord's frame {worst} differs by {difference} levels"
    for i in referee.sampled:
        for near in (i - 1, i + 1):
            fits = near in referee.frames and _apart(decord.frames[i], referee.frames[near]) < apart[i] - CLEARER
            if fits:
                return difference, "pyav", f"decord's frame {i} is frame {near}"
    return difference, "", ""


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.int16) - b).mean())


def file_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
