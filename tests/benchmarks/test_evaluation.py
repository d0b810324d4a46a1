"""`mml bench eval`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mml_lightning.benchmarks.evaluation import bottleneck
from mml_lightning.cli import main

SMALL = [
    *("backbone=tiny", "backbone.net.width=8", "transforms.output=32", "transforms.short_side=36"),
    "sampling.num_segments=4",
]


def test_evaluation_across_videos_gives_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    words = ["modality=[rgb,flow]", "trainer.precision=32-true", "data.eval_batch_size=4"]
    assert main(["bench", "eval", *SMALL, *words, "--videos", "3", "--rounds", "1", "--json", str(file)]) == 0
    assert "bottleneck" in capsys.readouterr().out
    alone, across = json.loads(file.read_text())["tables"][0]["rows"]
    assert alone["views_per_s"] > 0 and across["logit_difference"] < 1e-5


def test_sentence_names_the_switch() -> None:
    def told(ratio: float, precision: str, mfu: float = 0.5) -> str:
        return bottleneck([{"vs_first": 1.0}, {"vs_first": ratio, "mfu": mfu}], precision)

    assert told(1.5, "bf16-mixed") == "small passes are the bottleneck: a larger data.eval_batch_size"
    assert "trainer.precision=bf16-mixed" in told(1.5, "32-true") and "transforms.output" in told(1.0, "bf16-mixed")
    assert "data.eval_batch_size" in told(1.0, "bf16-mixed", mfu=0.01)


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "eval", *SMALL, "--views", "0"]) == 2
    assert "must be 1 or more" in capsys.readouterr().err.splitlines()[-1]
