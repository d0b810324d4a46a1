"""`mml bench growth`: growth of curves that are known; what is printed, written and drawn."""

from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.benchmarks import scaling, scaling_plot
from mml_lightning.benchmarks.commands.growth import VARIED
from mml_lightning.benchmarks.scaling import AXES, Curve, Point
from mml_lightning.cli.main import main
from mml_lightning.training.advice import Seen

SMALL = ["backbone=tiny", "backbone.net.width=8", "transforms.output=32", "sampling.num_segments=4"]


def seen(mfu: float | None, **known: Any) -> Seen:
    return Seen(mfu=mfu, **known)


def test_growth_of_known_curves() -> None:
    proportional = Curve("frames", [Point(n, [8 / n, 4 / n]) for n in (4, 8, 16)])
    assert proportional.twice() == pytest.approx((2, 2, 2))
    assert [proportional.proportional(p) / p.best for p in proportional.points] == pytest.approx([1, 1, 1])
    assert [p.spread for p in proportional.points] == pytest.approx([1, 1, 1])
    pixels = Curve("size", [Point(n, [1e6 / n**2]) for n in (112, 160, 224)])
    assert pixels.twice() == pytest.approx((4, 4, 4))
    assert pixels.proportional(pixels.points[2]) == pytest.approx(pixels.points[2].best)
    free = Curve("views", [Point(n, [3.0, 2.0]) for n in (1, 2, 8)])
    assert free.twice() == pytest.approx((1, 1, 1)) and free.proportional(free.points[2]) == pytest.approx(3 / 8)
    rounds = Curve("peers", [Point(1, [4.0, 4.0]), Point(2, [2.0, 1.0])])
    assert rounds.twice() == pytest.approx((2, 2, 4)), "of the best rounds, and the range of single ones"
    assert "twice the peers take 2.00 times as long (2.00 to 4.00 by round;" in scaling.sentence(rounds, seen)
    assert Curve("peers", rounds.points[:1]).twice() is None


def test_more_workers_are_compared_with_one() -> None:
    read = {0: 50.0, 1: 40.0, 2: 60.0}
    curve = Curve("workers", [Point(n, [2.0], waiting=0.01, reading=[r / 2, r]) for n, r in read.items()])
    assert [curve.proportional(p) for p in curve.points] == [40, 40, 80] and curve.twice() is None
    told = scaling.sentence(curve, seen)
    assert told.startswith("2 workers read 1.20 times as many clips/s as 0; training is as fast with any of them")
    assert "with 2 the networks are the bottleneck" in told
    faster = Curve("workers", [dataclasses.replace(p, rates=[2.0 + p.value, 2.1 + p.value]) for p in curve.points])
    assert "; training is the fastest with data.workers=2; with 2 " in scaling.sentence(faster, seen)
    lines = str(scaling.told(curve, seen)).splitlines()
    assert lines[0] == "| workers | clips/s | data wait | read clips/s | vs proportional |"
    assert lines[-3] == "| 2 | 2 | 1% | 60 | 0.75 |"


def test_every_axis_is_measured_written_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "READ_FOR", 0.05)
    monkeypatch.setattr(scaling, "FRAMES_PER_VIDEO", 12)
    values = ["--frames", "4,2", "--size", "16,32", "--peers", "1,3", "--workers", "0,1", "--views", "1,2"]
    files = ["--json", str(tmp_path / "curves.json"), "--plot", str(tmp_path / "curves.svg")]
    assert main(["bench", "growth", *SMALL, *values, *files, "--rounds", "2"]) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^\| (\w+) \|", printed, re.MULTILINE) == [
        *("frames", "2", "4", "size", "16", "32", "peers", "1", "3", "workers", "0", "1", "views", "1", "2")
    ]
    assert printed.count("times as long") == 4 and "| videos/s |" in printed
    told = json.loads((tmp_path / "curves.json").read_text())
    assert told["machine"]["clock"] == "processor" and list(AXES) == list(VARIED)
    rows = {table["title"]: table["rows"] for table in told["tables"]}
    assert list(rows) == list(AXES)
    for axis, points in rows.items():
        assert all(len(p["rounds"]) == 2 and min(p["rounds"]) > 0 and p["mfu"] > 0 for p in points), axis
    kept = {axis: [p["kept_mb"] for p in rows[axis]] for axis in ("frames", "size", "peers")}
    assert kept["peers"][1] == pytest.approx(3 * kept["peers"][0], rel=0.1)
    assert 1.3 < kept["frames"][1] / kept["frames"][0] <= 2, "weights in half precision are kept once per network"
    assert 1.3 < kept["size"][1] / kept["size"][0] <= 4
    for point in rows["workers"]:
        assert 0 < point["data_wait"] < 1 and len(point["reading_rounds"]) == 2
    drawn = ElementTree.fromstring((tmp_path / "curves.svg").read_text())
    assert len(drawn.findall("{*}g")) == 5 and len(drawn.findall(".//{*}circle")) == 12
    texts = ["".join(text.itertext()) for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert set(scaling_plot.LABELS.values()) < set(texts) and "proportional growth" in texts


def test_one_point_has_no_growth_and_titles_are_escaped() -> None:
    curve = Curve("frames", [Point(8, [2.0])])
    drawn = scaling_plot.draw([curve], "R&D")
    assert "R&amp;D" in drawn and "twice" not in drawn
    ElementTree.fromstring(drawn)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--axes", "frames,time"], "--axes time is unknown; use some of frames, size, peers, workers, views"),
        (["--peers", "0,1"], "--peers 0 must be 1 or more"),
        (["--frames", "4", "--steps", "0"], "--steps 0 must be 1 or more"),
        (["--plot", "curves.png"], "--plot curves.png must be a file .svg"),
        (["stage=mml", "--frames", "4"], "stage=mml needs two or more modalities"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "growth", *SMALL, *words]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
