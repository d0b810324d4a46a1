"""What is cut out of a frame, and the cutting.

Shapes: T frames, C channels, H and W pixels. A clip is uint8 [T, C, H, W] on the CPU. Sizes are (width, height).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:  # who only names boxes, as readers of files do, imports no torch
    from torch import Tensor

Policy = Literal["code", "paper", "fixed"]
Size = tuple[int, int]
REDUCTIONS = (8, 4, 2)  # what decoders of JPEG files can do
Box = tuple[int, int, int, int]
"""x, y, width, height in pixels."""


@dataclass(frozen=True)
class Crop:
    """A box of a frame and what to make of it.

    Attributes:
        x, y, width, height: box in pixels of the frame of size ``reference``, or ``resize`` where that is given.
        reference: size of the frame the crop was made for.
        output: size of the result.
        flip: mirror the result left to right.
        resize: bring the whole frame to this size before cutting.
        antialias: of all resizing. Pillow and with it the TSN family has it, PySlowFast has not.
    """

    x: int
    y: int
    width: int
    height: int
    reference: Size
    output: Size
    flip: bool = False
    resize: Size | None = None
    antialias: bool = True

    def __post_init__(self) -> None:
        frame_w, frame_h = self.resize or self.reference
        fits_x = self.x >= 0 and self.width >= 1 and self.x + self.width <= frame_w
        fits_y = self.y >= 0 and self.height >= 1 and self.y + self.height <= frame_h
        if not (fits_x and fits_y):
            box = f"{self.width}x{self.height} at ({self.x}, {self.y})"
            raise ValueError(f"box {box} leaves the {frame_w}x{frame_h} frame: make it smaller or move it inside")
        if min(self.output) < 1:
            raise ValueError(f"output {self.output} is empty: give at least 1x1 pixels")

    def scaled_to(self, width: int, height: int) -> Crop:
        """Same part of the picture for frames stored at ``width`` x ``height``.

        Exact where sizes agree or ``resize`` is set. Otherwise edges are rounded to whole pixels of the new frame, and
        the box keeps at least one pixel.

        Raises:
            ValueError: the new size is empty.
        """
        if width < 1 or height < 1:
            raise ValueError(f"frame size {width}x{height} is empty: check the stored media")
        if (width, height) == self.reference:
            return self
        if self.resize is not None:
            return replace(self, reference=(width, height))
        x, box_w = _scale_edges(self.x, self.width, self.reference[0], width)
        y, box_h = _scale_edges(self.y, self.height, self.reference[1], height)
        return replace(self, x=x, y=y, width=box_w, height=box_h, reference=(width, height))

    def inside(self, box: Box) -> Crop:
        """The same crop of frames of which only ``box`` is there.

        Raises:
            ValueError: it leaves the box, or resizes the whole frame first.
        """
        if box == (0, 0, *self.reference):
            return self
        if self.resize is not None:
            raise ValueError(f"a crop of the frame resized to {self.resize} needs the whole frame")
        return replace(self, x=self.x - box[0], y=self.y - box[1], reference=box[2:])


def bounding_box(crops: Sequence[Crop], width: int, height: int) -> Box:
    """The part of a frame of ``width`` x ``height`` that ``crops`` look at: all of it where one resizes the frame."""
    scaled = [crop.scaled_to(width, height) for crop in crops]
    if any(crop.resize is not None for crop in scaled):
        return 0, 0, width, height
    left, top = min(crop.x for crop in scaled), min(crop.y for crop in scaled)
    right, bottom = max(crop.x + crop.width for crop in scaled), max(crop.y + crop.height for crop in scaled)
    return left, top, right - left, bottom - top


def reduction(crops: Sequence[Crop], width: int, height: int) -> int:
    """By how much frames of ``width`` x ``height`` may be reduced before ``crops`` are cut: the largest of
    :data:`REDUCTIONS` that leaves every crop to be scaled down, or as it is; 1 where one would be enlarged, or is
    resized without antialiasing, which a reduction would bring in."""

    def fits(crop: Crop, factor: int) -> bool:
        frame = reduced_size(width, height, factor)
        scaled = crop.scaled_to(*frame)
        have, want = ((scaled.width, scaled.height), scaled.output) if scaled.resize is None else (frame, scaled.resize)
        return crop.antialias and have[0] >= want[0] and have[1] >= want[1]

    return next((factor for factor in REDUCTIONS if all(fits(crop, factor) for crop in crops)), 1)


def reduced_size(width: int, height: int, factor: int) -> Size:
    """Of a frame that is reduced while it is decoded: a part of a block counts as one."""
    return -(-width // factor), -(-height // factor)


def scaled_size(width: int, height: int, short_side: int, policy: Policy = "fixed") -> Size:
    """Frame size whose shorter side is ``short_side``, the longer cut down to whole pixels.

    ``code`` multiplies by the float ratio of the sides, as PySlowFast does, which can lose a pixel.

    Raises:
        ValueError: the frame is empty.
    """
    shorter, longer = sorted((width, height))
    if shorter < 1:
        raise ValueError(f"frame size {width}x{height} is empty: check the stored media")
    if shorter == short_side:
        return width, height
    scaled = math.floor(longer / shorter * short_side) if policy == "code" else longer * short_side // shorter
    return (scaled, short_side) if width > height else (short_side, scaled)


def check_policy(policy: str) -> None:
    """Raises:
    ValueError: unknown policy.
    """
    if policy not in get_args(Policy):
        raise ValueError(f"unknown policy {policy!r}: use one of {', '.join(get_args(Policy))}")


def apply(clip: Tensor, crop: Crop) -> Tensor:
    """Cut ``crop`` out of every frame: uint8 [T, C, H, W] -> uint8 [T, C, h, w] with (w, h) = ``crop.output``.

    Resizing is bilinear, by default with antialiasing, on uint8; where sizes already agree no pixel is touched. The
    result may share memory with ``clip``. Mirrored flow needs :func:`invert_x` as well.

    Raises:
        ValueError: the clip is not uint8 [T, C, H, W].
    """
    return apply_views(clip, [crop])[0]


def apply_views(clip: Tensor, crops: Sequence[Crop]) -> list[Tensor]:
    """:func:`apply` for several crops of one clip, resizing the whole frames only once per size."""
    import torch

    if clip.dtype != torch.uint8 or clip.ndim != 4:
        raise ValueError(f"clip is {clip.dtype} with {clip.ndim} dimensions: pass uint8 [T, C, H, W]")
    height, width = clip.shape[-2:]
    resized: dict[tuple[Size, bool], Tensor] = {}
    views = []
    for crop in (crop.scaled_to(width, height) for crop in crops):
        frames = clip
        if crop.resize is not None:
            key = (crop.resize, crop.antialias)
            if key not in resized:
                resized[key] = _resize(clip, *key)
            frames = resized[key]
        box = frames[..., crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
        view = _resize(box, crop.output, crop.antialias)
        views.append(view.flip(-1) if crop.flip else view)
    return views


def invert_x(clip: Tensor) -> Tensor:
    """Negate the horizontal component of mirrored flow stored as x, y, x, y, ... channels.

    uint8 [..., C, H, W] -> a new tensor of the same shape, even channels v -> 255 - v. Flow f in -b .. b pixels (b = 20
    by convention) is stored as 255 (f + b) / 2b, so 255 - v is the code of -f exactly. The zero of flow lies between
    the levels 127 and 128; a still picture stored as 128 becomes 127, half a level either way.

    Raises:
        ValueError: not uint8, or an odd number of channels.
    """
    import torch

    if clip.dtype != torch.uint8 or clip.ndim < 3 or clip.shape[-3] % 2:
        raise ValueError(
            f"flow is {clip.dtype} of shape {tuple(clip.shape)}: pass uint8 [..., C, H, W], channels x, y, x, y, ..."
        )
    inverted = clip.clone()
    inverted[..., 0::2, :, :] = 255 - clip[..., 0::2, :, :]
    return inverted


def _resize(clip: Tensor, size: Size, antialias: bool) -> Tensor:
    from torch.nn.functional import interpolate

    width, height = size
    if tuple(clip.shape[-2:]) == (height, width):
        return clip
    channels = clip.shape[1]
    if channels > 4:
        # Same bytes either way; torch takes a path less than half as fast for more than four channels.
        clip = clip.reshape(-1, 1, *clip.shape[-2:])
    return interpolate(clip, size=(height, width), mode="bilinear", antialias=antialias).reshape(
        -1, channels, height, width
    )


def _scale_edges(start: int, length: int, old: int, new: int) -> tuple[int, int]:
    """Start and length of an interval of ``old`` pixels, carried over to ``new`` pixels."""
    first = min((2 * start * new + old) // (2 * old), new - 1)
    last = (2 * (start + length) * new + old) // (2 * old)
    return first, max(last, first + 1) - first
