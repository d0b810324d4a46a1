from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning.training.schedules import constant, cosine, step, warmup


@pytest.mark.parametrize(
    ("epoch", "lr"), [(0, 0.01), (19, 0.01), (19.99, 0.01), (20, 0.001), (39, 0.001), (40, 0.0001), (49, 0.0001)]
)
def test_published_steps(epoch, lr):
    assert 0.01 * step(epoch, epochs=50, steps=[20, 40]) == pytest.approx(lr, rel=1e-9)


@pytest.mark.parametrize(("epoch", "lr"), [(0, 0.01), (10, 0.00904508), (25, 0.005), (49, 9.87e-6), (50, 0), (60, 0)])
def test_published_cosine(epoch, lr):
    assert 0.01 * cosine(epoch, epochs=50) == pytest.approx(lr, rel=1e-3 if epoch == 49 else 1e-6, abs=1e-12)


def test_gamma_and_order_of_steps():
    assert step(30, epochs=50, steps=[40, 20], gamma=0.5) == 0.5
    assert step(45, epochs=50, steps=(20.5, 40.5), gamma=0.5) == 0.25
    assert step(45, epochs=50, steps=[]) == 1


@pytest.mark.parametrize(
    ("epoch", "lr"),
    [
        *((0, 1e-4), (1, 0.00945), (2, 0.0188), (3, 0.02815), (4, 0.0375)),
        *((40.99, 0.0375), (41, 0.00375), (48.99, 0.00375), (49, 0.000375), (56.99, 0.000375)),
    ],
)
def test_published_steps_of_charades(epoch, lr):
    warm = {"warmup_epochs": 4, "warmup_start": 1e-4 / 0.0375}
    for form in ("line", "ramp"):  # the same where no step falls into the warm-up
        factor = step(epoch, epochs=57, steps=[41, 49], warmup_form=form, **warm)
        assert 0.0375 * factor == pytest.approx(lr, rel=1e-9)


@pytest.mark.parametrize(
    ("epoch", "lr"), [(0, 1e-4), (2.5, (1e-4 + 0.2457407) / 2), (5, 0.2457407), (30, 0.1250005), (60, 1e-6), (70, 1e-6)]
)
def test_published_cosine_of_charades(epoch, lr):
    """The warm-up leads to the cosine's value at its end, 0.24574, below the base rate of 0.25."""
    warm = {"warmup_epochs": 5, "warmup_start": 1e-4 / 0.25, "warmup_form": "line"}
    assert 0.25 * cosine(epoch, epochs=60, end=1e-6 / 0.25, **warm) == pytest.approx(lr, rel=1e-6)


def test_published_cosine_of_kinetics():
    """Base rate 0.1 for 196 epochs, 34 of them warm-up from 0.01 on top of the cosine."""
    rate = partial(cosine, epochs=196, warmup_epochs=34, warmup_start=0.1, warmup_form="line")
    at_end = 0.5 * (1 + math.cos(math.pi * 34 / 196))
    assert rate(34) == pytest.approx(at_end) and rate(17) == pytest.approx((0.1 + at_end) / 2)


SCHEDULES = [partial(step, steps=[20, 40]), cosine, constant]
LINES = [partial(schedule, warmup_form="line") for schedule in (partial(step, steps=[3, 40]), cosine)]


@pytest.mark.parametrize("schedule", LINES)
def test_line_leads_straight_to_the_curve(schedule):
    warm = partial(schedule, epochs=50, warmup_epochs=4, warmup_start=0.2)
    bare = partial(schedule, epochs=50)
    assert warm(0) == pytest.approx(0.2) and warm(3) == pytest.approx(0.2 + 0.75 * (bare(4) - 0.2))
    assert warm(4 - 1e-9) == pytest.approx(warm(4)) and all(warm(e) == bare(e) for e in (4, 4.5, 20, 49))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_is_linear_and_joins_without_a_jump(schedule):
    warm = partial(schedule, epochs=50, warmup_epochs=4, warmup_start=0.2)
    bare = partial(schedule, epochs=50)
    assert warm(0) == pytest.approx(0.2)
    assert warm(2.5) == pytest.approx(bare(2.5) * (0.2 + 0.8 * 2.5 / 4))
    assert warm(4 - 1e-9) == pytest.approx(warm(4))
    assert all(warm(epoch) == bare(epoch) for epoch in (4, 4.5, 20, 49))


@pytest.mark.parametrize("schedule", [*SCHEDULES, *LINES])
@given(epoch=st.floats(0, 200), epochs=st.integers(1, 100), warm=st.floats(0, 10), start=st.floats(0, 1))
def test_factor_stays_between_zero_and_one(schedule, epoch, epochs, warm, start):
    assert 0 <= schedule(epoch, epochs=epochs, warmup_epochs=warm, warmup_start=start) <= 1


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(a=st.floats(0, 60), b=st.floats(0, 60))
def test_never_rises_without_warm_up(schedule, a, b):
    assert schedule(min(a, b), epochs=50) >= schedule(max(a, b), epochs=50)


def test_drives_lambda_lr_with_a_rate_per_group():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.01, 0.05)]
    optimizer = torch.optim.SGD(groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(step, epochs=6, steps=[2, 4]))
    seen = []
    for _ in range(6):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    expected = [[0.01 * f, 0.05 * f] for f in (1, 1, 0.1, 0.1, 0.01, 0.01)]
    assert seen == [pytest.approx(row) for row in expected]


def test_errors_name_the_fix():
    with pytest.raises(ValueError, match="epochs >= 1"):
        cosine(0, epochs=0)
    with pytest.raises(ValueError, match="warmup_epochs=-1"):
        warmup(0, -1)
    with pytest.raises(ValueError, match="start in"):
        constant(0, epochs=5, warmup_epochs=1, warmup_start=2)
    with pytest.raises(ValueError, match="warmup_form='curve'"):
        step(0, epochs=5, steps=[2], warmup_form="curve")
    with pytest.raises(ValueError, match=r"end in \[0, 1\]"):
        cosine(0, epochs=5, end=2)
