"""The exceptions that the command line shows without a traceback."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from mml_lightning.utils.plain_text import visible

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

MEMORY = (
    "allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "failed to map segment",
    "without exception set",
    "without setting an exception",  # of an import
)
ONEDNN = "could not create a primitive"  # said of anything; where the address space is limited it is that
THREADS = ("can't start new thread", "thread creation failed", "Resource temporarily unavailable")
LEAST_ADDRESSES = (
    1 << 30
)  # bytes; no run fits in, and below it OpenBLAS may ask for memory for ever while it is imported
FEWER = "lower data.batch_size or data.workers"


class UserError(ValueError):
    """A mistake that the user can fix; its message is one line and names the fix. What it quotes of files can't steer
    the terminal."""

    def __init__(self, message: str = "") -> None:
        super().__init__(visible(message))


class RunsFailed(Exception):
    """Some runs of a pipeline failed, the others went on; the message names them and their logs."""


class Preempted(BaseException):
    """A run leaves because it was asked to; it can be continued."""


class RankDied(Exception):
    """One of several ranks has ended before its time; the message names it."""


def spent_descriptors(error: BaseException) -> bool:
    """Whether an error says that this process may open no more files."""
    return getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE) or "Too many open files" in str(error)


def descriptors() -> int | None:
    """How many files a process may have open: `ulimit -n`."""
    return None if resource is None else resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def blameless(text: str) -> str | None:
    """Why a file could not be read, if that lies in this process and in no file."""
    if any(words in text for words in ("Too many open files", "failed to map segment", "can't start new thread")):
        return exhausted(OSError(text))
    return None


def exhausted(error: BaseException) -> str | None:
    """In one line which resource of this machine an error says is used up; None for other errors."""
    text = str(error)
    if spent_descriptors(error):
        return f"too many open files (ulimit -n is {descriptors()}): raise it, or lower data.workers"
    if any(words in text for words in THREADS):
        return f"no further thread could be started{_address_space()}: raise ulimit -u or -v, or lower data.workers"
    no_memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if no_memory or any(words in text for words in MEMORY) or (ONEDNN in text and _address_space()):
        where = "the device's memory" if "CUDA" in text or "HIP" in text else "memory"
        return f"{where} ran out{_address_space()}: {FEWER}"
    return None


def _address_space() -> str:
    """What `ulimit -v` allows, where it says something."""
    most = -1 if resource is None else resource.getrlimit(resource.RLIMIT_AS)[0]
    return f" (ulimit -v is {most // 1024} KiB)" if resource is not None and most != resource.RLIM_INFINITY else ""


def check_address_space() -> None:
    """Raises:
    UserError: `ulimit -v` allows less than libraries take before a run begins.
    """
    most = -1 if resource is None else resource.getrlimit(resource.RLIMIT_AS)[0]
    if 0 <= most < LEAST_ADDRESSES:
        raise UserError(f"ulimit -v is {most // 1024} KiB, and a run needs more than {LEAST_ADDRESSES >> 10}: raise it")


def check_choice(key: str, value: str, known: Sequence[str]) -> None:
    """Raises:
    UserError: `value` is none of the `known` ones.
    """
    if value not in known:
        raise UserError(f"{key}={value!r} is unknown; use one of {list(known)}")
