"""Advice: which switch is named, and what is not known is not advised."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning.training import advice
from mml_lightning.training.advice import (
    BFLOAT16,
    FLOAT32,
    MEASURE,
    Seen,
    bottleneck,
    describe,
    emulated,
    more_workers,
    waiting,
)

NETWORKS = "the networks are the bottleneck"


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        # ResNet-18 on a processor with bfloat16: 1.49 times as fast; MobileNet-v2 there: 0.77 times
        (Seen(mfu=0.66, gain=1.8), f"{BFLOAT16}, whose convolutions are 1.8 times as fast on this device"),
        (Seen(mfu=0.24, gain=1.8), NETWORKS),
        # one with AVX2 alone: ResNet-18 is twelve times as slow in bfloat16
        (Seen(mfu=0.7, gain=0.1), NETWORKS),
        (Seen(mfu=0.7), NETWORKS),  # nobody has measured it
        (Seen(gain=4.0), NETWORKS),
        (Seen(precision="bf16-mixed", mfu=0.7, gain=2.0), NETWORKS),
        (Seen(precision="bf16-mixed", mfu=0.7, gain=0.05), f"20 times as long as in float32: {FLOAT32}"),
        (Seen(precision="64-true", mfu=0.7, gain=2.0), NETWORKS),
        (Seen(mfu=0.04, gain=2.0), "raise data.batch_size"),
        (Seen(mfu=0.04, others=0.6), "other processes used 60% of the cores"),
        (Seen(mfu=0.66, gain=2.0, others=0.6), "measure again on an idle machine"),
    ],
)
def test_the_switch_is_named(seen: Seen, told: str) -> None:
    assert told in bottleneck(seen)
    assert told in bottleneck(dataclasses.replace(seen, data_wait=0.15, room=8))
    first = seen.others > 0 or FLOAT32 in told  # whatever is waited for
    assert (told if first else "data loading takes 20%") in bottleneck(dataclasses.replace(seen, data_wait=0.2, room=8))


@pytest.mark.parametrize(
    ("wait", "steady", "workers", "room", "told"),
    [
        (0.15, None, 1, 9, ""),
        (
            0.5,
            None,
            0,
            9,
            "data loading takes 50% of the time, not overlapped with training: data.workers=1 would keep up",
        ),
        (0.75, None, 0, 9, "data loading is the bottleneck: data.workers=3 would keep up (now 0)"),
        (
            0.75,
            None,
            0,
            2,
            "data loading is the bottleneck: data.workers=2 (now 0), all free cores; 3",
        ),
        # the demo, two threads on two cores: one worker made it 0.97 times as fast, two 0.81 times
        (
            0.33,
            None,
            0,
            0,
            "data loading takes 33% of the time, not overlapped with training, and no CPU core is left for workers",
        ),
        (0.5, 0.5, 2, 0, "data loading is the bottleneck, and no CPU core is left for more workers"),
        (0.5, 0.5, 2, 3, "data loading is the bottleneck: data.workers=4 would keep up (now 2)"),
        # the demo, one worker: the first of an epoch's five batches takes most of the waiting
        (0.25, 0.1, 1, 9, ""),
        (0.5, None, 2, None, "data loading is the bottleneck"),
    ],
)
def test_workers_that_would_keep_up(
    wait: float, steady: float | None, workers: int, room: int | None, told: str
) -> None:
    seen = Seen(wait, steady, workers, room, cheap=True)
    assert waiting(seen).startswith(told) and bool(waiting(seen)) == bool(told)
    assert "pack" not in waiting(seen)
    assert (MEASURE in waiting(dataclasses.replace(seen, cheap=False))) == ("loading" in told)


@given(st.floats(0, 1), st.none() | st.floats(0, 1), st.integers(0, 64), st.none() | st.integers(0, 64), st.booleans())
def test_no_more_workers_than_the_cores_leave(
    wait: float, steady: float | None, workers: int, room: int | None, cheap: bool
) -> None:
    seen = Seen(wait, steady, workers, room, cheap)
    most = more_workers(seen)
    if most is None:
        assert "data.workers=" not in bottleneck(seen)
    else:
        assert room and workers < most <= workers + room and f"data.workers={most} " in bottleneck(seen)


def test_precisions_that_are_emulated() -> None:
    assert emulated("bf16-mixed", 0.11).startswith("trainer.precision=bf16-mixed is slow on this device")
    assert all(FLOAT32 in emulated(precision, 0.5) for precision in ("16-mixed", "16-true", "bf16-true", "bf16-mixed"))
    for precision, gain in (("bf16-mixed", 0.95), ("bf16-mixed", None), ("32-true", 0.1), ("64-true", 0.1)):
        assert emulated(precision, gain) == ""


def test_a_run_of_an_earlier_version_is_told_without_what_it_did_not_measure() -> None:
    speed: dict[str, Any] = {"clips_per_s": 2.5, "mfu": 0.25, "data_wait": 0.1, "precision": "32-true", "workers": 2}
    numbers = "2.5 clips/s, MFU 25%, 10% of the time waiting for data"
    assert describe(speed) == numbers, "nothing is advised where nothing but the networks takes long"
    assert bottleneck(Seen(mfu=0.25)) == advice.NETWORKS and bottleneck(Seen(mfu=0.01)) in describe(
        speed | {"mfu": 0.01}
    )
    assert describe({**speed, "mfu": None}).startswith("2.5 clips/s, 10% of the time")
    seen = advice.of_speed(speed | {"gain": 2.0, "others": None}, True)
    assert seen == Seen(0.1, None, 2, None, True, mfu=0.25, gain=2.0)
