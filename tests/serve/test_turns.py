"""Turns of many threads: one at a time, in the order in which they were ready, and every place is given back."""

from __future__ import annotations

import threading

import pytest

from mml_lightning.serve.asked import Refused
from mml_lightning.serve.turns import Gone, Turns
from tests.patience import LONGEST, wait_for


def test_many_at_once() -> None:
    turns, order, at_once, refused = Turns(waiting=5), list[int](), 0, list[int]()

    def ask(number: int) -> None:
        nonlocal at_once
        try:
            with turns.place(), turns.turn(lambda: number % 7 == 3 and number in order):
                at_once += 1
                assert at_once == 1
                order.append(number)
                at_once -= 1
        except Refused:
            refused.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONGEST)
    assert sorted([*order, *refused]) == list(range(60)) and turns.inside == 0


def test_who_is_gone_leaves_the_line_and_errors_give_places_back() -> None:
    turns, began, may = Turns(waiting=1), threading.Event(), threading.Event()

    def hold() -> None:
        with turns.place(), turns.turn(lambda: False):
            began.set()
            may.wait(LONGEST)

    holder = threading.Thread(target=hold)
    holder.start()
    assert began.wait(LONGEST)
    with pytest.raises(Gone), turns.place(), turns.turn(lambda: True):
        raise AssertionError("it was not its turn")
    assert turns.inside == 1
    may.set()
    holder.join(LONGEST)
    wait_for(lambda: turns.inside == 0, "the place")
    with pytest.raises(ZeroDivisionError), turns.place(), turns.turn(lambda: False):
        raise ZeroDivisionError
    with turns.place(), turns.turn(lambda: False):
        pass
