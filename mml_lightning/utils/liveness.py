"""Whether a run that says it is running still is: a killed one can't say otherwise.

While it runs, `result.json` names its process and is touched time and again. On the machine where the process was
started its number and start tell whether it is there; elsewhere only the time of the file does.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

RUNNING, DIED = "running", "died"
BEAT = 30.0  # seconds between two signs of life
SILENT = 20 * BEAT  # seconds without one after which a run on another machine is taken for dead


def process() -> dict[str, Any]:
    """This process, as another one can look for it."""
    return {"pid": os.getpid(), "began": _began(os.getpid()), "host": platform.node(), "place": _place()}


def told(result: dict[str, Any], file: Path) -> dict[str, Any]:
    """The content of a `result.json`; of a run that says it is running and is not, with status "died" and why."""
    known = result.get("process")
    if result.get("status") != RUNNING or not isinstance(known, Mapping):
        return result
    with suppress(OSError):
        seen = file.stat().st_mtime
        if not alive(known, seen):
            last = datetime.fromtimestamp(seen).astimezone().isoformat(timespec="seconds")
            error = f"process {known.get('pid')} on {known.get('host')} is gone; last heartbeat {last}"
            return {**result, "status": DIED, "error": error}
    return result


def alive(known: Mapping[str, Any], seen: float) -> bool:
    """Whether the process of a run is there.

    Args:
        known: of :func:`process`.
        seen: when it last gave a sign of life, in seconds since the epoch.
    """
    if known.get("place") != _place() or type(known.get("pid")) is not int:
        return time.time() - seen < SILENT
    try:
        os.kill(known["pid"], 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody else's, or no number of a process
        return type(known["pid"]) is int and 0 < known["pid"] < 2**31
    return known.get("began") == _began(known["pid"])


@contextmanager
def beating(file: Path) -> Iterator[None]:
    """Touch `file` time and again while the block runs."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT):
            with suppress(OSError):
                os.utime(file)

    threading.Thread(target=beat, daemon=True, name="signs of life").start()
    try:
        yield
    finally:
        ended.set()


def _began(pid: int) -> str | None:
    """When a process was started, in ticks since the start of the machine: its number may be given to another one. A
    process that has ended and is not yet buried has none. None where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _place() -> str:
    """What two processes have in common that can look for each other: a start of a machine, and its space of pids."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)
