"""A loader whose workers are watched: a video that holds a worker up, or kills it, is named and left out, and loading
goes on.

torch's own loader ends the run in both cases, and its time limit runs on while the run is suspended. Here every worker
says in shared memory what it reads; the main process kills the one that reads too long (which works for C code that
never comes back to Python), starts all workers again with what they had not delivered, and samples being functions of
(seed, epoch, record), the batches are those of an undisturbed run but for the videos that can't be read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import chain
from multiprocessing.connection import wait
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from mml_lightning.data.loading.dataset import ClipDataset, collate
from mml_lightning.data.loading.prefetch import prefetch_to_device
from mml_lightning.data.loading.presence import by_step
from mml_lightning.data.loading.worker_board import IDLE, INDEX, PID, SPENT, STILL, UNSHARED, Board
from mml_lightning.data.records.record_store import gc_frozen_for_fork
from mml_lightning.utils.errors import UserError, descriptors, spent_descriptors
from mml_lightning.utils.preemption import LISTENER

log = logging.getLogger(__name__)

PREFETCH = 2  # batches that a worker prepares ahead
DEATHS = 2  # deaths of a worker over one video, after which the video is the cause
LOSSES = 5  # workers that may be killed from outside in one epoch
DYING = 5.0  # seconds that a process may take to end
POLL = 1.0  # seconds between two looks at the workers
HANDED = 2  # batches that may be lost on their way from the workers in one epoch
QUIET = 120  # looks at workers that read nothing while a batch is missing, after which it is lost
CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGBUS}
SHARED = "/dev/shm is too small: enlarge it (docker run --shm-size), or lower "
FEWER = "data.workers or data.batch_size"


class _Feed:
    """The batches of an epoch for the workers; what was handed out and not delivered is handed out again."""

    def __init__(self) -> None:
        self._out: deque[Any] = deque()
        self._rest: Iterator[Any] = iter(())

    def begin(self, batches: Iterable[Any]) -> None:
        self._out.clear()
        self._rest = iter(batches)

    def delivered(self) -> None:
        self._out.popleft()

    def __iter__(self) -> Iterator[Any]:
        again = list(self._out)
        self._out.clear()
        for batch in chain(again, self._rest):
            self._out.append(batch)
            yield batch


class FaultTolerantLoader(DataLoader[dict[str, Any]]):
    """Batches of `dataset` in the order of `sampler`.

    Args:
        workers: processes; 0 reads in this one, where nothing can be watched.
        timeout: seconds that a worker may read one video; None for no limit. Time in which the run is suspended does
            not count.
        context: how workers start, see `multiprocessing.get_context`.
        name: of the split and the rank, for messages.
        device: where batches go, each while the one before is computed with; None leaves them on the host.
        step: batches that are told of each other, see :func:`presence.by_step`; None: none are.

    Raises (from iterating):
        UserError: workers die for reasons that lie in no video: memory, signals from outside.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        batch_size: int,
        sampler: Sampler[Any],
        workers: int,
        timeout: float | None = None,
        context: str | None = None,
        name: str = "train",
        device: torch.device | None = None,
        step: int | None = None,
    ) -> None:
        self.name, self.limit, self.device, self.step = name, timeout, device, step
        self.board = Board(workers)
        self.refused: dict[int, str] = {}
        self._deaths: Counter[int] = Counter()
        self._losses = self._handed = self._quiet = 0
        self._taken: int | None = None
        self._slow: dict[int, int] = {}  # pid of a worker that was ended for being slow: what it was reading
        self._feed = _Feed()
        self._own: Iterator[dict[str, Any]] | None = None  # batches that this process reads
        self._before: list[Any] = []  # the next one, or why there is none, where it was read in the middle of a step
        self._within_step = False
        self._loader: DataLoader[Any] | None = None
        self._processes: list[Any] = []
        super().__init__(
            dataclasses.replace(dataset, reading=self.board.read if workers else self._read, refused=self.refused),
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=functools.partial(collate, kinds=dataset.kinds),
            pin_memory=device is not None and device.type == "cuda",
            multiprocessing_context=context if workers else None,
            generator=torch.Generator(),  # of seeds that nothing uses; the process's own stays as it is
        )

    def _read(self, index: int) -> None:
        """Without workers this process reads: between two videos, and two steps, it hears that it shall leave."""
        self.board.read(index)
        if not self._within_step:
            LISTENER.pause()

    def reading(self) -> list[str]:
        """Ids of the videos that are being read now."""
        records = self.dataset.records  # type: ignore[attr-defined]
        return [records[row[INDEX]].id for row in self.board.rows() if row[INDEX] != IDLE]

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        batches = self._on_host()
        if self.step is not None:
            batches = by_step(batches, self.step, getattr(self.sampler, "skipped", 0) // (self.batch_size or 1))
        return batches if self.device is None else prefetch_to_device(batches, self.device)

    def _on_host(self) -> Iterator[dict[str, Any]]:
        if not self.num_workers:
            self._own = super().__iter__()
            try:
                yield from self._read_here(self._own)
            finally:
                self._own = None
                self._before.clear()
            return
        self._losses = self._handed = self._quiet = 0
        assert self.batch_sampler is not None
        self._feed.begin(self.batch_sampler)
        with self._watch():
            yield from self._batches()

    def _read_here(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        while (batch := self._before.pop() if self._before else next(batches, None)) is not None:
            if isinstance(batch, Exception):
                raise batch
            yield batch

    def read_next(self) -> None:
        """Read the next batch now, in the middle of a step, where this process reads; what goes wrong is raised when
        the batch is asked for."""
        if self._own is None or self._before:
            return
        self._within_step = True
        try:
            self._before.append(next(self._own, None))
        except Exception as error:
            self._before.append(error)
        finally:
            self._within_step = False

    def _batches(self) -> Iterator[dict[str, Any]]:
        batches: Iterator[Any] | None = None
        while True:
            try:
                batches = self._start() if batches is None else batches
                batch = next(batches)
            except StopIteration:
                return
            except Exception as error:  # a batch on its way from a worker that dies fails in many ways
                gone = any(process.exitcode is not None for process in self._processes)
                if _waited(error) and batches is not None and not gone and self._lost(error) is None:
                    LISTENER.pause()
                    continue
                batches = None
                if not self._recover(error):
                    raise _plainly(error) from None
                continue
            self._feed.delivered()
            self._quiet = 0
            yield batch

    def _start(self) -> Iterator[Any]:
        if self._loader is not None:  # its workers wait for an epoch
            return iter(self._loader)
        self.board.clear()
        self._loader = DataLoader(
            self.dataset,
            batch_sampler=self._feed,  # type: ignore[arg-type]  # yields lists of (epoch, index)
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
            persistent_workers=True,
            pin_memory=self.pin_memory,
            multiprocessing_context=self.multiprocessing_context,
            worker_init_fn=self.board.enter,
            prefetch_factor=PREFETCH,
            timeout=POLL,  # then we look after the workers, and wait on
            generator=self.generator,
        )
        before = {process.pid for process in multiprocessing.active_children()}
        with _no_alarm_at_deaths(), gc_frozen_for_fork():
            batches = iter(self._loader)
        self._processes = [p for p in multiprocessing.active_children() if p.pid not in before]
        return batches

    @contextlib.contextmanager
    def _watch(self) -> Iterator[None]:
        """End the worker that reads one video for longer than the limit, while the block runs.

        By a thread: the main one may itself wait for that worker to hand over an earlier batch.
        """
        if self.limit is None:
            yield
            return
        ended = threading.Event()
        threading.Thread(target=self._look, args=(ended, self.limit), daemon=True, name="loader watch").start()
        try:
            yield
        finally:
            ended.set()

    def _look(self, ended: threading.Event, limit: float) -> None:
        interval = min(POLL, limit / 4)
        seen: dict[int, tuple[int, float]] = {}  # pid: (samples taken, seconds on the last one)
        while not ended.wait(interval):
            for pid, taken, index, _ in self.board.rows():
                before, seconds = seen.get(pid, (taken, 0.0))
                # looks are counted, not the clock: it goes on while the run is suspended, and so is the watch
                seconds = seconds + interval if before == taken and index != IDLE else 0.0
                seen[pid] = (taken, seconds)
                if seconds > limit and pid > 0 and pid not in self._slow:
                    self._slow[pid] = index
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    def _recover(self, error: Exception) -> bool:
        """Whether loading can go on: a worker has died. The videos at fault are noted, and all workers are ended.

        Raises:
            UserError: no video is at fault, and it happened too often.
        """
        if "in DataLoader worker process" in str(error):  # the worker says it, so it lives
            return False
        with _undisturbed():
            ended = wait([process.sentinel for process in self._processes], 0.0 if _waited(error) else DYING)
            for process in self._processes:
                if process.sentinel in ended:
                    process.join(DYING)  # its files are closed a moment before it has ended
            dead = {p.pid: p.exitcode for p in self._processes if p.exitcode is not None}
            lost = self._lost(error)
            if not dead and not _waited(error) and lost is None:
                if not isinstance(error, EOFError | ConnectionError):
                    return False
                lost = UNSHARED  # nobody has died, and what was announced has not come
            at = {row[PID]: row[INDEX] for row in self.board.rows()}
            for process in self._processes:
                process.kill()
            for process in self._processes:
                process.join(DYING)
            self._loader, self._processes = None, []
        if lost is not None:
            self._hand_over(lost)
        for pid, code in dead.items():
            self._judge(pid, code, at.get(pid, IDLE))
        return True

    def _lost(self, error: Exception) -> int | None:
        """Why the batch that is waited for will not come; None where it may."""
        if spent_descriptors(error):
            return SPENT
        taken = self.board.read_so_far()
        self._quiet = self._quiet + 1 if taken is not None and taken == self._taken else 0
        self._taken = taken
        told = self.board.lost()
        return STILL if told is None and self._quiet > QUIET else told

    def _hand_over(self, why: int) -> None:
        """A batch was lost on its way: tensors in files that have names need no descriptor each, so the next try sends
        them in those.

        Raises:
            UserError: it happened too often.
        """
        self._handed += 1
        self._quiet = 0
        cause, advice = {
            SPENT: (f"too many open files, ulimit -n is {descriptors()}", "raise it, or lower data.workers"),
            UNSHARED: ("its memory can't be shared", f"{SHARED}{FEWER}"),
            STILL: ("the workers and the run block each other", "set data.workers=0 to see what happens"),
        }[why]
        lost = f"{self.name}: a batch from a loader worker was lost ({cause})"
        if self._handed > HANDED:
            raise UserError(f"{lost}, {self._handed} times in this epoch; {advice}")
        torch.multiprocessing.set_sharing_strategy("file_system")
        log.error("%s; reloading it; %s", lost, advice)

    def _judge(self, pid: int, code: int, index: int) -> None:
        """Note what the death of one worker says about the video it was reading."""
        told = self._slow.pop(pid, None)
        if told is not None and code == -signal.SIGKILL:
            self._refuse(told, f"a worker needed longer than loading.timeout={self.limit:g} seconds")
            return
        cause, crashed = _cause(code), code >= 0 or -code in CRASHES
        where = f"{self.name}: a loader worker {cause}"
        video = "between two videos" if index == IDLE else f"while it read {self._called(index)}"
        if crashed and index != IDLE:
            self._deaths[index] += 1
            if self._deaths[index] >= DEATHS:
                self._refuse(index, f"a loader worker {cause} each time it read it")
            else:
                log.error("%s %s; trying once more", where, video)
            return
        self._losses += 1
        advice = f"{SHARED}{FEWER}" if code == -signal.SIGBUS else f"if memory ran out, lower {FEWER}"
        if self._losses > LOSSES:
            raise UserError(f"{where} {video}, {self._losses} times in this epoch; {advice}")
        log.error("%s %s; reloading its batches; %s", where, video, advice)

    def _refuse(self, index: int, reason: str) -> None:
        self.refused[index] = f"{self._called(index)}: {reason}"
        log.error("%s: %s; it counts as unreadable", self.name, self.refused[index])

    def _called(self, index: int) -> str:
        record = self.dataset.records[index]  # type: ignore[attr-defined]
        return str(record.media.get("frames") or next(iter(record.media.values())))


def _cause(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Where deaths are expected: torch's handler of SIGCHLD raises for a dead worker wherever the main thread is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def _waited(error: Exception) -> bool:
    """Whether torch has only waited for as long as it was told."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader timed out")


def _plainly(error: BaseException) -> BaseException:
    """An error that a worker met, in one line where it is no program's: torch wraps it in the worker's traceback."""
    text = str(error)
    if isinstance(error, UserError):
        last = text.strip().splitlines()[-1]
        return UserError(last.partition("UserError: ")[2] or last)
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
        return UserError(f"memory ran out in a loader worker; lower {FEWER}")
    if spent_descriptors(error):
        return UserError(f"too many open files (ulimit -n is {descriptors()}); raise it, or lower data.workers")
    if "shared memory" in text or "No space left on device" in text:
        return UserError(f"{SHARED}{FEWER}")
    return error


@contextlib.contextmanager
def _no_alarm_at_deaths() -> Iterator[None]:
    """Start torch's workers without its alarm, an exception in whatever the main thread does when a worker dies: the
    loader looks for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)
