"""What a run says that it will cost."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mml_lightning.backbones import tsm_resnet
from mml_lightning.backbones.cost import kept_bytes, kept_for_backward


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
