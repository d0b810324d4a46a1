"""What a run says that it will cost."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mml_lightning.backbones import tsm_resnet
from mml_lightning.backbones.cost import kept_bytes, kept_for_backward
from mml_lightning.estimates import suggest_batch, suggest_workers


def test_memory_is_counted_without_values() -> None:
    net = tsm_resnet("tiny", width=8)
    counted = kept_for_backward(net, (2, 4, 3, 32, 32))
    clip = torch.randn(2, 4, 3, 32, 32)
    assert counted == pytest.approx(kept_bytes(lambda: net.train()(clip), net), rel=0.35)


def test_the_second_run_is_told_by_the_first(
    train: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    short = ["schedule.epochs=1", "test=false", "trainer.limit_val_batches=1"]
    first = train(*short, run="first")
    told = next(line for line in caplog.messages if line.startswith("cost"))
    assert "by arithmetic" in told and re.search(r"\d+ MB for weights and activations; \d+ MB of disk", told)
    caplog.clear()
    train(*short, run="second")
    told = next(line for line in caplog.messages if line.startswith("cost"))
    assert "as first" in told and first["speed"]["batch_size"] == 8
    caplog.clear()
    train(*short, "data.batch_size=4", run="third")
    assert "by arithmetic" in next(line for line in caplog.messages if line.startswith("cost"))


@pytest.mark.parametrize(
    ("batch", "free", "words"),
    [
        (64, 1e9, ""),
        (64, None, ""),
        (64, 300e6, "data.batch_size=16 trainer.accumulate_grad_batches=4, or step.checkpointing=true"),
        (7, 150e6, "data.batch_size=1 trainer.accumulate_grad_batches=7"),
        (64, 105e6, "use a smaller backbone, transforms.output or sampling.num_segments"),
    ],
)
def test_batch_that_would_fit(batch: int, free: float | None, words: str) -> None:
    told = suggest_batch(batch, 100e6, 10e6, free)
    assert words in told and bool(words) == bool(told)


@pytest.mark.parametrize(
    ("workers", "reading", "words"),
    [
        (0, 0.9, ""),  # hidden by nothing, but no more than a step
        (2, 1.9, ""),
        (2, 3.1, "data.workers=4 would keep up (now 2)"),
        (4, 9.5, "10 workers would be needed and there are 4 cores"),
        (2, 0.0, ""),
    ],
)
def test_workers_that_would_keep_up(workers: int, reading: float, words: str) -> None:
    told = suggest_workers(workers, reading, step=1.0, cores=4)
    assert words in told and bool(words) == bool(told)


def test_suggestions_are_said_before_the_run_starts(
    train: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("mml_lightning.data.memory.free_memory", lambda: 4e6)
    train("schedule.epochs=1", "test=false", "loading.memory_gb=4")
    told = [line for line in caplog.messages if line.startswith("advice")]
    assert len(told) == 1 and "takes more memory than the 4 MB that are free: data.batch_size=" in told[0]
