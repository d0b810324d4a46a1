"""What a run changes of its process, put back when it has ended: a script or a notebook goes on as before."""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from mml_lightning.utils.plain_text import VisibleFormatter
from mml_lightning.utils.process import LIGHTNING


@contextmanager
def kept_process() -> Iterator[None]:
    """Variables, filters of warnings, logs, random numbers, and torch's threads and switches are afterwards as before.

    What a C library has done to its own memory (`step.keep_memory`) stays.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        for kept in (_environment, _logs, kept_random, _torch):
            stack.enter_context(kept())
        yield


@contextmanager
def logs_to(file: str) -> Iterator[None]:
    """What is logged goes to a file, and to standard output unless somebody has set up logging already."""
    root = logging.getLogger()
    handlers: list[logging.Handler] = [logging.FileHandler(file)]
    handlers += [] if root.handlers else [logging.StreamHandler(sys.stdout)]
    for handler in handlers:
        handler.setFormatter(VisibleFormatter("[%(asctime)s] %(message)s", "%H:%M:%S"))
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


@contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for key in os.environ.keys() - before.keys():
            del os.environ[key]
        os.environ.update(before)


@contextmanager
def _logs() -> Iterator[None]:
    names = ("", *LIGHTNING)
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def kept_random() -> Iterator[None]:
    """The random numbers of Python, numpy and torch go on afterwards as if nobody had drawn any."""
    import numpy as np
    import torch

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)


@contextmanager
def _torch() -> Iterator[None]:
    import torch

    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    strict, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    switches: dict[str, Any] = {name: getattr(cudnn, name) for name in ("benchmark", "deterministic")}
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict, warn_only=warn)
        for name, value in switches.items():
            setattr(cudnn, name, value)
