from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning.schedules import constant, cosine, step, warmup


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


SCHEDULES = [partial(step, steps=[20, 40]), cosine, constant]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_is_linear_and_joins_without_a_jump(schedule):
    warm = partial(schedule, epochs=50, warmup_epochs=4, warmup_start=0.2)
    bare = partial(schedule, epochs=50)
    assert warm(0) == pytest.approx(0.2)
    assert warm(2.5) == pytest.approx(bare(2.5) * (0.2 + 0.8 * 2.5 / 4))
    assert warm(4 - 1e-9) == pytest.approx(warm(4))
    assert all(warm(epoch) == bare(epoch) for epoch in (4, 4.5, 20, 49))


@pytest.mark.parametrize("schedule", SCHEDULES)
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
    with pytest.raises(ValueError, match="1 or more"):
        cosine(0, epochs=0)
    with pytest.raises(ValueError, match="warmup_epochs=-1"):
        warmup(0, -1)
    with pytest.raises(ValueError, match="start in"):
        constant(0, epochs=5, warmup_epochs=1, warmup_start=2)
