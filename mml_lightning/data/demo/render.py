"""Pixels of a demo video from its plan: uint8 [T, H, W, 3], the same on every machine.

Pixels are made with integer arithmetic; the few sines and powers are rounded before they touch a pixel, so the last
bit of a maths library cannot show. Legend: T frames, H height, W width, S side of a sprite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from mml_lightning.data.demo.scenes import ANGLE, GAP, MOTIONS, SIZE, Video, X, Y
from mml_lightning.data.demo.shapes import SHAPES, Polygon

MARGIN = 6  # pixels of background around the frame, for the camera to shake in
SPRITE = 128  # side of a sprite, which is shown 16 to 50 pixels wide


@dataclass(frozen=True)
class Pose:
    """Where one thing is drawn: centre and radius in pixels, angle in degrees (clockwise), opacity in [0, 1]."""

    x: float
    y: float
    radius: float
    angle: float
    opacity: float


@dataclass(frozen=True)
class Palette:
    """Ranges of colour values of one video.

    Salience runs from 0, things as bright as their surroundings, to 1, bright things on a dark ground. It is what makes
    RGB harder to learn from than flow: the salient videos teach a network what to look for, the others test it.
    """

    thing: tuple[int, int]
    passer: tuple[int, int]
    dark: tuple[int, int]
    bright: tuple[int, int]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Palette:
        """A palette: salient in most videos, hardly so in every fourth."""
        salience = int(rng.integers(80, 101) if rng.random() < 0.75 else rng.integers(0, 41))
        return cls(
            thing=(30 + salience, 255),
            passer=(30 + salience // 5, 255 - 4 * salience // 5),
            dark=(5, 130 - 7 * salience // 10),
            bright=(80 - 3 * salience // 10, 240 - 6 * salience // 5),
        )


def render(video: Video) -> np.ndarray:
    """Frames of a video, uint8 [T, H, W, 3] RGB."""
    rng = np.random.default_rng([*video.entropy, 1])
    height, width = video.height, video.width
    palette = Palette.draw(rng)
    ground = background(rng, palette, height + 2 * MARGIN, width + 2 * MARGIN)
    sprites = [sprite(rng, SHAPES[video.split][name], palette.thing) for name in video.things]
    passers = [
        (sprite(rng, _blob(rng), palette.passer), _passer(rng, height, width)) for _ in range(int(rng.integers(0, 3)))
    ]
    shake = _shake(rng, video.frames)
    light = _light(rng, video.frames)
    paths = poses(rng, video)
    frames = np.empty((video.frames, height, width, 3), np.uint8)
    for t in range(video.frames):
        dy, dx = shake[t]
        frame = window(ground, dy, dx, height, width)
        for image, passer in passers:
            draw(frame, image, passer(t), dy, dx)
        for image, path in zip(sprites, paths, strict=True):
            draw(frame, image, path[t], dy, dx)
        cv2.LUT(frame, light[t], frames[t])
    return frames


# --------------------------------------------------------------------------------------------------- the motion


def poses(rng: np.random.Generator, video: Video) -> list[list[Pose]]:
    """Poses of both things in every frame. Only the last lines look at the labels, and they draw nothing at random."""
    width, height, unit = video.width, video.height, min(video.width, video.height)
    frozen = rng.random(5)
    bases = rng.random(5) - 0.5
    spans = rng.random(5)
    axis = 2 * math.pi * rng.random()
    turns = 360 * rng.random(2)
    sizes = 0.3 * (rng.random(2) - 0.5)
    clocks = [
        (28 + 18 * rng.random(), rng.random()) for _ in range(video.clocks)
    ]  # frames from birth to rebirth; start
    paths: list[list[Pose]] = [[], []]
    for t in range(video.frames):
        phases = [(start + t / life) % 1.0 for life, start in clocks]
        state = frozen.copy()
        for label, phase in zip(video.labels, phases, strict=False):
            dimension, direction = MOTIONS[label]
            state[dimension] = phase if direction > 0 else 1 - phase
        state -= 0.5
        x = width * (0.5 + 0.12 * bases[X] + (0.35 + 0.2 * spans[X]) * state[X])
        y = height * (0.5 + 0.12 * bases[Y] + (0.35 + 0.2 * spans[Y]) * state[Y])
        size = 0.2 * bases[SIZE] + (0.9 + 0.4 * spans[SIZE]) * state[SIZE]
        angle = (120 + 100 * spans[ANGLE]) * state[ANGLE]
        gap = unit * (0.5 + 0.1 * bases[GAP] + (0.4 + 0.15 * spans[GAP]) * state[GAP])
        fades = (min(phase, 1 - phase) / (2 / life) for phase, (life, _) in zip(phases, clocks, strict=True))
        opacity = min(1.0, *fades)
        for i, side in enumerate((-0.5, 0.5)):
            paths[i].append(
                Pose(
                    x=x + side * gap * math.cos(axis),
                    y=y + side * gap * math.sin(axis),
                    radius=0.2 * unit * 2.0 ** (size + sizes[i]),
                    angle=turns[i] + angle,
                    opacity=opacity,
                )
            )
    return paths


def _passer(rng: np.random.Generator, height: int, width: int) -> Callable[[int], Pose]:
    """Path of a small passer-by: a straight line that leaves the picture on one side and enters on the other."""
    rim = 12
    start = rng.random(2)
    heading, speed = 2 * math.pi * rng.random(), 0.3 + 1.5 * rng.random()
    radius, spin, angle = 5 + 6 * rng.random(), 8 * (rng.random() - 0.5), 360 * rng.random()

    def path(t: int) -> Pose:
        x = (start[0] * (width + 2 * rim) + t * speed * math.cos(heading)) % (width + 2 * rim) - rim
        y = (start[1] * (height + 2 * rim) + t * speed * math.sin(heading)) % (height + 2 * rim) - rim
        return Pose(x, y, radius, angle + t * spin, 1.0)

    return path


def _shake(rng: np.random.Generator, frames: int) -> list[tuple[float, float]]:
    """Camera offsets (dy, dx) in pixels: a hand that always comes back, never a pan."""
    strength = 0.7 * rng.random()
    offset = np.zeros(2)
    offsets = []
    for kick in rng.random((frames, 2)) - 0.5:
        offset = 0.7 * offset + 2 * strength * kick
        offsets.append((float(offset[0]), float(offset[1])))
    return offsets


def _light(rng: np.random.Generator, frames: int) -> list[np.ndarray]:
    """One uint8 [256] curve per frame: gain, gamma and lift of the video, with a slow drift of the gain."""
    gain, gamma, lift = 0.7 + 0.5 * rng.random(), 0.75 + 0.6 * rng.random(), 25 * rng.random()
    drift, rate, phase = 0.15 * rng.random(), 0.02 + 0.06 * rng.random(), rng.random()
    curve = 230 * (np.arange(256) / 255) ** gamma
    levels = [gain * (1 + drift * math.sin(2 * math.pi * (phase + rate * t))) for t in range(frames)]
    return [np.clip(np.rint(np.round(lift + level * curve, 6)), 0, 255).astype(np.uint8) for level in levels]


# -------------------------------------------------------------------------------------------------- the pictures


def background(rng: np.random.Generator, palette: Palette, height: int, width: int) -> np.ndarray:
    """A smooth two-colour noise with stripes or none and a few still shapes, uint8 [height, width, 3]."""
    total = np.zeros((height, width), np.int32)
    for cells, weight in ((3, 4), (7, 3), (15, 2), (31, 1)):
        grid = rng.integers(0, 256, (cells, cells), dtype=np.uint8)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR_EXACT).astype(np.int32)
    total //= 10
    if rng.random() < 0.4:
        a, b, period = (int(v) for v in rng.integers((-8, -8, 40), (9, 9, 120)))
        stripe = (a * np.arange(height)[:, None] + b * np.arange(width)) % period < period // 2
        total += np.where(stripe, 22, -22)
    total = np.clip((total - 128) * 3 // 2 + 128, 0, 255)
    dark, bright = rng.integers(*palette.dark, 3), rng.integers(*palette.bright, 3)
    shades = (dark + (bright - dark) * np.arange(256)[:, None] // 255).astype(np.uint8)
    picture = cv2.LUT(cv2.merge([total.astype(np.uint8)] * 3), shades[None])
    for _ in range(int(rng.integers(0, 4))):
        draw(
            picture,
            sprite(rng, _blob(rng), palette.passer),
            Pose(x=width * rng.random(), y=height * rng.random(), radius=5 + 10 * rng.random(), angle=0.0, opacity=1.0),
        )
    return picture


def _blob(rng: np.random.Generator) -> Polygon:
    """A random polygon with 5 to 8 corners."""
    corners = int(rng.integers(5, 9))
    radii = rng.integers(45, 96, corners)
    angles = [2 * math.pi * k / corners for k in range(corners)]
    return tuple((round(r * math.cos(a)), round(r * math.sin(a))) for r, a in zip(radii.tolist(), angles, strict=True))


def sprite(rng: np.random.Generator, outline: Polygon, colours: tuple[int, int]) -> np.ndarray:
    """A two-colour patterned silhouette, uint16 [S, S, 4]: RGB in the range of ``colours`` and coverage in 0..256."""
    big = np.zeros((2 * SPRITE, 2 * SPRITE), np.uint8)
    corners = np.array(outline) * SPRITE // 100 + SPRITE
    cv2.fillPoly(big, [corners.astype(np.int32)], 1)
    pairs = big[::2] + big[1::2]
    coverage = (pairs[:, ::2] + pairs[:, 1::2]).astype(np.uint16) * 64
    y, x = np.ogrid[:SPRITE, :SPRITE]
    y, x = y.astype(np.int16), x.astype(np.int16)  # which holds all that follows
    a, b = (int(v) for v in rng.integers(-6, 7, 2))
    period = int(rng.integers(150, 300))
    kind = int(rng.integers(3))
    wave = (a * x + (b * y + (7 - abs(a)) * y)) % period < period // 2
    if kind == 1:
        wave ^= (b * x + ((7 - abs(a)) * x - a * y)) % period < period // 2
    elif kind == 2:
        wave = ((x % 36 - 18) ** 2 + (y % 36 - 18) ** 2) < 130
    lowest, span = colours[0], colours[1] - colours[0] + 1
    first = rng.integers(0, span, 3)
    second = (first + span // 3 + rng.integers(0, span // 3, 3)) % span
    made = np.empty((SPRITE, SPRITE, 4), np.uint16)
    for channel, (one, two) in enumerate(zip((lowest + first).tolist(), (lowest + second).tolist(), strict=True)):
        made[..., channel] = np.where(wave, np.uint16(one), np.uint16(two))
    made[..., 3] = coverage
    return made


def window(ground: np.ndarray, dy: float, dx: float, height: int, width: int) -> np.ndarray:
    """The frame-sized part of the background at a sub-pixel offset (1/16 pixel), uint8 [height, width, 3]."""
    y, x = round(16 * (MARGIN + dy)), round(16 * (MARGIN + dx))
    (top, fy), (left, fx) = divmod(y, 16), divmod(x, 16)
    part = ground[top : top + height + 1, left : left + width + 1].astype(np.uint16)
    rows = part[:-1] * np.uint16(16 - fy) + part[1:] * np.uint16(fy)
    blend: np.ndarray = rows[:, :-1] * np.uint16(16 - fx) + rows[:, 1:] * np.uint16(fx) + np.uint16(128)
    return (blend >> 8).astype(np.uint8)


def draw(frame: np.ndarray, image: np.ndarray, pose: Pose, dy: float = 0.0, dx: float = 0.0) -> None:
    """Blend a sprite into a frame in place; (dy, dx) is the camera offset. Sampling is nearest in 1/256 texels."""
    height, width = frame.shape[:2]
    x, y, reach = pose.x - dx, pose.y - dy, pose.radius * 1.35 + 1
    left, right = max(0, math.floor(x - reach)), min(width, math.ceil(x + reach) + 1)
    top, bottom = max(0, math.floor(y - reach)), min(height, math.ceil(y + reach) + 1)
    weight = round(256 * pose.opacity)
    if left >= right or top >= bottom or weight == 0:
        return
    step = 256 * SPRITE / (2 * pose.radius)
    turn = math.radians(pose.angle)
    cos, sin = round(step * math.cos(turn)), round(step * math.sin(turn))
    # 32 bits hold it: offsets are at most 256 * reach, `step` falls with the radius, and their product is below 2**24
    across: np.ndarray = 256 * np.arange(left, right, dtype=np.int32) - round(256 * x)
    down: np.ndarray = (256 * np.arange(top, bottom, dtype=np.int32) - round(256 * y))[:, None]
    middle = SPRITE // 2 << 16
    u = ((across * cos + middle) + down * sin) >> 16
    v = (down * cos + (middle - across * sin)) >> 16
    inside = (u | v).view(np.uint32) < SPRITE  # both in 0 .. SPRITE - 1, a power of two
    place = v.astype(np.intp)
    place *= SPRITE
    place += u
    texels = image.view(np.uint64).ravel().take(place, mode="clip").view(np.uint16).reshape(*place.shape, 4)
    alpha = texels[..., 3] * inside
    if weight < 256:
        alpha = (alpha.astype(np.uint32) * weight >> 8).astype(np.uint16)
    rest = 256 - alpha
    for channel in range(3):  # each by itself: an operation on three numbers costs numpy as much as one on a row
        shown = frame[top:bottom, left:right, channel]
        # at most 255 * 256 + 128, which 16 bits hold
        shown[...] = (shown * rest + texels[..., channel] * alpha + np.uint16(128)) >> 8
