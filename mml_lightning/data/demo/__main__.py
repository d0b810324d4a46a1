"""One worker process of the demo generation: ``python -m mml_lightning.data.demo``.

Reads a job (one JSON line: folder, dataset parameters, file names to make) from standard input and prints one JSON line
per finished file. A plain program instead of a multiprocessing pool, because a pool would run the caller's main script
again, and forking is unsafe once torch has started threads.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mml_lightning.data.demo.generate import plan
from mml_lightning.data.demo.worker import make


def main() -> None:
    """Do the job on standard input."""
    job = json.loads(sys.stdin.readline())
    wanted = set(job["files"])
    for video in plan(**job["parameters"]):
        if video.name in wanted:
            print(json.dumps(make(video, Path(job["folder"]))), flush=True)


if __name__ == "__main__":
    main()
