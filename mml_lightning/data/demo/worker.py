"""Makes one demo video file. Imports neither torch nor lightning, so that worker processes start at once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from mml_lightning.data.demo.encode import encode
from mml_lightning.data.demo.render import render
from mml_lightning.data.demo.scenes import Video


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside the target, then rename: a reader (or a restart) never sees half a file."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_bytes(data)
    os.replace(partial, path)


def make(video: Video, folder: Path) -> dict[str, Any]:
    """Render, encode and write one video; returns its entry in the manifest."""
    tone = int(np.random.default_rng([*video.entropy, 2]).integers(180, 1200)) if video.audio else None
    data = encode(render(video), video.fps, video.codec, tone)
    write_atomic(folder / video.name, data)
    return {
        "file": video.name,
        "split": video.split,
        "label": video.label,
        "frames": video.frames,
        "fps": video.fps,
        "width": video.width,
        "height": video.height,
        "codec": video.codec,
        "audio": video.audio,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
