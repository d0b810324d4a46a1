"""Makes one demo video file. Imports neither torch nor lightning, so that worker processes start at once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from mml_lightning.data.demo.encode import encode
from mml_lightning.data.demo.render import render
from mml_lightning.data.demo.scenes import Video
from mml_lightning.utils.files import write_atomically


def make(video: Video, folder: Path) -> dict[str, Any]:
    """Render, encode and write one video; returns its entry in the manifest."""
    tone = int(np.random.default_rng([*video.entropy, 2]).integers(180, 1200)) if video.audio else None
    data = encode(render(video), video.fps, video.codec, tone)
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
