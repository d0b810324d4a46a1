"""Pictures and sound of a video of the demo with sound, from its plan.

Legend: T frames, H height, W width, L samples.
"""

from __future__ import annotations

import numpy as np

from mml_lightning.data.demo.encode import RATE
from mml_lightning.data.demo.parts import FPS, FRAMES, HEADING, MOTION, PITCH, SIZE, SOUND, TRAVEL, PartsVideo
from mml_lightning.data.demo.render import MARGIN, Palette, Pose, background, draw, sprite, window
from mml_lightning.data.demo.shapes import SHAPES


def render(video: PartsVideo) -> np.ndarray:
    """Frames of a video, uint8 [T, H, W, 3] RGB."""
    rng = np.random.default_rng([*video.entropy, 1])
    palette = Palette(thing=(130, 255), passer=(50, 175), dark=(5, 60), bright=(50, 120))
    ground = background(rng, palette, SIZE + 2 * MARGIN, SIZE + 2 * MARGIN)
    names = tuple(SHAPES[video.split])
    thing = sprite(rng, SHAPES[video.split][names[int(rng.integers(len(names)))]], palette.thing)
    still = window(ground, 0.0, 0.0, SIZE, SIZE)
    frames = np.empty((video.frames, SIZE, SIZE, 3), np.uint8)
    for number, part in enumerate(video.parts):
        middle = SIZE * (0.3 + 0.4 * rng.random(2))
        frozen, radius, angle = rng.random(), 9 + 3 * rng.random(), 360 * rng.random()
        elsewhere = HEADING[int(rng.integers(len(HEADING)))]
        # a thing that stands still does so anywhere on the path of one that moves, of any class
        heading = np.array(HEADING[video.labels[0]] if part == MOTION else elsewhere)
        for t in range(FRAMES):
            phase = t / (FRAMES - 1) if part == MOTION else frozen
            x, y = middle + TRAVEL * (phase - 0.5) * heading
            frame = still.copy()
            draw(frame, thing, Pose(float(x), float(y), radius, angle, 1.0))
            frames[number * FRAMES + t] = frame
    return frames


def sound(video: PartsVideo) -> np.ndarray:
    """The soundtrack, int16 [L] at :data:`RATE`: silence but for the parts that sound, whose tones fade in and out."""
    rng = np.random.default_rng([*video.entropy, 2])
    length = RATE * FRAMES // FPS
    ramp = np.minimum(1.0, np.minimum(np.arange(length), np.arange(length)[::-1]) / (RATE // 50))
    track = np.zeros((len(video.parts), length), np.int16)
    for number, part in enumerate(video.parts):
        pitch = PITCH[video.labels[0]] * (0.88 + 0.24 * rng.random())
        strength = 2000 + 6000 * rng.random()
        start = rng.random()
        if part == SOUND:
            wave = np.sin(2 * np.pi * (start + pitch * np.arange(length) / RATE))
            track[number] = np.rint(np.round(strength * ramp * wave, 4)).astype(np.int16)
    return track.reshape(-1)
