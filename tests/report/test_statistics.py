"""Student-t numbers against the distribution itself, and estimates against worked examples."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning.report.statistics import estimate, t_975


def upper_tail(t: float, df: int, steps: int = 4000) -> float:
    """P(T > t) by Simpson's rule on the density from 0 to t."""
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    width = t / steps
    weights = (1 if i in (0, steps) else 4 if i % 2 else 2 for i in range(steps + 1))
    density = (scale * (1 + (i * width) ** 2 / df) ** (-(df + 1) / 2) for i in range(steps + 1))
    return 0.5 - math.fsum(w * d for w, d in zip(weights, density, strict=True)) * width / 3


@pytest.mark.parametrize("df", [*range(1, 31), 40, 50, 60, 80, 100])
def test_tabulated_t_values_cut_off_two_and_a_half_percent(df: int) -> None:
    # The three printed decimals bracket the exact point.
    assert upper_tail(t_975(df) + 0.0006, df) < 0.025 < upper_tail(t_975(df) - 0.0006, df)


@pytest.mark.parametrize(("df", "t"), [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042)])
def test_known_t_values(df: int, t: float) -> None:
    assert t_975(df) == t


@given(st.integers(1, 5000))
def test_t_never_rises_and_never_makes_an_interval_too_narrow(df: int) -> None:
    assert t_975(df) >= t_975(df + 1) >= 1.96
    assert upper_tail(t_975(df), df) < 0.025 + 1e-4


def test_no_degree_of_freedom_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        t_975(0)


def test_three_seeds_worked_by_hand() -> None:
    found = estimate([60.0, 61.0, 62.0])
    assert (found.n, found.mean, found.std) == (3, 61.0, 1.0)
    assert found.ci95 == pytest.approx(4.303 / math.sqrt(3))
    assert found.excludes_zero


def test_one_value_has_no_interval_and_claims_nothing() -> None:
    found = estimate([99.0])
    assert (found.mean, found.std, found.ci95, found.excludes_zero) == (99.0, None, None, False)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_unusable_values_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="value"):
        estimate(values)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8), st.floats(-1e3, 1e3))
def test_shift_moves_the_mean_and_leaves_the_interval(values: list[float], shift: float) -> None:
    before, after = estimate(values), estimate([value + shift for value in values])
    assert after.mean == pytest.approx(before.mean + shift, abs=1e-6)
    assert after.ci95 == pytest.approx(before.ci95, abs=1e-6)
