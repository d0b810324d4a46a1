"""The rule: each of its three conditions decides, and says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mml_lightning.evaluation.distillation_room import BEYOND_GUESSING, GAP, Evidence, decide
from mml_lightning.evaluation.metrics.bootstrap import Interval

ROOM = Evidence(
    **{"student": "rgb", "teacher": "flow", "metric": "top1"},
    lead=Interval(30, 20, 40),
    rescued=Interval(0.7, 0.6, 0.8),
    guessed=0.1,
    gap=Interval(2, 1.5, 2.5),
    prior_loss=2.3,
)


def test_room_where_all_three_hold() -> None:
    found = decide(ROOM)
    assert found.room is True
    assert "flow leads rgb by +30.0 points [+20.0, +40.0]" in found.reason and "70 % [60, 80]" in found.reason
    assert "+2.00 nats [+1.50, +2.50]" in found.reason


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"lead": Interval(30, 0, 60)}, "flow is not better than rgb by more than noise"),
        ({"lead": Interval(-5, -9, -1)}, "flow is not better"),
        ({"rescued": Interval(0.3, 0.1 + BEYOND_GUESSING, 0.5)}, "hardly more than guessing"),
        ({"gap": Interval(0.4, GAP * 2.3, 0.6)}, "a lesson would only slow its fitting"),
        ({"gap": Interval(-1, -2, -0.5)}, "a lesson would only slow its fitting"),
        ({"lead": Interval(1, float("nan"), float("nan"))}, "flow is not better"),
        ({"rescued": Interval(float("nan"), float("nan"), float("nan"))}, "hardly more than guessing"),
    ],
)
def test_no_room_where_the_lower_end_of_one_fails(changed: dict[str, Interval], said: str) -> None:
    found = decide(replace(ROOM, **changed))
    assert found.room is False and said in found.reason


@pytest.mark.parametrize("without", [{}, {"lead": Interval(0, -1, 1)}])
def test_without_a_training_loss_it_is_said_only_what_does_not_need_it(without: dict[str, Interval]) -> None:
    found = decide(replace(ROOM, gap=None, **without))
    assert found.room is (False if without else None)
    assert without or "the training loss of rgb is unknown" in found.reason


def test_the_ensemble_is_a_teacher_too() -> None:
    assert "the ensemble leads rgb" in decide(replace(ROOM, teacher="ensemble")).reason
