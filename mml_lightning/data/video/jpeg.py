"""Rectangles of a JPEG file, cut out before it is decoded: a crop needs less than half of a wide picture.

A restart marker ends a run of blocks that can be decoded without those before it (ITU-T T.81, E.2.4). Where a whole
number of runs makes a row of blocks, the blocks of a rectangle are runs of bytes: behind the header of a smaller
picture they are a JPEG file again. Any decoder makes the pixels of it that it makes of the whole, but for the outermost
two at a cut, where it would have looked at the colours of neighbours.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

from mml_lightning.transforms import Box

BLOCK = 16  # pixels of a coded unit, with colours at half the resolution
LONGEST = 4  # units between two markers: 64 pixels, so that a cut fits closely
MARGIN = 2  # pixels around a rectangle that its own colours depend on
RESTART = re.compile(rb"\xff[\xd0-\xd7]")
MARKERS = [bytes([0xFF, 0xD0 + number]) for number in range(8)]
END = b"\xff\xd9"
BASELINE, SCAN, INTERVAL = 0xC0, 0xDA, 0xDD
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers before a size; those three are tables


class Cut(NamedTuple):
    """An image file of `size` (W, H), and the pixel (x, y) of the whole picture that is its first."""

    content: bytes
    x: int
    y: int
    size: tuple[int, int]


class _Frame(NamedTuple):
    """Where the size stands in a file and its coded pixels begin; sizes of the picture and of a unit; the interval."""

    size_at: int
    start: int
    width: int
    height: int
    unit: tuple[int, int]
    interval: int


def restart_interval(width: int) -> int:
    """Units between the markers of a picture `width` pixels wide: as many as fit a whole number of times into a row."""
    units = -(-width // BLOCK)
    return next(length for length in range(LONGEST, 0, -1) if units % length == 0)


def cut(content: bytes, box: Box, size: tuple[int, int]) -> Cut:
    """The smallest part of an image file of `size` (W, H) whose pixels inside of `box` are those of the whole.

    That is all of it where there are no restart markers in columns, or it is no plain JPEG of that size.
    """
    whole = Cut(content, 0, 0, size)
    frame = _frame(content)
    if frame is None or (frame.width, frame.height) != size or not frame.interval or not content.endswith(END):
        return whole
    unit_w, unit_h = frame.unit
    units, rows = -(-frame.width // unit_w), -(-frame.height // unit_h)
    per_row, beyond = divmod(units, frame.interval)
    runs = [] if beyond else RESTART.split(content[frame.start : -len(END)])
    if len(runs) != per_row * rows:
        return whole
    x, y, width, height = box
    left, right = _span(x, width, unit_w * frame.interval, per_row)
    top, bottom = _span(y, height, unit_h, rows)
    if (right - left) * (bottom - top) == len(runs):
        return whole
    wide = min(right * unit_w * frame.interval, frame.width) - left * unit_w * frame.interval
    high = min(bottom * unit_h, frame.height) - top * unit_h
    head = bytearray(content[: frame.start])
    head[frame.size_at : frame.size_at + 4] = high.to_bytes(2, "big") + wide.to_bytes(2, "big")
    chosen = (run for row in range(top, bottom) for run in runs[row * per_row + left : row * per_row + right])
    body = list(itertools.chain.from_iterable(zip(chosen, itertools.cycle(MARKERS))))
    body[-1] = END
    return Cut(bytes(head) + b"".join(body), left * unit_w * frame.interval, top * unit_h, (wide, high))


def _span(start: int, length: int, step: int, most: int) -> tuple[int, int]:
    """First and last + 1 of the steps that hold an interval and its margin."""
    return max(0, start - MARGIN) // step, min(most, -(-(start + length + MARGIN) // step))


def _frame(content: bytes) -> _Frame | None:
    """What the header says; None for anything but a baseline JPEG of one scan that is whole up to there."""
    size_at, unit, interval, width, height = 0, (0, 0), 0, 0, 0
    for kind, at, length in _segments(content):
        if kind == BASELINE:
            size_at = at + 5
            width, height = _size_at(content, size_at)
            factors = content[at + 11 : at + 2 + length : 3]  # per component, columns and rows in four bits each
            grey = len(factors) == 1  # its units are single blocks, whatever its factors say
            unit = (8, 8) if grey else (8 * max(f >> 4 for f in factors), 8 * max(f & 15 for f in factors))
        elif kind == INTERVAL:
            interval = int.from_bytes(content[at + 4 : at + 6], "big")
        elif kind == SCAN:
            one_scan = content[at + 4] == content[size_at + 4]
            return _Frame(size_at, at + 2 + length, width, height, unit, interval) if size_at and one_scan else None
    return None


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, where it stands, length) of the parts of the header."""
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        length = int.from_bytes(content[at + 2 : at + 4], "big")
        yield content[at + 1], at, length
        at += 2 + length


def _size_at(content: bytes, at: int) -> tuple[int, int]:
    height, width = (int.from_bytes(content[k : k + 2], "big") for k in (at, at + 2))
    return width, height


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """(W, H) of a JPEG file of any kind, of which `content` is the beginning; None where that does not tell."""
    if not content.startswith(b"\xff\xd8"):
        return None
    at = next((at for kind, at, _ in _segments(content) if kind in FRAMES), len(content))
    if at + 9 > len(content):
        return None
    width, height = _size_at(content, at + 5)
    return (width, height) if width and height else None
