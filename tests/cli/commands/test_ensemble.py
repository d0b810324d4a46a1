"""`mml ensemble` as a user meets it: what it takes, what it prints and writes, its one-line errors."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mml_lightning.cli.main import main
from mml_lightning.evaluation.predictions import Predictions

CLASSES = tuple(f"class {k}" for k in range(7))


def save(path: Path, peers: dict[str, int], split: str = "test", size: int = 40, several: bool = False) -> Path:
    """A run directory with scores of one split; its peers come with the seeds of their scores."""
    prefix = "v" if split == "test" else "w"
    target = torch.arange(size) % 7
    hot = torch.nn.functional.one_hot(target, 7) + several * torch.nn.functional.one_hot((target + 2) % 7, 7)
    logits = {
        peer: torch.randn(size, 1, 7, generator=torch.Generator().manual_seed(seed)) + 1.5 * hot[:, None]
        for peer, seed in peers.items()
    }
    ids = tuple(f"{prefix}{i:03}" for i in range(size))
    dump = Predictions(ids, hot if several else target, logits, CLASSES, multi_label=several, split=split)
    dump.save(path / "predictions" / f"{split}.npz")
    return path


def found(out: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((out / "ensembles.json").read_text())
    return told


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three runs: rgb alone, rgb and flow, flow and rgbdiff."""
    monkeypatch.chdir(tmp_path)
    for name, peers in {"ce": {"rgb": 0}, "mml": {"rgb": 1, "flow": 2}, "ml": {"flow": 3, "rgbdiff": 4}}.items():
        save(Path(name), peers)
        save(Path(name), {peer: seed + 50 for peer, seed in peers.items()}, "val")
    return ["ce", "mml", "ml"]


def test_every_pair_and_all_together(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ensemble", *runs, "--out", "out", "--top", "3"]) == 0
    told = capsys.readouterr().out
    names = ["ce:rgb", "mml:rgb", "mml:flow", "ml:flow", "rgbdiff"]
    assert [row["members"] for row in found(Path("out"))["singles"]] == [[name] for name in names]
    assert len(found(Path("out"))["rows"]) == 10 + 1
    assert "first 3 of 11 rows" in told and "40 videos; views pooled by logits, ensembles of probs" in told
    assert "the positions sum to 55" in told
    with Path("out/ensembles.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(float(row["position"]) for row in rows) == 55 and len(rows) == 11
    assert [float(row["top1"]) for row in rows] == [row["metrics"]["top1"] for row in found(Path("out"))["rows"]]
    page = Path("out/ensembles.html").read_text()
    assert page.count("<table") == 4 and not re.search(r"(src|href)=|https?:", page)
    assert all(name in Path("out/ensembles.md").read_text() for name in names)


def test_one_per_modality_and_groups_make_the_same(runs: list[str]) -> None:
    assert main(["ensemble", *runs, "--one-per-modality", "--out", "a"]) == 0
    groups = [
        "--group",
        "rgb",
        "ce",
        "mml:rgb",
        "--group",
        "flow",
        "mml:flow",
        "ml:flow",
        "--group",
        "diff",
        "ml:rgbdiff",
    ]
    assert main(["ensemble", *groups, "--out", "b"]) == 0
    told = [found(Path(name)) for name in "ab"]
    assert told[0]["rows"] == told[1]["rows"] and len(told[0]["rows"]) == 4
    assert told[0]["groups"] == {"ce:rgb": "rgb", "mml:rgb": "rgb", "mml:flow": "flow", "ml:flow": "flow"} | {
        "rgbdiff": "rgbdiff"
    }
    assert "each group sums to 6" in Path("a/ensembles.md").read_text()


def test_names_are_chosen_and_paths_may_hold_any_sign(runs: list[str]) -> None:
    save(Path("lr=0.1:x"), {"rgb": 9})
    given = ["A=ce", "B=mml", "C=lr=0.1:x", "lr=0.1:x", "ml/predictions/test.npz:flow"]
    assert main(["ensemble", *given, "--out", "out"]) == 0
    assert list(found(Path("out"))["groups"]) == ["A", "B:rgb", "B:flow", "C", "lr=0.1:x:rgb", "ml:flow"]


@pytest.mark.parametrize("several", [False, True])
def test_weights_are_searched_beside(runs: list[str], several: bool, capsys: pytest.CaptureFixture[str]) -> None:
    if several:
        for name, seed in (("ce", 0), ("ml", 5)):
            for split in ("test", "val"):
                save(Path(name), {"rgb" if name == "ce" else "flow": seed}, split, several=True)
    given = ["ce", "ml/predictions/test.npz:flow"]
    assert main(["ensemble", *given, "--search", "val", "--out", "out"]) == 0
    (row,) = found(Path("out"))["rows"]
    assert sum(row["weights"]) == pytest.approx(1) and found(Path("out"))["searched"] == 40
    assert "weights searched on 40 other videos" in capsys.readouterr().out
    assert main(["ensemble", *given, "--search", "fold", "--out", "out"]) == 0
    assert found(Path("out"))["videos"] + found(Path("out"))["searched"] == 40
    assert main(["ensemble", *given, "--weights", "rgb=3", "--ensemble", "logits", "--out", "out"]) == 0
    assert found(Path("out"))["rows"][0]["weights"] == [0.75, 0.25]


def test_missing_videos(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    save(Path("short"), {"audio": 8}, size=38)
    assert main(["ensemble", "ce", "short", "--out", "out"]) == 2
    assert "audio lacks 2 videos (v038, v039); --intersect compares on the 38" in capsys.readouterr().err
    assert not Path("out").exists()
    assert main(["ensemble", "ce", "short", "--intersect", "--out", "out"]) == 0
    assert "audio lacks 2 videos (v038, v039): not counted" in capsys.readouterr().out
    assert found(Path("out"))["missing"] == {"audio": ["v038", "v039"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ce"], "two networks or more"),
        (["ce", "nowhere"], "no score dump nowhere"),
        (["ce", "mml:audio"], "has no peer audio; it has rgb, flow"),
        (["ce", "ce"], "two members are called ce:rgb; give them names"),
        (["ce", "mml", "--sizes", "4"], "--sizes 4: an ensemble has 2 to 3"),
        (["ce", "mml:rgb", "--one-per-modality"], "all networks are in one group, rgb"),
        (["ce", "--group", "x", "mml"], "--group makes the ensembles"),
        (["--group", "x", "--group", "y", "mml"], "all networks are in one group, y"),
        (["ce", "mml", "--weights", "a=1"], "weights name a; the members are"),
        (["ce", "mml", "--weights", "flow=1", "--search", "val"], "use one"),
        (["ce", "mml", "--ensemble", "max"], "views.ensemble='max' is unknown"),
        (["ce", "mml", "--metric", "map"], "metric map is unknown here"),
        (["copy.npz", "mml", "--search", "val"], "not named after its split test"),
        (["ce", "mml", "--out", "copy.npz"], "can't write the ensembles to copy.npz"),
    ],
)
def test_mistakes_are_one_line(
    runs: list[str], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("copy.npz").write_bytes(Path("ce/predictions/test.npz").read_bytes())
    assert main(["ensemble", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("mml: error: ") and told.count("\n") == 1 and message in told
