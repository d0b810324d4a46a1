"""Memory that is freed: kept by the process, or given back."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mml_lightning.utils import malloc

FAULTS = """
import resource, sys
import numpy as np
from mml_lightning.utils.malloc import keep_freed_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        np.full(2**23, 1.0)  # 64 MB, more than the C library keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
pages()
kept = pages()
def held():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

np.empty(3 * 2**30, np.uint8)  # never touched: it takes addresses only
still = held() > 3 * 2**30
keep_freed_memory(False)
print(kept, pages(), int(still), int(held() > 3 * 2**30))
"""


@pytest.mark.skipif(malloc._library() is None, reason="another C library")
def test_kept_memory_is_not_asked_for_again() -> None:
    """In a process of its own: what this one keeps is left alone."""
    told = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True).stdout
    kept, usual, still, afterwards = map(int, told.split())
    assert kept < 100 and usual > 8 * 2**26 / 4096 / 512  # at least a page of 2 MB for each
    assert (still, afterwards) == (1, 0), "more than 2 GB are kept, too"


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(malloc, "_library", lambda: None)
    assert not malloc.keep_freed_memory()
