"""Makes demo video files: called in this process, or run as ``python -m mml_lightning.data.demo.worker``.

As a program it reads a job (one JSON line: folder, dataset parameters, file names to make) from standard input and
prints one JSON line per finished file. A plain program instead of a multiprocessing pool, because a pool would run
the caller's main script again, and forking is unsafe once torch has started threads. Imports neither torch nor
lightning.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mml_lightning.data.demo.encode import encode
from mml_lightning.data.demo.render import render
from mml_lightning.data.demo.scenes import Video, plan


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


def main() -> None:
    """Do the job on standard input."""
    job = json.loads(sys.stdin.readline())
    wanted = set(job["files"])
    for video in plan(**job["parameters"]):
        if video.name in wanted:
            print(json.dumps(make(video, Path(job["folder"]))), flush=True)


if __name__ == "__main__":
    main()
