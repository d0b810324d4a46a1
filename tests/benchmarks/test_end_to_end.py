"""`mml bench end_to_end`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from mml_lightning.cli import main

SMALL = [
    *("backbone=tiny", "backbone.net.width=8", "transforms.output=32", "transforms.short_side=36"),
    "sampling.num_segments=4",
]


@pytest.mark.skipif(importlib.util.find_spec("PIL") is None, reason="the baseline reads with Pillow")
def test_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    assert main(["bench", "end_to_end", *SMALL, "--videos", "2", "--rounds", "1", "--json", str(file)]) == 0
    assert "bottleneck" in capsys.readouterr().out
    plain, ours = json.loads(file.read_text())["rows"]
    assert "Pillow" in plain["way"] and "pack" in ours["way"]
    for row in (plain, ours):
        assert row["clips_per_s"] > 0 and 0 < row["reading"] < 1


def test_without_pillow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["bench", "end_to_end", *SMALL]) == 2
    assert "pip install pillow" in capsys.readouterr().err
