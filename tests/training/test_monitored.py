"""Metrics by name before there are any."""

from __future__ import annotations

import math

import pytest

from mml_lightning.training.monitored import Monitored, metrics_of, mode_of
from tests.training import test_cohort as lab


@pytest.mark.parametrize("metric", ["val/rgb/top1", "val/ensemble/top5", "val/verb/rgb/mean_class", "val/flow/map"])
def test_more_is_better(metric: str) -> None:
    assert mode_of(metric) == "max"


@pytest.mark.parametrize("metric", ["val/rgb/loss", "val/rgb/ece", "train/loss", "train/flow/kl", "val/mine"])
def test_less_is_better(metric: str) -> None:
    assert mode_of(metric) == "min"


@pytest.mark.parametrize(
    ("mode", "value", "than", "better"),
    [
        ("max", 2.0, 1.0, True),
        ("max", 1.0, 1.0, False),
        ("min", 0.5, 1.0, True),
        ("min", 1.0, 1.0, False),
        ("max", math.nan, None, False),
        ("min", math.nan, 1.0, False),
        ("max", -math.inf, None, True),
    ],
)
def test_what_is_better(mode: str, value: float, than: float | None, better: bool) -> None:
    assert Monitored("m", mode).better(value, than) is better


def test_names_are_known_before_a_step() -> None:
    cohort = lab.make_cohort({"rgb": lab.RGB, "flow": lab.FLOW}, lab.MUTUAL)
    names = metrics_of(cohort, val=True)
    assert names[0] == "val/rgb/top1" and "val/ensemble/loss" in names
    assert {"train/loss", "train/rgb/ce", "train/flow/kl"} <= set(names)
    assert not [name for name in metrics_of(cohort, val=False) if name.startswith("val/")]
