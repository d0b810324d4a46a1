"""`mml bench eval`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mml_lightning.benchmarks.evaluation import bottleneck
from mml_lightning.cli.main import main
from mml_lightning.training.advice import Seen

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
    def told(ratio: float, spread: float | None, mfu: float = 0.5, gain: float | None = None) -> str:
        rows = [{"vs_first": 1.0}, {"vs_first": ratio, "spread": spread}]
        return bottleneck(rows, 8, Seen(mfu=mfu, gain=gain))

    assert "data.eval_batch_size=8 is 1.50 times as fast" in told(1.5, None) == told(1.5, 0.3)
    assert "the networks are the bottleneck" in told(1.5, 0.5) == told(1.0, None)
    assert "trainer.precision=bf16-mixed" in told(1.0, None, gain=2.0)
    assert told(1.0, None, mfu=0.01).endswith("raise data.eval_batch_size")


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "eval", *SMALL, "--views", "0"]) == 2
    assert "must be 1 or more" in capsys.readouterr().err.splitlines()[-1]
