"""Something to be measured in a process of its own, so that no way of doing it finds the memory another one left."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

import torch

from mml_lightning.config import resolvers
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.process import quieten_libraries


class RemoteObject:
    """An object that lives in a process of its own; :meth:`ask` calls its methods.

    Args:
        name: of the way, for messages.
        make: makes the object there; it and its arguments must be picklable.

    Raises:
        UserError: `make` raised it, or the process died.
    """

    def __init__(self, name: str, make: Callable[..., Any], *arguments: Any) -> None:
        self.name = name
        context: Any = multiprocessing.get_context("forkserver")  # which has neither threads nor a GPU
        context.set_forkserver_preload([make.__module__])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, torch.get_num_threads(), make, arguments))
        resource_tracker.ensure_running()  # its start would unblock the signal
        with _later(signal.SIGINT):  # a fork server that is starting answers with a traceback
            self._process.start()
        theirs.close()
        try:
            self._receive()
        except BaseException:
            self.__exit__()
            raise

    def ask(self, method: str, *arguments: Any) -> Any:
        """What the object's method returns.

        Raises:
            UserError: the method raised it, or the process died.
        """
        try:
            self._pipe.send((method, arguments))
        except OSError:
            raise self._died() from None
        return self._receive()

    def __enter__(self) -> RemoteObject:
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        """After an error it is not waited for: what it does is wanted no more, and may take minutes."""
        self._pipe.close()
        if kind is not None and self._process.pid is not None and self._process.is_alive():
            os.kill(self._process.pid, signal.SIGINT)  # its loaders' workers end with it
        self._process.join(1 if kind is not None else 10)
        self._process.kill()

    def _receive(self) -> Any:
        try:
            told = self._pipe.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if isinstance(told, BaseException):
            raise told
        return told

    def _died(self) -> UserError:
        self._process.join()
        return UserError(f"the process of {self.name} died (exit code {self._process.exitcode}); out of memory?")


@contextmanager
def _later(number: signal.Signals) -> Iterator[None]:
    """A signal waits until the block ends; processes that start meanwhile do not hear it at all."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, threads: int, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    # a loader's workers are to be forked here, as in a run: processes of the fork server would outlive this one
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    resolvers.register()
    quieten_libraries()
    torch.set_num_threads(threads)
    try:
        made, failed = _tried(make, arguments)
        pipe.send(failed)
        while failed is None:
            method, given = pipe.recv()
            told, error = _tried(getattr(made, method, None), given)
            if torch.cuda.is_initialized():  # other ways share the device
                torch.cuda.empty_cache()
            pipe.send(told if error is None else error)
    except (EOFError, OSError, KeyboardInterrupt):  # nobody listens any more
        return


def _tried(work: Any, arguments: tuple[Any, ...]) -> tuple[Any, Exception | None]:
    try:
        return work(*arguments), None
    except Exception as error:
        return None, error
