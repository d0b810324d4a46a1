"""Draws with replacement: what they say of a number, and that differences are paired."""

from __future__ import annotations

import pytest
import torch

from mml_lightning.evaluation.metrics import average_precision
from mml_lightning.evaluation.metrics.bootstrap import Bootstrap


def test_the_interval_of_a_mean_is_the_one_of_theory() -> None:
    values = torch.randn(1, 2000, generator=torch.Generator().manual_seed(1)) + 3
    found = Bootstrap(2000, 1).mean(values).interval()
    half = 1.96 * float(values.std()) / 2000**0.5
    assert found.value == pytest.approx(float(values.double().mean()))
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.15 * half)


def test_differences_are_paired() -> None:
    luck, values = Bootstrap(300, 2), torch.randn(2, 300, generator=torch.Generator().manual_seed(2))
    same = (luck.mean(values + 1) - luck.mean(values)).interval()
    assert (same.low, same.value, same.high) == pytest.approx((1, 1, 1), abs=1e-6)


def test_seeds_are_drawn_too() -> None:
    """Networks of two seeds that differ are less sure than two that do not."""
    generator = torch.Generator().manual_seed(3)
    one, other = torch.rand(2, 500, generator=generator)
    luck = Bootstrap(500, 2)
    same, apart = (luck.mean(torch.stack(pair)).interval() for pair in ((one, other), (one, other + 2)))
    assert apart.high - apart.low > 5 * (same.high - same.low)


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_of_a_draw_is_that_of_its_videos(ties: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    scores = torch.randn(30, 3, generator=generator).double()
    scores = scores.round() if ties else scores
    target = (torch.rand(30, 3, generator=generator) < 0.4).long()
    luck = Bootstrap(30, 1, draws=20)
    found = luck.mean_average_precision(scores[None], target, "grouped", "drop")
    assert found.value == pytest.approx(100 * float(average_precision(scores, target).nanmean()))
    for counts, value in zip(luck.counts.long(), found.draws.tolist(), strict=True):
        videos = torch.arange(30).repeat_interleave(counts)
        assert value == pytest.approx(100 * float(average_precision(scores[videos], target[videos]).nanmean()))


def test_a_number_that_no_draw_has_has_no_interval() -> None:
    found = Bootstrap(5, 1).ratio(torch.zeros(1, 5), torch.zeros(1, 5)).interval()
    assert found.value != found.value and found.low != found.low
