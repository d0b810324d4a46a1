"""`step`: how networks are computed, not what."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.backbones import tsm_resnet
from mml_lightning.training.execution import StepSettings
from mml_lightning.utils.errors import UserError


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"memory_format": "nhwc"}, "step.memory_format=nhwc is unknown; use one of auto, contiguous, channels_last"),
        ({"compile": "fast"}, "step.compile=fast must be true, false or one of"),
        ({"checkpointing": "yes"}, "step.checkpointing=yes must be true or false"),
        ({"keep_memory": "yes"}, "step.keep_memory=yes must be auto, true or false"),
        ({"side_by_side": "yes"}, "step.side_by_side=yes must be auto, true or false"),
        ({"compile": True, "checkpointing": True}, "exclude each other"),
    ],
)
def test_unknown_values(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        StepSettings(**wrong)


def test_says_how_networks_are_computed() -> None:
    nets = {name: tsm_resnet("tiny") for name in ("rgb", "rgb_1")}
    assert StepSettings().apply(nets) == "channels_last"
    assert StepSettings("contiguous", checkpointing=True).apply(nets) == "contiguous, blocks computed twice"
    assert StepSettings(compile="eager").apply(nets) == "channels_last, compiled"


def test_switches_lead_where_the_plain_run_does(
    train: Callable[..., dict[str, Any]], same_weights: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    short = ["schedule.epochs=1", "test=false", "trainer.limit_val_batches=1"]
    plain = train(*short, run="plain")
    twice = train(*short, "step.checkpointing=true", run="twice")
    same_weights(*(tmp_path / "single" / run / "peers" / "rgb.pt" for run in ("plain", "twice")))
    assert plain["fingerprint"] == twice["fingerprint"]  # the zoo need not train it again
    half = train(*short, "step.compile=eager", "trainer.precision=bf16-mixed", run="half")
    assert half["steps"] == plain["steps"] == 3
