"""The motion that a codec wrote into the file, as a dense field: flow at the price of decoding.

Legend: P pairs of neighbouring frames, H height, W width.

A block of frame n names where its content came from in an earlier frame, or (B frames) where it goes in a later one.
Codecs don't tell which frame that is, so it is taken to be the nearest anchor (I or P) in its direction: exact for one
reference frame without a B pyramid, as in MPEG-4 part 2. Vectors are divided by that distance, which makes them pixels
per frame, and averaged where a block has both. Intra blocks, and so whole I frames, are zero. The field of the pair
(n - 1, n) lies on the blocks of frame n. Codecs seek what is cheap to store, not what moved: this is coarse flow.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mml_lightning.data.video.decode import DecodeError
from mml_lightning.data.video.orientation import Orientation, orientation_of
from mml_lightning.data.video.packets import Damage, opened, pictures

CODECS = ("h264", "mpeg4", "mpeg2video", "mpeg1video", "h263", "flv1", "msmpeg4v3", "msmpeg4v2", "wmv1", "wmv2")
ANCHORS = ("I", "P", "S")  # types of frames that others refer to; S is MPEG-4's sprite-coded P


def motion_vectors(path: Path) -> Iterator[np.ndarray]:
    """Fields float32 [H, W, 2], x then y, of all P pairs in order, as the file's display matrix shows the picture.

    Raises:
        DecodeError: the file can't be read, or its codec keeps its vectors to itself.
    """
    import av

    if not path.is_file():
        raise DecodeError(f"{path}: no such file")
    try:
        for index, field in enumerate(_spread(_decoded(path))):
            if index:
                yield field
    except av.error.FFmpegError as error:
        raise DecodeError(f"{path}: {error.strerror} (pyav)") from None
    except ValueError as error:
        raise DecodeError(f"{path}: {error} (pyav)") from None


class _Coded(NamedTuple):
    """Type, vectors, (H, W) as stored, and how it is shown, of one frame."""

    kind: str
    vectors: np.ndarray | None
    size: tuple[int, int]
    shown: Orientation


def _decoded(path: Path) -> Iterator[_Coded]:
    """All frames in the order of showing, those that the readers count."""
    from av.video.frame import PictureType

    with opened(path) as (container, stream):
        codec = stream.codec_context
        if codec.name not in CODECS:
            raise DecodeError(
                f"{path}: {codec.name} has no readable motion vectors; use H.264, MPEG-4 or MPEG-2 files, or flow=dis"
            )
        codec.options = {"flags2": "+export_mvs"}
        first: _Coded | None = None
        for frame in pictures(container, stream, Damage()):
            stored = frame.side_data.get("MOTION_VECTORS")
            vectors = None if stored is None else stored.to_ndarray()
            shown = orientation_of(frame) if first is None else first.shown
            coded = _Coded(PictureType(frame.pict_type).name, vectors, (frame.height, frame.width), shown)
            first = first or coded
            if coded.size != first.size:
                raise ValueError("its frame size changes, which motion vectors don't support; use flow=dis")
            yield coded


def _spread(frames: Iterator[_Coded]) -> Iterator[np.ndarray]:
    """A field per frame. B frames wait for the next anchor, which tells how far away it is."""
    waiting: list[_Coded] = []
    for frame in frames:
        waiting.append(frame)
        if frame.kind in ANCHORS:
            yield from _fields(waiting, len(waiting))
            waiting = []
    yield from _fields(waiting, len(waiting) + 1)


def _fields(frames: list[_Coded], distance: int) -> Iterator[np.ndarray]:
    """Fields of the frames after one anchor, the next anchor being `distance` frames after it."""
    for index, (kind, vectors, size, shown) in enumerate(frames, start=1):
        field = np.zeros((*size, 2), dtype=np.float32)
        if vectors is not None and kind != "I":
            _paint(field, vectors, past=index, future=max(1, distance - index))
        yield shown.apply_to_motion(field)


def _paint(field: np.ndarray, vectors: np.ndarray, past: int, future: int) -> None:
    """Write the blocks of `vectors` into `field` [H, W, 2] in pixels per frame; the mean where blocks overlap."""
    covered = np.zeros(field.shape[:2], dtype=np.float32)
    scale = np.maximum(vectors["motion_scale"], 1).astype(np.float32)
    # the vector points to the source: against the motion where that is earlier, along it where it is later
    time = np.where(vectors["source"] < 0, -past, future) * scale
    motion = np.stack([vectors["motion_x"], vectors["motion_y"]], axis=-1) / time[:, None]
    width, height = (vectors[name].astype(int) for name in ("w", "h"))
    left, top = vectors["dst_x"].astype(int) - width // 2, vectors["dst_y"].astype(int) - height // 2
    right, bottom = left + width, top + height
    for block in range(len(vectors)):
        rows = slice(max(0, top[block]), max(0, bottom[block]))
        columns = slice(max(0, left[block]), max(0, right[block]))
        field[rows, columns] += motion[block]
        covered[rows, columns] += 1
    field /= np.maximum(covered, 1)[..., None]
