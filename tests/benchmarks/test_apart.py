"""Objects in processes of their own."""

from __future__ import annotations

import multiprocessing
from collections import Counter

import pytest

from mml_lightning.benchmarks.apart import Apart


def test_answers_and_errors_come_back() -> None:
    with Apart("counter", Counter, "aab") as counter:
        assert counter.ask("most_common", 1) == [("a", 2)]
        with pytest.raises(AttributeError):
            counter.ask("least_common")
        counter.ask("update", "bbb")
        assert counter.ask("total") == 6


def test_its_own_processes_start_as_those_of_a_run() -> None:
    # those of the fork server would not end with it
    with Apart("context", multiprocessing.get_context) as context:
        assert context.ask("get_start_method") == multiprocessing.get_all_start_methods()[0]
