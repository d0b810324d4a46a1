"""What workers say in shared memory while they read."""

from __future__ import annotations

import os
import sys
from multiprocessing.queues import Queue

import torch
from torch.utils.data import get_worker_info

from mml_lightning.utils.errors import spent_descriptors
from mml_lightning.utils.malloc import keep_freed_memory
from mml_lightning.utils.preemption import leave_signals_to_the_parent

PID, TAKEN, INDEX, LOST = range(4)  # columns of the board
IDLE = -1
UNSHARED, SPENT, STILL = range(3)  # why a batch is lost: its memory can't be shared, no file descriptor, nobody knows


class Board:
    """What every worker is reading: [workers, 4] numbers in memory that all processes see."""

    def __init__(self, workers: int) -> None:
        self.state = torch.full((max(1, workers), 4), IDLE).share_memory_()

    def enter(self, worker: int) -> None:
        """Called in a worker when it starts."""
        torch.set_num_threads(1)  # workers are the parallelism
        leave_signals_to_the_parent()
        keep_freed_memory(False)  # as its parent may: what a worker decodes is never as large again
        self.state[worker, PID] = os.getpid()

        def lose(error: Exception, batch: object) -> None:
            """A batch can't be handed over: the threads that do it would print that, and nobody would hear of it."""
            self.state[worker, LOST] = SPENT if spent_descriptors(error) else UNSHARED

        Queue._on_queue_feeder_error = staticmethod(lose)  # type: ignore[attr-defined]
        sys.excepthook = lambda kind, error, trace: lose(error, None)  # type: ignore[arg-type]  # of the one that sends

    def read(self, index: int) -> None:
        """Called where a sample is made: record `index` is being read, :data:`IDLE` for none."""
        info = get_worker_info()
        row = self.state[info.id if info else 0]
        row[TAKEN] += 1
        row[INDEX] = index

    def rows(self) -> list[list[int]]:
        return self.state.tolist()

    def lost(self) -> int | None:
        """Why a batch was lost on its way from a worker; None where none was."""
        worst = int(self.state[:, LOST].max())
        return None if worst == IDLE else worst

    def read_so_far(self) -> int | None:
        """How many samples were taken by workers that read nothing now; None where one reads."""
        return int(self.state[:, TAKEN].sum()) if bool((self.state[:, INDEX] == IDLE).all()) else None

    def clear(self) -> None:
        self.state.fill_(IDLE)
