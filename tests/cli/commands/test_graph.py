"""`mml graph`, and the pictures of the docs: each is what the command draws today."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.cli.main import main
from tests.conftest import CONF, ROOT

PAGE = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
COMMANDS = dict(re.findall(r"^\| !\[\w+\]\((graphs/\w+\.svg)\) \| `mml graph ([^`]+)` \|$", PAGE, re.MULTILINE))
COMMANDS |= {"graph.svg": "stage=reduced_mml modality=[rgb,flow]"}


def test_every_objective_has_its_picture() -> None:
    drawn = {Path(name).stem for name in COMMANDS} - {"graph", "mutual_3"}
    assert drawn == {path.stem for path in (CONF / "objective").glob("*.yaml")}
    assert {f"graphs/{path.name}" for path in (ROOT / "docs" / "graphs").iterdir()} == set(COMMANDS) - {"graph.svg"}


@pytest.mark.parametrize("name", COMMANDS)
def test_pictures_of_the_docs_are_those_of_the_command(name: str, tmp_path: Path) -> None:
    """If this fails: mml graph <the words> --out docs/<name>"""
    assert main(["graph", *COMMANDS[name].split(), "--out", str(tmp_path / "again.svg")]) == 0
    assert (tmp_path / "again.svg").read_text() == (ROOT / "docs" / name).read_text()
    ET.parse(tmp_path / "again.svg")


def test_edges_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edges = "objective.edges=[{students: [rgb], teachers: [flow], lesson: kl, weight: 0.5}]"
    assert main(["graph", "stage=mml", "modality=[rgb,flow]", edges]) == 0
    assert capsys.readouterr().out.splitlines() == ["labels -> rgb, flow", "rgb <- flow (0.5 kl)"]
    assert f"'{edges}'" in PAGE, "the page shows this very line"


def test_edges_from_the_command_line_train(train: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    edges = "objective.edges=[{students: [rgb], teachers: [flow], lesson: kl, weight: 0.5}]"
    train("stage=mml", "modality=[rgb,flow]", edges, "schedule.epochs=1", "test=false")
    logged = (tmp_path / "single" / "run" / "logs" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "train/rgb/kl" in logged and "train/flow/ce" in logged and "train/flow/kl" not in logged


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stage=mml"], "stage=mml needs two or more modalities"),
        (["stage=ml", "objective.edges=[{students: [audio]}]"], "objective names peer 'audio'"),
        (["stage=ml", "objective.edges=[{lesson: kll}]"], "lesson='kll' is unknown"),
        (["stage=ml", "objective.edges=[{temprature: 2}]"], "no option 'temprature'"),
        (["pipeline=mml"], "several stages"),
        (["--out", "graph.png"], "name it .svg"),
        (["--out", "file/graph.svg"], "can't write file"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["graph", *arguments]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_phases_stand_below_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = "phases=[{name: head, train: [rgb.head], epochs: 6}, {name: all, objective: {edges: []}}]"
    main(["graph", "stage=kd", "modality=[rgb,flow]", two, "--out", str(tmp_path / "graph.svg")])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "phase head: epoch 1 to 6, trains rgb.head" and "phase all: epoch 7 to 36, trains rgb" in said
    assert [line.startswith("rgb <- flow") for line in said].count(True) == 1
    drawn = ET.parse(tmp_path / "graph.svg").getroot()
    texts = ["".join(text.itertext()) for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {said[0], "phase all: epoch 7 to 36, trains rgb"} <= set(texts) and "from own; head learns" in texts
    inside = [one for one in drawn.iter("{http://www.w3.org/2000/svg}svg") if one is not drawn]
    heights = [int(one.attrib["height"]) for one in inside]
    assert len(inside) == 2 and int(inside[1].attrib["y"]) >= heights[0] and int(drawn.attrib["height"]) > sum(heights)
