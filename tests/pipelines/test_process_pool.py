"""Processes of a pipeline: what they tell of runs that end, fail or die."""

from __future__ import annotations

import operator
from typing import Any

import pytest

from mml_lightning.pipelines.process_pool import Workers
from mml_lightning.utils.errors import UserError


def test_workers_tell_what_failed_and_who_died() -> None:
    divide: Any = operator.truediv
    power: Any = operator.pow
    numbers: list[Any] = [1, 2, 0, 7, 10**9]
    with Workers(1, divide, None) as pool:
        pool.start(3, numbers[0], numbers[1])
        assert not pool.idle
        assert pool.next() == (3, None) and pool.idle
        pool.start(4, numbers[0], numbers[2])
        assert pool.next() == (4, "division by zero")
        assert len(pool.workers) == 1, "one process took both"
    with Workers(1, power, None) as pool:
        pool.start(5, numbers[3], numbers[4])  # takes ages
        pool.workers[0].process.kill()
        number, error = pool.next()
        assert number == 5 and error is not None and "process died (exit code -9)" in error
        assert pool.idle, "another one takes its place"


def test_each_run_has_a_gpu_of_its_own() -> None:
    work: Any = operator.add
    with pytest.raises(UserError, match=r"pipeline\.jobs=3 needs a GPU each, there are 2"):
        Workers(3, work, ["0", "1"])
