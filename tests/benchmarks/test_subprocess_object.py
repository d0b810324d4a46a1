"""Objects in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from pathlib import Path

import pytest

from mml_lightning.benchmarks.subprocess_object import RemoteObject
from mml_lightning.utils.errors import UserError


def test_answers_and_errors_come_back() -> None:
    with RemoteObject("counter", Counter, "aab") as counter:
        assert counter.ask("most_common", 1) == [("a", 2)]
        with pytest.raises(TypeError):
            counter.ask("most_common", "one")
        counter.ask("update", "bbb")
        assert counter.ask("total") == 6


def test_its_own_processes_start_as_those_of_a_run() -> None:
    # those of the fork server would not end with it
    with RemoteObject("context", multiprocessing.get_context) as context:
        assert context.ask("get_start_method") == multiprocessing.get_all_start_methods()[0]


def test_one_that_dies_while_it_is_asked_is_one_line() -> None:
    with (
        RemoteObject("the way", Path, ".") as way,
        pytest.raises(UserError, match=r"^the process of the way died \(exit code"),
    ):
        os.kill(way._process.pid, 9)
        way.ask("exists")


def test_one_that_is_dead_when_it_is_asked_is_one_line() -> None:
    with RemoteObject("the way", Path, ".") as way:
        way._process.kill()
        way._process.join()
        with pytest.raises(UserError, match="out of memory"):
            way.ask("exists")


def test_one_that_can_t_be_made_leaves_no_process() -> None:
    before = set(multiprocessing.active_children())
    with pytest.raises(ValueError):
        RemoteObject("the way", int, "one")
    assert set(multiprocessing.active_children()) == before
