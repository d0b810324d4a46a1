"""A run that receives SIGTERM, SIGHUP, SIGUSR1 or SIGUSR2 saves at the next step and exits with a code that asks for a
restart. A second SIGTERM or SIGHUP ends it at once, whatever it is doing.

The signal itself only sets a flag. What saves is a step boundary that all ranks reach together; what was begun outside
of training (data, flow, tables) leaves nothing half-written and ends at once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mml_lightning.utils.errors import Preempted

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))
LAST = ("SIGTERM", "SIGHUP")  # a second one of these ends the process
AGAIN = 1.0  # seconds after the first from which a signal is a second one: schedulers send the same to all and to each


class Listener:
    """Hears the signals of one process.

    `deferring` is true while a step is under way: then a signal is only noted. `asked` is the signal that was heard.
    `leave` is what to do about it where the main thread waits between two steps.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.deferring = False
        self.listening = False
        self.leave: Callable[[], object] | None = None
        self.before: dict[int, Any] = {}

    @property
    def wants_to_leave(self) -> bool:
        return self.listening and self.asked is not None

    @property
    def heard(self) -> str:
        """The name of the signal; another rank may have heard it alone."""
        return "signal to another rank" if self.asked is None else signal.Signals(self.asked).name

    @contextmanager
    def listen(self) -> Iterator[Listener]:
        """Hear signals until the block ends; in other threads than the main one nothing can be heard."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        self.asked, self.deferring, self.leave = None, False, None
        self.before = {number: signal.getsignal(number) for number in SIGNALS}
        hangup = getattr(signal, "SIGHUP", 0)
        if self.before.get(hangup) == signal.SIG_IGN:
            del self.before[hangup]  # nohup: it shall not be heard
        self.listening = True
        self.install()
        try:
            with _ending_at_the_second(self.before):
                yield self
        finally:
            self.listening = self.deferring = False
            for number, handler in self.before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def install(self) -> None:
        """Again where somebody else has taken the signals (Lightning, when a loop starts)."""
        if self.listening and threading.current_thread() is threading.main_thread():
            for number in self.before:
                signal.signal(number, self._hear)

    def pause(self) -> None:
        """Called by the main thread while it waits for data: after a signal it need not wait for the next step."""
        if self.deferring and self.wants_to_leave and self.leave is not None:
            self.leave()

    def hand_on(self) -> None:
        """Tell whoever listened before us (submitit, which puts the job back into the queue)."""
        handler = self.before.get(self.asked) if self.asked is not None else None
        if callable(handler):
            handler(self.asked, None)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.asked = number
        if not self.deferring:
            raise Preempted(f"{self.heard}: stopped")


@contextmanager
def _ending_at_the_second(numbers: Iterable[int]) -> Iterator[None]:
    """Inside, a second signal of :data:`LAST` ends the process with 128 + its number, as the signal itself would.

    By a thread that C code tells: the main one may stand in a call that never comes back to Python.
    """
    ears, mouth = os.pipe()
    os.set_blocking(mouth, False)
    last = {getattr(signal, name) for name in LAST if hasattr(signal, name)} & {*numbers}

    def listen() -> None:
        first: float | None = None
        while heard := os.read(ears, 1):
            if heard[0] not in last:
                continue
            now = time.monotonic()
            if first is not None and now - first >= AGAIN:
                name = signal.Signals(heard[0]).name
                os.write(2, f"second {name}: stopped at once, nothing is saved\n".encode())
                os._exit(128 + heard[0])
            first = now if first is None else first
        os.close(ears)

    threading.Thread(target=listen, daemon=True, name="second signal").start()
    before = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(mouth)


LISTENER = Listener()
"""The one of this process."""


class Agreement:
    """What all ranks want to do at a step: anything that one of them wants.

    One message of a few bytes per step between the processors, beside whatever the devices are doing.
    """

    def __init__(self, ranks: int) -> None:
        import torch.distributed  # those who only hear signals need no torch

        self.ranks = ranks
        own = ranks > 1 and torch.distributed.get_backend() != "gloo"
        self._group = torch.distributed.new_group(backend="gloo") if own else None

    def any(self, *wishes: bool) -> list[bool]:
        if self.ranks == 1:
            return list(wishes)
        import torch

        told = torch.tensor(wishes, dtype=torch.uint8)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX, group=self._group)
        return [bool(value) for value in told.tolist()]


def leave_signals_to_the_parent() -> None:
    """In a loader's worker: a signal for the whole job must not end it while its parent finishes a step.

    Only the parent's own SIGTERM does. Blocked for good, so that no handler of the parent's runs here.
    """
    if not hasattr(signal, "sigwaitinfo"):
        return
    parent = os.getppid()
    if threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)  # the parent's
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def wait() -> None:
        while True:
            heard = signal.sigwaitinfo(SIGNALS)
            if heard.si_signo == signal.SIGTERM and heard.si_pid == parent:
                os._exit(0)

    threading.Thread(target=wait, daemon=True, name="signals").start()
