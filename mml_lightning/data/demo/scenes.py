"""What happens in every demo video: class, silhouettes, file format, and the seed of everything that is nuisance.

A class is *which of five quantities moves, and in which direction*. Two things are always on screen; their state is
five numbers (x, y, log size, orientation, separation). Each number is ``base + (U - 1/2) * range`` with U uniform on
[0, 1). In the class's own dimension U runs with time (U = phase, or 1 - phase for the opposite class), in the four
others U is frozen. The phase starts uniformly and wraps while the things are faded out, so at *every* frame index every
U is uniform in every class: one frame tells nothing, neither the first nor the last.

With several `motions` a video has from one to that many of these classes, of different quantities, each with a clock of
its own. The things fade whenever one of the clocks wraps, also of those that move nothing, so that fading does not tell
how many classes there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mml_lightning.data.demo.shapes import SHAPES

X, Y, SIZE, ANGLE, GAP = range(5)

#: Templates as SSv2's labels.json spells them (no brackets); the position in the tuple is the class index.
CLASSES: tuple[str, ...] = (
    "Moving something and something to the left",
    "Moving something and something to the right",
    "Moving something and something up",
    "Moving something and something down",
    "Moving something and something closer to the camera",
    "Moving something and something away from the camera",
    "Turning something and something clockwise",
    "Turning something and something counter-clockwise",
    "Moving something and something away from each other",
    "Moving something and something closer to each other",
)
#: (dimension, direction) per class; angles grow clockwise because y points down.
MOTIONS: tuple[tuple[int, int], ...] = (
    (X, -1),
    (X, +1),
    (Y, -1),
    (Y, +1),
    (SIZE, +1),
    (SIZE, -1),
    (ANGLE, +1),
    (ANGLE, -1),
    (GAP, +1),
    (GAP, -1),
)
#: Class seen in a mirror: left and right swap, and so do the two senses of turning.
LEFT_RIGHT: dict[int, int] = {0: 1, 1: 0, 2: 2, 3: 3, 4: 4, 5: 5, 6: 7, 7: 6, 8: 8, 9: 9}

SPLITS: tuple[str, ...] = ("train", "validation", "test")
FPS: tuple[int, ...] = (12, 15, 24, 25, 30)
WIDTHS = tuple(range(96, 137, 4))
HEIGHTS = tuple(range(72, 105, 4))
SHORT_CLIP = 5


@dataclass(frozen=True)
class Video:
    """Plan of one video; ``entropy`` seeds all nuisance (texture, path, light) and contains the split's number.
    ``clocks`` is the largest number of labels that a video of its dataset may have."""

    id: str
    split: str
    labels: tuple[int, ...]
    things: tuple[str, str]
    entropy: tuple[int, ...]
    codec: str
    width: int
    height: int
    fps: int
    frames: int
    audio: bool
    clocks: int = 1

    @property
    def name(self) -> str:
        """File name inside ``videos/``."""
        return f"{self.id}.{'webm' if self.codec == 'vp9' else 'mp4'}"


def plan(seed: int, train: int, val: int, test: int, motions: int = 1) -> list[Video]:
    """All videos of the dataset, train then validation then test. With one motion a video, classes are balanced and
    shuffled within each split; with up to `motions`, their number and they themselves are drawn at random."""
    videos: list[Video] = []
    for number, (split, count) in enumerate(zip(SPLITS, (train, val, test), strict=True)):
        rng = np.random.default_rng([seed, number])
        if motions == 1:
            balanced = np.arange(count) % len(CLASSES)
            shuffled = balanced[np.argsort(rng.random(count), kind="stable")]
            labels: list[tuple[int, ...]] = [(int(label),) for label in shuffled]
        else:
            labels = [_several(rng, motions) for _ in range(count)]
        for i in range(count):
            videos.append(_video(seed, number, i, labels[i], motions, first_id=len(videos) - i + 1, split=split))
    return videos


def _several(rng: np.random.Generator, motions: int) -> tuple[int, ...]:
    """Classes of one to `motions` different quantities; those of a quantity follow each other in :data:`MOTIONS`."""
    chosen = rng.permutation(len(MOTIONS) // 2)[: int(rng.integers(1, motions + 1))]
    return tuple(sorted(int(2 * quantity + rng.integers(2)) for quantity in chosen))


def _video(seed: int, number: int, i: int, labels: tuple[int, ...], clocks: int, first_id: int, split: str) -> Video:
    """Video i of a split. Nothing drawn here looks at the labels."""
    entropy = (seed, number, i)
    rng = np.random.default_rng([*entropy, 0])
    names = tuple(SHAPES[split])
    a = int(rng.integers(len(names)))
    b = (a + 1 + int(rng.integers(len(names) - 1))) % len(names)
    return Video(
        id=str(first_id + i),
        split=split,
        labels=labels,
        things=(names[a], names[b]),
        entropy=entropy,
        codec="vp9" if i % 2 else "h264",
        width=WIDTHS[int(rng.integers(len(WIDTHS)))],
        height=HEIGHTS[int(rng.integers(len(HEIGHTS)))],
        fps=FPS[int(rng.integers(len(FPS)))],
        frames=SHORT_CLIP if i % 50 == 7 else 20 + int(rng.integers(25)),
        audio=i % 7 != 3,
        clocks=clocks,
    )
