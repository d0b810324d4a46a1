"""Processes that train the runs of a pipeline side by side: each is started once and takes one run after another."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from mml_lightning.config.settings import Settings
from mml_lightning.utils.errors import Preempted, UserError

Work = Callable[[Settings, list[str]], Any]
SHOWN = "CUDA_VISIBLE_DEVICES"


@dataclass
class Worker:
    """A process with its pipe, and the number of the run it is at."""

    process: Any
    pipe: Connection
    device: str | None
    number: int | None = None


class Workers:
    """At most `jobs` processes: one thread each on a CPU, a device each on GPUs.

    Args:
        work: what a process does with a run; importable by its name.

    Raises:
        UserError: more jobs than GPUs.
    """

    def __init__(self, jobs: int, work: Work, devices: list[str] | None) -> None:
        if devices is not None and jobs > len(devices):
            raise UserError(f"pipeline.jobs={jobs} needs a GPU each, there are {len(devices)}: lower it")
        self.work = work
        self.free: list[str | None] = [None] * jobs if devices is None else list(devices[:jobs])
        self.workers: list[Worker] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        """End the processes. One that is at a run is asked to save and leave, if Ctrl-C did not reach it too."""
        for worker in self.workers:
            worker.pipe.close()
        for signal, patience in (("none", 3.0), ("terminate", 30.0), ("kill", 5.0)):
            until = time.monotonic() + patience
            for worker in self.workers:
                if signal != "none" and worker.process.is_alive():
                    getattr(worker.process, signal)()
            for worker in self.workers:
                worker.process.join(max(0.0, until - time.monotonic()))

    @property
    def idle(self) -> bool:
        return bool(self.free) or any(worker.number is None for worker in self.workers)

    def start(self, number: int, cfg: Settings, typed: list[str]) -> None:
        worker = next((w for w in self.workers if w.number is None), None) or self._hire()
        worker.number = number
        worker.pipe.send((cfg, typed))

    def next(self) -> tuple[int, str | None]:
        """Wait for a run to end: its number, and why it failed if it did."""
        busy = {worker.pipe: worker for worker in self.workers if worker.number is not None}
        worker = busy[wait(list(busy))[0]]  # type: ignore[index]
        number, worker.number = worker.number, None
        assert number is not None
        try:
            return number, worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            self.workers.remove(worker)
            self.free.append(worker.device)
            return number, f"its process died (exit code {worker.process.exitcode}); out of memory?"

    def _hire(self) -> Worker:
        device = self.free.pop(0)
        ours, theirs = multiprocessing.Pipe()
        before = {key: os.environ.get(key) for key in (SHOWN, "OMP_NUM_THREADS")}
        try:  # read when the process imports torch, before it runs anything of ours
            os.environ.update({SHOWN: device} if device is not None else {"OMP_NUM_THREADS": "1"})
            process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, self.work))
            process.start()
        finally:
            for key, value in before.items():
                os.environ.pop(key, None) if value is None else os.environ.update({key: value})
        theirs.close()
        self.workers.append(Worker(process, ours, device))
        return self.workers[-1]


def gpus(accelerator: str) -> list[str] | None:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; None for work on the CPU."""
    import torch

    from mml_lightning.utils.device import uses_gpu

    if not uses_gpu(accelerator):
        return None
    shown = os.environ.get(SHOWN)
    return shown.split(",") if shown else [str(number) for number in range(torch.cuda.device_count())]


def _serve(pipe: Connection, work: Work) -> None:
    from mml_lightning.config import resolvers
    from mml_lightning.utils.preemption import LISTENER
    from mml_lightning.utils.process import quieten_libraries

    threading.Thread(target=_die_with_parent, daemon=True).start()
    resolvers.register()
    logging.getLogger().setLevel(logging.INFO)
    quieten_libraries()
    try:
        while True:
            cfg, typed = pipe.recv()
            try:
                with LISTENER.listen():
                    work(cfg, typed)
                pipe.send(None)
            except (KeyboardInterrupt, Preempted):
                return
            except Exception as error:  # its traceback is in the log of the run
                pipe.send(str(error).splitlines()[0] if str(error) else type(error).__name__)
    except (EOFError, OSError, KeyboardInterrupt):
        return


def _die_with_parent() -> None:
    """A pipeline that is killed must not go on in its children."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
