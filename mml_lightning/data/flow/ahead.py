"""Flow that is computed while something else has the processor: in a process of its own, of the lowest priority.

The process fills the cache and does nothing else. Whoever needs the flow ends it and computes what is left, so that
nothing depends on how far it came: not a number, and no error, which comes again where it counts.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mml_lightning.data.flow.cache import FlowCache
from mml_lightning.data.records.records import Record
from mml_lightning.data.video.decode import DecodeError
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.helpers import HELPERS

LOWEST = 19  # of Unix: it runs where nobody else wants to


class FlowAhead:
    """A process that computes the flow of `records` that `cache` lacks, as soon as it is made.

    Args:
        threads: videos at a time; of our TV-L1, which computes one at a time, threads of torch.

    Raises:
        OSError: it can't be started.
    """

    def __init__(self, cache: FlowCache, records: Sequence[Record], threads: int) -> None:
        self.cache = cache
        paths = (str(Path(__file__).resolve().parents[3]), os.environ.get("PYTHONPATH"))
        path = os.pathsep.join(filter(None, paths))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mml_lightning.data.flow"],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # of what can't be decoded, which is told where it is needed
        )
        HELPERS.add(self._process.pid)
        self._told = b""
        self._attending = threading.Thread(
            target=self._attend, args=(pickle.dumps((cache, list(records), threads)),), daemon=True
        )
        self._attending.start()

    def _attend(self, job: bytes) -> None:
        """Hand over the job, and hear what is said in the end; the process ends, too, when nobody could write to it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError), Connection(os.dup(self._process.stdin.fileno()), readable=False) as pipe:
            pipe.send_bytes(job)  # an error means that it has ended
        self._told = self._process.stdout.read()

    def working(self) -> bool:
        return self._attending.is_alive()

    def stop(self) -> str:
        """End the process; what became of it, in words."""
        early = self.working()
        HELPERS.remove(self._process.pid)
        self._process.kill()
        self._attending.join()
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):  # what it did not read is still to be written
                pipe.close()
        self.cache.clear_leftovers()
        if self._told:
            return _in_words(json.loads(self._told))
        return "not all is there yet" if early else f"its process died (exit code {code})"


def _in_words(outcome: dict[str, Any]) -> str:
    if "error" in outcome:
        return str(outcome["error"])
    made, failed = outcome["made"], outcome["failed"]
    return f"{made} videos done" + (f", {failed} can't be read" if failed else "")


def main() -> None:
    """Do the job on standard input, and print how it ended: one line of JSON."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who has started it hears it, and ends it
    if hasattr(os, "nice"):
        os.nice(LOWEST)
    with Connection(os.dup(sys.stdin.fileno()), writable=False) as pipe:
        cache, records, threads = pipe.recv()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        missing = cache.missing(records)
        at_once = 1 if cache.settings.algorithm == "tvl1" else threads
        failed = cache.prepare(missing, at_once, lambda: None) if missing else []
        outcome: dict[str, Any] = {"made": len(missing) - len(failed), "failed": len(failed)}
    except (UserError, DecodeError) as error:
        outcome = {"error": str(error)}
    except Exception as error:  # whatever it is comes again where the flow is needed, and is told there
        outcome = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(outcome), flush=True)


def _end_with_parent() -> None:
    sys.stdin.read()  # until nobody can write any more
    os._exit(1)
