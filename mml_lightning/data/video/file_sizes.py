"""Sizes of a million files: one after another, or side by side where each look waits for a disk or a network."""

from __future__ import annotations

import functools
import itertools
import os
import stat
import time
from array import array
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from mml_lightning.utils.progress import Progress

KNOWN = 2**12  # files whose sizes are remembered: parts share a video, packed videos a shard
FIRST = 1000  # files that tell how long a look takes, and files of a thread at once
SLOW = 50e-6  # seconds of a look; on a local disk it takes some microseconds, and threads would be in each other's way
THREADS = 16


def size(path: str) -> int:
    """Bytes of a file; -1 where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def sizes(paths: Iterable[str], what: str) -> array[int]:
    """The size of each file, in order.

    Args:
        what: what they are, for whoever has to wait.
    """
    paths, known = iter(paths), functools.lru_cache(KNOWN)(size)
    begun = time.perf_counter()
    found = array("q", map(known, itertools.islice(paths, FIRST)))
    if time.perf_counter() - begun < SLOW * len(found):
        found.extend(map(known, paths))
        return found
    rest = list(paths)
    chunks = [rest[start : start + FIRST] for start in range(0, len(rest), FIRST)]
    pool = ThreadPoolExecutor(THREADS)
    try:
        with Progress(len(chunks), f"looking at {what}", unit="thousand file") as progress:
            for part in pool.map(lambda chunk: array("q", map(known, chunk)), chunks):
                found.extend(part)
                progress.advance()
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt doesn't wait for the rest
    return found
