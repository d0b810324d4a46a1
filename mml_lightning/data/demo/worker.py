"""Makes one demo video file. Imports neither torch nor lightning, so that worker processes start at once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from mml_lightning.data.demo import parts_media
from mml_lightning.data.demo.encode import RATE, encode, tone
from mml_lightning.data.demo.parts import PartsVideo
from mml_lightning.data.demo.render import render
from mml_lightning.data.demo.scenes import Video
from mml_lightning.utils.files import write_atomically


def make(video: Video | PartsVideo, folder: Path) -> dict[str, Any]:
    """Render, encode and write one video; returns its entry in the manifest."""
    if isinstance(video, PartsVideo):
        data = encode(parts_media.render(video), video.fps, video.codec, parts_media.sound(video))
    else:
        pitch = int(np.random.default_rng([*video.entropy, 2]).integers(180, 1200))
        wave = tone(pitch, RATE * video.frames // video.fps) if video.audio else None
        data = encode(render(video), video.fps, video.codec, wave)
    with write_atomically(folder / video.name, "wb") as handle:
        handle.write(data)
    return {
        "file": video.name,
        "split": video.split,
        "labels": list(video.labels),
        "frames": video.frames,
        "fps": video.fps,
        "width": video.width,
        "height": video.height,
        "codec": video.codec,
        "audio": video.audio,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
