"""The process that has the networks. One that takes too long, or dies of a file, is replaced. Imports no torch."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import signal
import threading
from collections.abc import Callable
from http import HTTPStatus
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from mml_lightning.serve.asked import Refused

CONTEXT = multiprocessing.get_context("spawn")  # its children have none of our threads, locks and sockets


def analyst(*arguments: Any) -> Any:
    """An `Analyst`, with all that it imports."""
    from mml_lightning.config import resolvers
    from mml_lightning.serve.analysis import Analyst
    from mml_lightning.utils.process import quieten_libraries

    resolvers.register()
    quieten_libraries()
    return Analyst(*arguments)


class Worker:
    """An object in a process of its own; one thread at a time may ask it.

    Args:
        folder: of the server's files; the process removes it when the server is gone.
        make: makes the object there; it and the arguments must be picklable.
    """

    def __init__(self, folder: Path, make: Callable[..., Any], *arguments: Any) -> None:
        self._made_of = (folder, make, arguments)
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._ready = self._stopped = False
        self._starting = threading.Lock()

    def start(self) -> None:
        """Start the process; what it has to load is waited for in the first :meth:`ask`."""
        with self._starting:
            if self._stopped:
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "the server is ending")
            self._pipe, theirs = CONTEXT.Pipe()
            self._process = CONTEXT.Process(target=_work, args=(theirs, *self._made_of), daemon=True)
            self._process.start()
            theirs.close()
            self._ready = False

    def ask(self, method: str, *arguments: Any, timeout: float | None = None) -> Any:
        """What a method of the object returns.

        Args:
            timeout: seconds that it may take, loading aside.

        Raises:
            UserError: the object could not be made.
            Refused: the method raised it, took too long, or the process died.
        """
        if self._process is None or not self._process.is_alive():
            self.start()
        assert self._pipe is not None
        if not self._ready:
            self._receive(None)
            self._ready = True
        try:
            self._pipe.send((method, arguments))
        except OSError:
            raise self._died() from None
        return self._receive(timeout)

    def stop(self) -> None:
        """End the process, whatever it does."""
        with self._starting:
            self._stopped = True
            self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def _receive(self, timeout: float | None) -> Any:
        assert self._pipe is not None
        try:
            if not self._pipe.poll(timeout):
                self._end()
                self.start()  # for the next one
                raise Refused(HTTPStatus.GATEWAY_TIMEOUT, f"no result after {timeout:g} s, which --timeout allows")
            told = self._pipe.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if isinstance(told, BaseException):
            raise told
        return told

    def _died(self) -> Refused:
        if self._stopped:
            return Refused(HTTPStatus.SERVICE_UNAVAILABLE, "the server is ending")
        assert self._process is not None
        self._process.join()
        code = self._process.exitcode
        self.start()
        return Refused(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            f"the process of the networks died of this request (exit code {code}); out of memory, or a damaged file",
        )


def _work(pipe: Connection, folder: Path, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    from mml_lightning.utils.terminal import log_visibly

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the server ends this one
    log_visibly(logging.WARNING)
    try:
        made, failed = _tried(make, arguments)
        pipe.send(failed)
        while failed is None:
            method, given = pipe.recv()
            told, error = _tried(getattr(made, method), given)
            pipe.send(told if error is None else error)
    except (EOFError, OSError):  # the server is gone, perhaps killed
        shutil.rmtree(folder, ignore_errors=True)


def _tried(work: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, Exception | None]:
    from mml_lightning.utils.errors import UserError, exhausted

    try:
        return work(*arguments), None
    except (UserError, Refused) as error:
        return None, error
    except Exception as error:
        spent = exhausted(error)
        if spent is None:
            logging.getLogger(__name__).exception("a request failed")
        said = spent or f"it failed with {type(error).__name__}: the terminal of the server says where"
        return None, Refused(HTTPStatus.INTERNAL_SERVER_ERROR, said)
