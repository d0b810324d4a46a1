"""The demo with sound: every video has a few parts, and each part tells the class by sound, by motion or not at all.

A class is a direction and, at the same time, a pitch. In a part of `motion` a thing moves that way and it is silent; in
one of `sound` the tone of the class is heard and the thing stands still; in one of `nothing` it does so in silence.
At each boundary the thing starts from another place, whatever the parts are. So the best policy is known: look where
something moves, listen where something sounds, and skip the rest. Neither modality alone can know all classes, since
some videos have only parts of the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mml_lightning.data.demo.scenes import SPLITS

NOTHING, MOTION, SOUND = "nothing", "motion", "sound"
CLASSES: tuple[str, ...] = ("left", "right", "up", "down")
HEADING: tuple[tuple[int, int], ...] = ((-1, 0), (1, 0), (0, -1), (0, 1))  # of each class, (x, y), y points down
PITCH: tuple[int, ...] = (330, 620, 1160, 2170)  # of each class, in hertz, before it is detuned by up to 12 percent

PARTS = 5  # of a video
TELLING = 2  # of them
FPS, FRAMES = 10, 13  # of a part: 1.3 s, as long as the spectrogram of a segment
SIZE = 64  # pixels, width and height
TRAVEL = 30.0  # pixels from the first to the last frame of a part


@dataclass(frozen=True)
class PartsVideo:
    """Plan of one video; ``entropy`` seeds all nuisance and contains the split's number. ``parts``: one of
    :data:`NOTHING`, :data:`MOTION`, :data:`SOUND` each."""

    id: str
    split: str
    labels: tuple[int, ...]
    parts: tuple[str, ...]
    entropy: tuple[int, ...]
    codec: str
    width: int = SIZE
    height: int = SIZE
    fps: int = FPS
    audio: bool = True

    @property
    def name(self) -> str:
        """File name inside ``videos/``."""
        return f"{self.id}.{'webm' if self.codec == 'vp9' else 'mp4'}"

    @property
    def frames(self) -> int:
        """T of all parts."""
        return FRAMES * len(self.parts)


def plan(seed: int, train: int, val: int, test: int) -> list[PartsVideo]:
    """All videos of the dataset, train then validation then test; classes are balanced within each split."""
    videos: list[PartsVideo] = []
    for number, (split, count) in enumerate(zip(SPLITS, (train, val, test), strict=True)):
        rng = np.random.default_rng([seed, number, 7])
        labels = (np.arange(count) % len(CLASSES))[np.argsort(rng.random(count), kind="stable")]
        for i in range(count):
            parts = [NOTHING] * PARTS
            for place in rng.permutation(PARTS)[:TELLING]:
                parts[place] = (MOTION, SOUND)[int(rng.integers(2))]
            videos.append(
                PartsVideo(
                    id=str(len(videos) + 1),
                    split=split,
                    labels=(int(labels[i]),),
                    parts=tuple(parts),
                    entropy=(seed, number, i, 7),
                    codec="vp9" if i % 2 else "h264",
                )
            )
    return videos
