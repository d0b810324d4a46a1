"""What the C library does with memory that is freed: give it back to the system, or keep it for the next allocation.

On a CPU the large tensors of every training step are given back and asked for again, and the system clears each page
anew: in virtual machines that can take longer than what is computed with them.
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache

# of mallopt, see its manual page
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
USUAL = ((MMAP_MAX, 65536), (MMAP_THRESHOLD, 32 * 2**20), (TRIM_THRESHOLD, 64 * 2**20))  # where a busy process ends up
KEEPING = ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1))  # never trimmed


def keep_freed_memory(keep: bool = True) -> bool:
    """Keep what is freed from now on in this process and in those that it forks, or give it back as usual.

    Returns: whether the C library can be told; only GNU's can.
    """
    library = _library()
    if library is not None:
        for parameter, value in KEEPING if keep else USUAL:
            library.mallopt(parameter, value)
        if not keep:
            library.malloc_trim(0)
    return library is not None


@cache
def _library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
