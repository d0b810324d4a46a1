"""What a run says that it will cost."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mml_lightning.backbones import tsm_resnet
from mml_lightning.backbones.cost import kept_bytes, kept_for_backward
from mml_lightning.estimates import suggest_batch
from mml_lightning.throughput import WAITING


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
    assert any(line.startswith("advice    first waited") for line in caplog.messages) == (
        first["speed"]["data_wait"] > WAITING
    )
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


def test_a_batch_in_parts_and_blocks_computed_twice_are_counted() -> None:
    told = suggest_batch(64, 100e6, 10e6, 300e6, parts=2, checkpointed=True)
    assert told.endswith("data.batch_size=16 trainer.accumulate_grad_batches=8")


def test_suggestions_are_said_before_the_run_starts(
    train: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("mml_lightning.data.memory.free_memory", lambda: 4e6)
    train("schedule.epochs=1", "test=false", "loading.memory_gb=4")
    told = [line for line in caplog.messages if line.startswith("advice")]
    assert len(told) == 1 and "takes more memory than the 4 MB that are free: data.batch_size=" in told[0]
