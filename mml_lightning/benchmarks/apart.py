"""Something to be measured in a process of its own, so that no way of doing it finds the memory another one left."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from mml_lightning import resolvers
from mml_lightning.errors import UserError
from mml_lightning.process import quieten_libraries


class Apart:
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
        self._process.start()
        theirs.close()
        self._receive()

    def ask(self, method: str, *arguments: Any) -> Any:
        """What the object's method returns.

        Raises:
            UserError: the method raised it, or the process died.
        """
        self._pipe.send((method, arguments))
        return self._receive()

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(10)
        self._process.kill()

    def _receive(self) -> Any:
        try:
            told = self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise UserError(f"the process of {self.name} died (exit code {code}); out of memory?") from None
        if isinstance(told, BaseException):
            raise told
        return told


def _serve(pipe: Connection, threads: int, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    # a loader's workers are to be forked here, as in a run: processes of the fork server would outlive this one
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    resolvers.register()
    quieten_libraries()
    torch.set_num_threads(threads)
    made: Any = None
    try:
        while True:
            try:
                if made is None:
                    made, told = make(*arguments), None
                else:
                    method, given = pipe.recv()
                    told = getattr(made, method)(*given)
            except (EOFError, KeyboardInterrupt):
                return
            except Exception as error:
                told = error
            pipe.send(told)
    except OSError:  # nobody listens any more
        return
