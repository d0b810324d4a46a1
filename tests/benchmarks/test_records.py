"""`mml bench records`: a table of start-up and memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mml_lightning.cli.main import main


@pytest.mark.slow  # processes of their own
@pytest.mark.parametrize("kind", ["csv", "pack"])
def test_memory_of_many_records(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--kinds", kind, "--records", "1e3,1e5", "--workers", "2", "--samples", "2000"]
    assert main(["bench", "records", *words, "--json", str(tmp_path / "rows.json")]) == 0
    assert f"| {kind} | 100,000 | 2 |" in capsys.readouterr().out
    few, many = json.loads((tmp_path / "rows.json").read_text())["tables"][0]["rows"]
    # 99,000 records more: a list that every worker copies as it reads would hold several times as much
    assert many["last_mb"] - few["last_mb"] < 150
    assert many["last_mb"] - many["first_mb"] < 40


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "records", "--records", "10"]) == 2
    assert "--records must be 100 or more" in capsys.readouterr().err
    assert main(["bench", "records", "--kinds", "csv,json"]) == 2
    assert "--kinds='json' is unknown; use one of ['csv', 'pack', 'frame_lists']" in capsys.readouterr().err
