"""Crops, resizing and mirroring of decoded clips.

Shapes: T frames, C channels, H and W pixels. A clip is uint8 [T, C, H, W] on the CPU. Sizes are (width, height).

A :class:`Crop` says what is cut out of a frame. One is made per sample (training) or per view (test) and applied to all
modalities of that sample; a modality stored at another resolution takes the same part of the picture.
:class:`TrainGeometry` and :class:`TestGeometry` are what a config names.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Policy = Literal["code", "paper", "fixed"]
Size = tuple[int, int]


@dataclass(frozen=True)
class Crop:
    """A box of a frame and what to make of it.

    Attributes:
        x, y, width, height: box in pixels of the frame of size ``reference``, or ``resize`` where that is given.
        reference: size of the frame the crop was made for.
        output: size of the result.
        flip: mirror the result left to right.
        resize: bring the whole frame to this size before cutting.
    """

    x: int
    y: int
    width: int
    height: int
    reference: Size
    output: Size
    flip: bool = False
    resize: Size | None = None

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


@dataclass(frozen=True)
class TrainGeometry:
    """Random multi-scale crop of the TSN family, one draw per sample.

    Attributes:
        output: side of the square result, pixels.
        scales: box sides as shares of the shorter frame side; MML takes (1, .875, .75, .66) for all modalities, TSM
            leaves out .66 for flow and rgbdiff.
        flip: probability of mirroring; 0 where left and right are classes, as in Something-Something.
        policy: see :func:`draw_multi_scale_crop`.
    """

    output: int = 224
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    flip: float = 0.0
    policy: Policy = "fixed"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        if self.output < 1:
            raise ValueError(f"output is {self.output}: give the side of the crop in pixels, at least 1")
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales are {self.scales}: give one or more numbers in (0, 1]")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip is {self.flip}: give a probability in [0, 1]")
        _check_policy(self.policy)

    def draw(self, width: int, height: int, rng: random.Random) -> Crop:
        """Draw a crop for a frame of ``width`` x ``height``."""
        return draw_multi_scale_crop(
            width, height, self.output, self.scales, rng, flip_probability=self.flip, policy=self.policy
        )


@dataclass(frozen=True)
class TestGeometry:
    """Fixed crops of validation and testing; see :func:`test_crops`."""

    output: int = 224
    short_side: int = 256
    crops: int = 1

    def __post_init__(self) -> None:
        _check_views(self.output, self.short_side, self.crops)

    def views(self, width: int, height: int) -> list[Crop]:
        """All crops of a frame of ``width`` x ``height``."""
        return test_crops(width, height, short_side=self.short_side, output=self.output, crops=self.crops)


def multi_scale_sizes(
    width: int, height: int, output: int, scales: Sequence[float], max_distortion: int = 1, snap: int = 2
) -> list[Size]:
    """Box sizes to choose from: pairs of scaled shorter sides whose scales are at most ``max_distortion`` places apart.

    A side within ``snap`` pixels of ``output`` becomes ``output``, which saves the resize, unless the frame is too
    small for that (the published program then pads with black). Listed height by height, as the published draws need.

    Raises:
        ValueError: the frame is empty, or a scale does not lie in (0, 1].
    """
    base = min(width, height)
    if base < 1:
        raise ValueError(f"frame size {width}x{height} is empty: check the stored media")
    if not scales or not all(0 < scale <= 1 for scale in scales):
        raise ValueError(f"scales are {tuple(scales)}: give one or more numbers in (0, 1]")
    sides = [max(1, int(base * scale)) for scale in scales]
    sides = [output if abs(side - output) <= snap and output <= base else side for side in sides]
    return [
        (box_w, box_h) for i, box_h in enumerate(sides) for j, box_w in enumerate(sides) if abs(i - j) <= max_distortion
    ]


def offset_grid(image_w: int, image_h: int, crop_w: int, crop_h: int, policy: Policy = "fixed") -> list[Size]:
    """The 13 places (x, y) of a box: corners, centre, edge midpoints, quarter points.

    ``code`` (and ``paper``, which says nothing here) steps by whole quarters of the slack and so can miss the right and
    bottom edge by up to 3 pixels; ``fixed`` reaches them.
    """
    _check_policy(policy)

    def place(slack: int, quarter: int) -> int:
        return slack * quarter // 4 if policy == "fixed" else slack // 4 * quarter

    corners = [(0, 0), (4, 0), (0, 4), (4, 4)]
    crosses = [(2, 2), (0, 2), (4, 2), (2, 4), (2, 0)]
    quarters = [(1, 1), (3, 1), (1, 3), (3, 3)]
    return [(place(image_w - crop_w, x), place(image_h - crop_h, y)) for x, y in corners + crosses + quarters]


def draw_multi_scale_crop(
    width: int,
    height: int,
    output: int,
    scales: Sequence[float],
    rng: random.Random,
    flip_probability: float = 0.0,
    policy: Policy = "fixed",
) -> Crop:
    """Draw box size, then place, then (only if ``flip_probability`` > 0) mirroring.

    With ``policy='code'`` a ``random.Random(seed)`` reproduces the published draws; policies differ in
    :func:`offset_grid` only.

    Raises:
        ValueError: an argument is out of range.
    """
    box_w, box_h = rng.choice(multi_scale_sizes(width, height, output, scales))
    x, y = rng.choice(offset_grid(width, height, box_w, box_h, policy))
    flip = flip_probability > 0 and rng.random() < flip_probability
    return Crop(x, y, box_w, box_h, reference=(width, height), output=(output, output), flip=flip)


def test_crops(width: int, height: int, *, short_side: int, output: int, crops: int) -> list[Crop]:
    """Crops of a frame whose shorter side is first brought to ``short_side`` (long side truncated to whole pixels).

    Args:
        crops: 1 centre; 3 both ends and centre along the longer side; 5 corners and centre; 10 those five, each
            followed by its mirror image.

    Offsets follow the published program: a single centre crop rounds half the slack to even, all others step by whole
    quarters of the slack. It places the 3 crops along the width even in a portrait frame, where they coincide; we turn
    them.

    Raises:
        ValueError: the crop does not fit, or ``crops`` is another number.
    """
    _check_views(output, short_side, crops)
    shorter = min(width, height)
    if shorter < 1:
        raise ValueError(f"frame size {width}x{height} is empty: check the stored media")
    frame_w, frame_h = width * short_side // shorter, height * short_side // shorter
    resize = None if shorter == short_side else (frame_w, frame_h)
    grid = offset_grid(frame_w, frame_h, output, output, policy="code")
    corners, centre, left, right, bottom, top = grid[:4], grid[4], grid[5], grid[6], grid[7], grid[8]
    if crops == 1:
        places = [(round((frame_w - output) / 2), round((frame_h - output) / 2))]
    elif crops == 3:
        places = [left, right, centre] if frame_w >= frame_h else [top, bottom, centre]
    else:
        places = [*corners, centre]
    flips = (False, True) if crops == 10 else (False,)
    return [
        Crop(x, y, output, output, reference=(width, height), output=(output, output), flip=flip, resize=resize)
        for x, y in places
        for flip in flips
    ]


def apply(clip: Tensor, crop: Crop) -> Tensor:
    """Cut ``crop`` out of every frame: uint8 [T, C, H, W] -> uint8 [T, C, h, w] with (w, h) = ``crop.output``.

    Resizing is bilinear with antialiasing, on uint8; where sizes already agree no pixel is touched. The result may
    share memory with ``clip``. Mirrored flow needs :func:`invert_x` as well.

    Raises:
        ValueError: the clip is not uint8 [T, C, H, W].
    """
    return apply_views(clip, [crop])[0]


def apply_views(clip: Tensor, crops: Sequence[Crop]) -> list[Tensor]:
    """:func:`apply` for several crops of one clip, resizing the whole frames only once per size."""
    if clip.dtype != torch.uint8 or clip.ndim != 4:
        raise ValueError(f"clip is {clip.dtype} with {clip.ndim} dimensions: pass uint8 [T, C, H, W]")
    height, width = clip.shape[-2:]
    resized: dict[Size, Tensor] = {}
    views = []
    for crop in (crop.scaled_to(width, height) for crop in crops):
        frames = clip
        if crop.resize is not None:
            if crop.resize not in resized:
                resized[crop.resize] = _resize(clip, crop.resize)
            frames = resized[crop.resize]
        box = frames[..., crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
        view = _resize(box, crop.output)
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
    if clip.dtype != torch.uint8 or clip.ndim < 3 or clip.shape[-3] % 2:
        raise ValueError(
            f"flow is {clip.dtype} of shape {tuple(clip.shape)}: pass uint8 [..., C, H, W], channels x, y, x, y, ..."
        )
    inverted = clip.clone()
    inverted[..., 0::2, :, :] = 255 - clip[..., 0::2, :, :]
    return inverted


def _resize(clip: Tensor, size: Size) -> Tensor:
    width, height = size
    if tuple(clip.shape[-2:]) == (height, width):
        return clip
    channels = clip.shape[1]
    if channels > 4:
        # Same bytes either way; torch takes a path less than half as fast for more than four channels.
        clip = clip.reshape(-1, 1, *clip.shape[-2:])
    return F.interpolate(clip, size=(height, width), mode="bilinear", antialias=True).reshape(
        -1, channels, height, width
    )


def _scale_edges(start: int, length: int, old: int, new: int) -> tuple[int, int]:
    """Start and length of an interval of ``old`` pixels, carried over to ``new`` pixels."""
    first = min((2 * start * new + old) // (2 * old), new - 1)
    last = (2 * (start + length) * new + old) // (2 * old)
    return first, max(last, first + 1) - first


def _check_policy(policy: str) -> None:
    if policy not in get_args(Policy):
        raise ValueError(f"unknown policy {policy!r}: use one of {', '.join(get_args(Policy))}")


def _check_views(output: int, short_side: int, crops: int) -> None:
    if crops not in (1, 3, 5, 10):
        raise ValueError(f"crops is {crops}: use 1, 3, 5 or 10")
    if not 1 <= output <= short_side:
        raise ValueError(f"output {output} does not fit into short_side {short_side}: raise short_side or lower output")
