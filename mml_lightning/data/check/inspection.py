"""What one video, or one folder of images, is like. Decoding from the start is the referee of what runs read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mml_lightning.data.check.findings import UNREADABLE, Finding, state
from mml_lightning.data.check.hashes import hash_frames
from mml_lightning.data.check.referee import shown_from_the_start
from mml_lightning.data.records.clock import length, unevenness
from mml_lightning.data.records.records import FrameSpan, Record
from mml_lightning.data.video.decode import DECODERS, IN_MEMORY, DecodeError, installed, open_video
from mml_lightning.data.video.images import open_media
from mml_lightning.data.video.index_store import IndexStore
from mml_lightning.data.video.media import ImageSequence, Media, PackedFrames
from mml_lightning.data.video.video_index import VideoIndex

LEVELS = 3.0  # mean absolute difference of a frame, in levels of 0..255, above which it is wrong
CLEARER = 0.5  # levels by which a neighbour must fit better to show that decord counts frames differently


@dataclass(frozen=True)
class View:
    """What one reader sees: `frames` {index: uint8 [H, W, 3]}, those `sampled` and others; `loss`: see the index."""

    count: int
    size: tuple[int, int]
    fps: float
    sampled: Sequence[int]
    frames: Mapping[int, np.ndarray]
    loss: str = ""
    seconds: float = 0.0
    uneven: float = 0.0


def inspect(media: Media, samples: int = 4, indexes: IndexStore = IN_MEMORY) -> Finding:
    """Read `samples` frames of `media`, spread from the first to the last; of a video with both readers."""
    return _inspect_video(media, samples, indexes) if isinstance(media, Path) else _inspect_images(media, samples)


def _inspect_video(path: Path, samples: int, indexes: IndexStore) -> Finding:
    """Decoded from the start for the index that runs use, then once more by the referee that has none of their code."""
    views: dict[str, View] = {}
    errors: dict[str, str] = {}
    for decoder in DECODERS:
        if installed(decoder):
            try:
                views[decoder] = _view(path, decoder, samples, indexes)
            except DecodeError as error:
                errors[decoder] = str(error)
    difference, decoder, problem = None, UNREADABLE, errors.get("pyav") or errors.get("decord", "")
    seen = views.get("pyav") or views.get("decord")
    if seen is not None:
        difference, decoder, problem = judge(views, errors, _referee(path, seen))
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
        problem=problem or (seen.loss and f"{path}: {seen.loss}" if seen else ""),
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
        problem=f"{images.folder}: {images.count} items are listed, {further} more exist" if further else "",
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
        return f"{seen.path}: unknown frame rate, its time span can't be located"
    behind = f"{seen.path}: the span starts at {starts:g} s, the video ends at {seen.lasts:.2f} s"
    return behind if starts >= seen.lasts else ""


def _spread(count: int, samples: int) -> list[int]:
    """`samples` indices from the first to the last, fewer of a shorter video."""
    return np.unique(np.linspace(0, count - 1, samples).astype(np.int64)).tolist()


def _view(path: Path, decoder: str, samples: int, indexes: IndexStore) -> View:
    """What runs see: frames spread over the video, and those around the places where decoding may begin, each asked for
    alone and the last one first, so that all but a few are jumps."""
    with open_video(path, decoder, indexes, decode=True) as reader:
        index: VideoIndex = reader.index  # type: ignore[attr-defined]
        sampled = _spread(reader.count, samples)
        starts = index.starts[_spread(len(index.starts), samples)]
        around = {int(start) + step for start in starts for step in (-1, 0, 1)} & set(range(reader.count))
        frames = {i: reader.frames([i])[0] for i in sorted({*sampled, *around}, reverse=True)}
        told = index.loss, length(reader), unevenness(reader)
        return View(reader.count, reader.size, reader.fps, sampled, frames, *told)


def _referee(path: Path, seen: View) -> View:
    """The same frames, and their neighbours, as decoding from the start shows them.

    The neighbours tell a misplaced frame from another rounding of colours.
    """
    found = shown_from_the_start(path, {i + step for i in seen.frames for step in (-1, 0, 1)})
    return View(found.count, found.size, seen.fps, seen.sampled, found.frames)


def judge(views: Mapping[str, View], errors: Mapping[str, str], referee: View) -> tuple[float | None, str, str]:
    """(difference, decoder, problem) of :class:`Finding`: the readers against the referee."""
    wrong = {name: _wrong(name, view, referee) for name, view in views.items()}
    good = [name for name, (_, problem) in wrong.items() if not problem]
    said = [*errors.values(), *(problem for _, problem in wrong.values() if problem)]
    differences = [difference for difference, _ in wrong.values() if difference is not None]
    difference = max(differences) if differences else None
    if not said:
        return difference, "", ""
    return difference, good[0] if good else UNREADABLE, said[0]


def _wrong(name: str, view: View, referee: View) -> tuple[float | None, str]:
    """(largest difference in levels, what is wrong with a reader or "")."""
    if view.count != referee.count:
        return None, f"data.decoder={name} counts {view.count} frames, {referee.count} decode"
    other = {view.size, *(frame.shape[1::-1] for frame in view.frames.values())} - {referee.size}
    if other:
        return None, f"data.decoder={name} gives frames of {other.pop()}, a player of {referee.size}"
    apart = {i: _apart(frame, referee.frames[i]) for i, frame in view.frames.items()}
    worst = max(apart, key=lambda i: apart[i])
    difference = round(apart[worst], 2)
    if apart[worst] > LEVELS:
        return difference, f"data.decoder={name}: frame {worst} differs by {difference} levels"
    for i, frame in view.frames.items():
        for near in (i - 1, i + 1):
            if near in referee.frames and _apart(frame, referee.frames[near]) < apart[i] - CLEARER:
                return difference, f"data.decoder={name}: frame {i} is frame {near}"
    return difference, ""


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.int16) - b).mean())


def file_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
