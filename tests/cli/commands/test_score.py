"""`mml score` on real dumps: the numbers of the run to the last digit, ensembles of runs, submissions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mml_lightning.cli.main import main
from mml_lightning.evaluation import predictions
from mml_lightning.evaluation.metrics import Scoring
from mml_lightning.evaluation.predictions import Predictions

Train = Callable[..., dict[str, Any]]


def dump(peer: str, seed: int, several: bool = False, order: bool = False, size: int = 30) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(size, generator=generator).tolist() if order else list(range(size))
    target = torch.arange(size) % 8
    hot = torch.nn.functional.one_hot(target, 8).float() + torch.nn.functional.one_hot((target + 3) % 8, 8).float()
    made = Predictions(
        ids=tuple(f"v{i:02}" for i in range(size)),
        target=hot if several else target,
        logits={peer: torch.randn(size, 3, 8, generator=generator) + 2 * hot[:, None]},
        classes=tuple(f"class {k}" for k in range(8)),
        multi_label=several,
    )
    return made.take([made.ids[row] for row in rows])


def scored(*arguments: Any, out: Path) -> dict[str, Any]:
    assert main(["score", *map(str, arguments), "--json", str(out)]) == 0
    told: dict[str, Any] = json.loads(out.read_text())
    return told


def test_a_run_is_measured_again_to_the_last_digit(train: Train, tmp_path: Path) -> None:
    options = ("views=uniform2", "views.pooling=probs", "views.ensemble=logits")
    result = train("stage=mml", "modality=[rgb,flow]", "schedule.epochs=1", *options)
    run = tmp_path / "single" / "run"
    for split in ("val", "test"):
        again = scored(run, "--split", split, out=tmp_path / "again.json")
        assert again == {split: result["metrics"][split]}
        assert (run / "predictions" / f"{split}_per_class.csv").is_file()
    saved = predictions.load(run / "predictions" / "test.npz")
    assert saved.scoring == Scoring("probs", "logits") and saved.views["name"] == "uniform2"
    assert len(saved.classes) == 10 and saved.classes[0] != "0"
    other = scored(run, "--pooling", "max", "--ensemble", "probs", out=tmp_path / "other.json")
    assert other["test"]["rgb"]["loss"] != result["metrics"]["test"]["rgb"]["loss"]


def test_runs_are_joined_by_id_and_what_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rgb, flow = dump("rgb", 0), dump("flow", 1, order=True)
    rgb.save(tmp_path / "A" / "predictions" / "test.npz")
    flow.take(flow.ids[:-2]).save(tmp_path / "B" / "predictions" / "test.npz")
    both = scored(tmp_path / "A", tmp_path / "B", "--weights", "flow=3", out=tmp_path / "both.json")
    told = capsys.readouterr().out
    assert f"2 videos ({', '.join(sorted(flow.ids[-2:]))}) of {tmp_path / 'A' / 'predictions' / 'test.npz'}" in told
    assert "ensemble of probs, flow x 3" in told
    kept = [video for video in rgb.ids if video in flow.ids[:-2]]
    mixed = (rgb.take(kept).pooled["rgb"].exp() + 3 * flow.take(kept).pooled["flow"].exp()) / 4
    top1 = 100 * float((mixed.argmax(-1) == rgb.take(kept).target).double().mean())
    assert both["test"]["ensemble"]["top1"] == pytest.approx(top1, abs=1e-4)
    alone = scored(tmp_path / "B", out=tmp_path / "alone.json")
    assert both["test"]["flow"] == alone["test"]["flow"] and set(both["test"]) == {"rgb", "flow", "ensemble"}


def test_choices_of_average_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "test.npz"
    made = dump("rgb", 0, several=True)
    made.logits["rgb"][::2] = 0.5  # ties
    made.target[:, 7] = 0
    replace(made, unreadable={"v99": "no video stream"}).save(file)
    values = {}
    for ap in ("grouped", "sequential"):
        for empty in ("drop", "zero", "nan"):
            found = scored(file, "--ap", ap, "--empty-class", empty, out=tmp_path / "out.json")["test"]["rgb"]
            values[ap, empty] = found["map"]
            expected = replace(made, scoring=Scoring(ap=ap, empty_class=empty)).metrics()["rgb"]["map"]
            assert (found["map"] is None and np.isnan(expected)) or found["map"] == pytest.approx(expected, abs=1e-4)
    assert values["grouped", "drop"] != values["sequential", "drop"]
    assert values["grouped", "zero"] == pytest.approx(values["grouped", "drop"] * 7 / 8, abs=1e-3)
    assert values["grouped", "nan"] is None
    told = capsys.readouterr().out
    assert told.index("map ") < told.index("map_weighted") < told.index("map_samples"), "as in the page on metrics"
    assert "1 of 8 classes have no video, first 'class 7'" in told and "1 video (v99)" in told


def test_submissions_of_the_ensemble_or_of_a_peer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rgb, flow = dump("rgb", 0), dump("flow", 1, order=True)
    rgb.save(tmp_path / "rgb.npz")
    flow.save(tmp_path / "flow.npz")
    both = [tmp_path / "rgb.npz", tmp_path / "flow.npz"]
    joined, _ = predictions.join([rgb, flow], ["A", "B"])
    for peer in ("ensemble", "rgb"):
        out = tmp_path / f"{peer}.csv"
        named = [] if peer == "ensemble" else ["--peer", peer]
        assert main(["score", *map(str, both), "--submission", "ssv2", "--out", str(out), *named]) == 0
        lines = [line.split(";") for line in out.read_text().splitlines()]
        best = joined.pooled[peer].argsort(dim=1, descending=True)[:, :5].tolist()
        assert lines == [[video, *map(str, row)] for video, row in zip(joined.ids, best, strict=True)]
        told = capsys.readouterr().out
        assert f"wrote {out}: 30 videos, scores of {peer}" in told and told.index("\nrgb ") < told.index("\nensemble ")


def test_labels_need_not_be_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = dump("rgb", 0)
    replace(made, target=torch.full_like(made.target, -1)).save(tmp_path / "test.npz")
    out = tmp_path / "test.csv"
    assert main(["score", str(tmp_path / "test.npz"), "--submission", "ssv2", "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 30
    told = capsys.readouterr().out
    assert "30 of 30 videos have no label: not counted" in told and "top1" not in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pooling", "sum"], "views.pooling='sum' is unknown"),
        (["--ap", "micro"], "metrics.ap='micro' is unknown"),
        (["--weights", "audio=1"], "weights name 'audio'; the peers are ['rgb']"),
        (["--submission", "ssv2"], "--submission FORMAT and --out FILE need each other"),
        (["--submission", "tsv", "--out", "x"], "'tsv' is unknown; use one of charades, ssv2"),
        (["--submission", "ssv2", "--out", "x", "--peer", "flow"], "--peer flow is not in the dump; it has rgb"),
        (["missing.npz"], "no score dump missing.npz"),
        ([str(Path(__file__).parent)], "has no scores of the split test (found: none)"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    dump("rgb", 0).save(tmp_path / "test.npz")
    assert main(["score", str(tmp_path / "test.npz"), *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("mml: error: ") and told.count("\n") == 1 and message in told
    assert [path.name for path in tmp_path.iterdir()] == ["test.npz"]


def test_wrong_weights_are_told_by_the_parser(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["score", "x.npz", "--weights", "rgb:1"])
    assert stop.value.code == 2 and "--weights" in capsys.readouterr().err


def test_several_heads_are_asked_for_by_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for head in ("verb", "noun"):
        dump("rgb", 0).save(tmp_path / "predictions" / f"test_{head}.npz")
    assert main(["score", str(tmp_path)]) == 2
    assert "has several heads; give one file" in capsys.readouterr().err
