"""Random crops of training, one draw per sample. Sizes are (width, height)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mml_lightning.transforms.boxes import Crop, Policy, Size, check_policy, scaled_size


@dataclass(frozen=True)
class TrainGeometry:
    """Random multi-scale crop of the TSN family, one draw per sample.

    Attributes:
        output: side of the square result, pixels.
        scales: box sides as shares of the shorter frame side; MML takes (1, .875, .75, .66) for all modalities, TSM
            leaves out .66 for flow and rgbdiff.
        flip: probability of mirroring; 0 where left and right are classes, as in Something-Something.
        policy: see :func:`draw_multi_scale_crop`.
        antialias: of the resize.
    """

    output: int = 224
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    flip: float = 0.0
    policy: Policy = "fixed"
    antialias: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        if self.output < 1:
            raise ValueError(f"output is {self.output}: give the side of the crop in pixels, at least 1")
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales are {self.scales}: give one or more numbers in (0, 1]")
        _check_flip(self.flip)
        check_policy(self.policy)

    def draw(self, width: int, height: int, rng: random.Random) -> Crop:
        """Draw a crop for a frame of ``width`` x ``height``."""
        crop = draw_multi_scale_crop(
            width, height, self.output, self.scales, rng, flip_probability=self.flip, policy=self.policy
        )
        return replace(crop, antialias=self.antialias)


@dataclass(frozen=True)
class JitterGeometry:
    """Random short side, then a random square of ``output`` pixels: the SlowFast family, one draw per sample.

    Attributes:
        output: side of the square, pixels.
        short_sides: smallest and largest short side s of the resized frame, pixels.
        inverse: s = round(1 / U(1/max, 1/min)) as PySlowFast draws it; otherwise a whole number from min to max, both
            included (PyTorchVideo).
        flip: probability of mirroring.
        antialias: of the resize; neither program has it.
        policy: ``fixed`` takes every place of the square. ``code`` (and ``paper``, which refers to that program) never
            takes the last one in x or y where ``inverse`` is set, and rounds the long side as in :func:`scaled_size`.
    """

    output: int = 224
    short_sides: tuple[int, int] = (256, 320)
    inverse: bool = True
    flip: float = 0.5
    antialias: bool = False
    policy: Policy = "fixed"

    def __post_init__(self) -> None:
        object.__setattr__(self, "short_sides", tuple(self.short_sides))
        if len(self.short_sides) != 2 or not 1 <= self.output <= self.short_sides[0] <= self.short_sides[1]:
            raise ValueError(
                f"jitter is {list(self.short_sides)}: give the smallest and the largest short side in pixels, "
                f"from output={self.output} up"
            )
        _check_flip(self.flip)
        check_policy(self.policy)

    def draw(self, width: int, height: int, rng: random.Random) -> Crop:
        """Draw short side, then y, then x, then mirroring, for a frame of ``width`` x ``height``.

        Raises:
            ValueError: the frame is empty.
        """
        low, high = self.short_sides
        side = round(1.0 / rng.uniform(1.0 / high, 1.0 / low)) if self.inverse else rng.randint(low, high)
        frame = scaled_size(width, height, side, "fixed" if self.policy == "fixed" else "code")
        y = self._place(frame[1] - self.output, rng)
        x = self._place(frame[0] - self.output, rng)
        flip = self.flip > 0 and rng.random() < self.flip
        return Crop(
            x,
            y,
            self.output,
            self.output,
            reference=(width, height),
            output=(self.output, self.output),
            flip=flip,
            resize=None if frame == (width, height) else frame,
            antialias=self.antialias,
        )

    def _place(self, slack: int, rng: random.Random) -> int:
        last = slack if self.policy == "fixed" or not self.inverse else max(slack - 1, 0)
        return rng.randint(0, last)


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
    check_policy(policy)

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


def _check_flip(flip: float) -> None:
    if not 0 <= flip <= 1:
        raise ValueError(f"flip is {flip}: give a probability in [0, 1]")
