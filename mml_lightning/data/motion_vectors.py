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
from typing import Any

import numpy as np

from mml_lightning.data.decode import DecodeError

CODECS = ("h264", "mpeg4", "mpeg2video", "mpeg1video", "h263", "flv1", "msmpeg4v3", "msmpeg4v2", "wmv1", "wmv2")
ANCHORS = ("I", "P", "S")  # types of frames that others refer to; S is MPEG-4's sprite-coded P


def motion_vectors(path: Path) -> Iterator[np.ndarray]:
    """Fields float32 [H, W, 2], x then y, of all P pairs in order, turned as the file's rotation flag says.

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


def _decoded(path: Path) -> Iterator[tuple[str, np.ndarray | None, tuple[int, int], int]]:
    """(type, vectors, (H, W), quarter turns counter-clockwise) of each frame in the order of showing."""
    import av
    from av.video.frame import PictureType

    with av.open(str(path)) as container:
        stream: Any = container.streams.best("video")
        if stream is None:
            raise DecodeError(f"{path}: it has no video stream")
        codec = stream.codec_context
        if codec.name not in CODECS:
            raise DecodeError(
                f"{path}: {codec.name} has no readable motion vectors; use H.264, MPEG-4 or MPEG-2 files, or flow=dis"
            )
        codec.options = {"flags2": "+export_mvs"}
        stream.thread_type = "NONE"
        for frame in container.decode(stream):
            stored = frame.side_data.get("MOTION_VECTORS")
            vectors = None if stored is None else stored.to_ndarray()
            yield PictureType(frame.pict_type).name, vectors, (frame.height, frame.width), round(frame.rotation / 90)


def _spread(frames: Iterator[tuple[str, np.ndarray | None, tuple[int, int], int]]) -> Iterator[np.ndarray]:
    """A field per frame. B frames wait for the next anchor, which tells how far away it is."""
    waiting: list[tuple[str, np.ndarray | None, tuple[int, int], int]] = []
    for frame in frames:
        waiting.append(frame)
        if frame[0] in ANCHORS:
            yield from _fields(waiting, len(waiting))
            waiting = []
    yield from _fields(waiting, len(waiting) + 1)


def _fields(frames: list[tuple[str, np.ndarray | None, tuple[int, int], int]], distance: int) -> Iterator[np.ndarray]:
    """Fields of the frames after one anchor, the next anchor being `distance` frames after it."""
    for index, (kind, vectors, size, turns) in enumerate(frames, start=1):
        field = np.zeros((*size, 2), dtype=np.float32)
        if vectors is not None and kind != "I":
            _paint(field, vectors, past=index, future=max(1, distance - index))
        for _ in range(turns % 4):  # counter-clockwise: what went right goes up
            field = np.rot90(np.stack([field[..., 1], -field[..., 0]], axis=-1))
        yield np.ascontiguousarray(field)


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
