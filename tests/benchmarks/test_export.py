"""`mml bench export`: every way gives the same logits, and tells its time and its size."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from mml_lightning.cli.main import main

SMALL = ["backbone=tiny", "backbone.net.width=8", "transforms.output=32", "sampling.num_segments=4", "modality=[rgb]"]
ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))


@pytest.mark.parametrize(
    "ways",
    [
        "eager,torch",
        pytest.param(
            "eager,torch,onnx,int8",
            marks=[pytest.mark.slow, pytest.mark.skipif(not ONNX, reason="onnxruntime is not installed")],
        ),
    ],
)
def test_every_way_is_timed_and_gives_the_same(ways: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    assert main(["bench", "export", *SMALL, "--ways", ways, "--rounds", "1", "--json", str(file)]) == 0
    assert "ms / clip" in capsys.readouterr().out
    rows = {row["way"]: row for row in json.loads(file.read_text())["tables"][-1]["rows"]}
    assert ",".join(rows) == ways
    assert all(row["clip_ms"] > 0 and row["file_mb"] > 0 for row in rows.values())
    compared = [row["logit_share"] for way, row in rows.items() if way in ("torch", "onnx")]
    assert compared and max(compared) < 1e-4
    if "int8" in rows:
        assert rows["int8"]["file_mb"] < rows["onnx"]["file_mb"]


@pytest.mark.parametrize(
    "words, message",
    [(["--ways", "eager,tflite"], "use some of eager,torch,onnx,int8"), (["modality=[rgb,flow]"], "takes one network")],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "export", *SMALL[:-1], *words]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
