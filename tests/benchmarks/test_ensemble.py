"""`mml bench ensemble`: both ways agree, and the sums of ranks are those of the positions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mml_lightning.cli.main import main


def test_it_prints_and_writes_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    given = ["--groups", "3,2,2", "--videos", "300", "--classes", "9", "--plain", "12", "--json", str(file)]
    assert main(["bench", "ensemble", *given]) == 0
    told = json.loads(file.read_text())["tables"][0]
    assert (told["ensembles"], told["identity"], told["rank_sums"]) == (12, 66, [66, 66, 66])
    assert "12 ensembles of 3 x 2 x 2 networks, 300 videos x 9 classes" in capsys.readouterr().out


@pytest.mark.slow
def test_table_13_at_the_size_of_something_something(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    assert main(["bench", "ensemble", "--plain", "2", "--json", str(file)]) == 0
    told = json.loads(file.read_text())["tables"][0]
    assert told["rank_sums"] == [367_653] * 3
    assert told["more_mb"] < told["scores_mb"], "the scores are not held twice"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--groups", "3,0"], "start at 1"),
        (["--videos", "9", "--groups", "1,1", "--json", "no/such"], "another --json"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "ensemble", *arguments]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
