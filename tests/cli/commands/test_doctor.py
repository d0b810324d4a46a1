"""`mml doctor` as a user meets it: which runs are networks, what it prints and writes, its one-line errors."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mml_lightning.cli.main import main
from mml_lightning.evaluation import predictions
from mml_lightning.evaluation.predictions import Predictions

CLASSES = tuple(f"class {k}" for k in range(6))


def scores(split: str, peers: dict[str, float], seed: int, several: bool = False) -> Predictions:
    generator = torch.Generator().manual_seed(10 * seed + len(split) + sum(map(ord, "".join(peers))))
    target = torch.arange(60) % 6
    hot = torch.nn.functional.one_hot(target, 6) + several * torch.nn.functional.one_hot((target + 2) % 6, 6)
    logits = {p: torch.randn(60, 1, 6, generator=generator) + known * hot[:, None] for p, known in peers.items()}
    ids = tuple(f"{split}{i}" for i in range(60))
    return Predictions(ids, hot if several else target, logits, CLASSES, multi_label=several, split=split)


def make(
    folder: str | Path, peers: dict[str, float], seed: int = 0, several: bool = False, loss: float | None = 0.2
) -> Path:
    """A run: its result, its scores, the losses that it logged."""
    run = Path(folder)
    for split in ("val", "test"):
        scores(split, peers, seed, several).save(run / "predictions" / f"{split}.npz")
    stage, term = ("ce", "mml")[len(peers) > 1], ("ce", "bce")[several]
    result = {
        **{"schema": 1, "status": "completed", "name": f"{stage}_{'+'.join(peers)}", "stage": stage, "seed": seed},
        **{"modality": list(peers), "overrides": [f"stage={stage}", f"seed={seed}"], "metrics": {}},
        "peers": {peer: {"modality": re.sub(r"_\d$", "", peer)} for peer in peers},
    }
    (run / "result.json").write_text(json.dumps(result))
    if loss is not None:
        (run / "logs").mkdir()
        heads = ",".join(f"train/{peer}/{term}" for peer in peers)
        lines = [f"{epoch}," + ",".join([str(loss + 1 - epoch)] * len(peers)) for epoch in range(2)]
        (run / "logs" / "metrics.csv").write_text("\n".join([f"epoch,{heads}", *lines]) + "\n")
    return run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two seeds of rgb and of flow, one joint run of each seed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for seed in range(2):
        make(f"sweep/{seed}_rgb", {"rgb": 0.6}, seed)
        make(f"sweep/{seed}_flow", {"flow": 1.6}, seed)
        make(f"joint/{seed}_mml", {"rgb": 0.8, "flow": 0.2}, seed)
    return tmp_path


def told(*words: str) -> dict[str, Any]:
    assert main(["doctor", *words, "--json", "found.json"]) == 0
    found: dict[str, Any] = json.loads(Path("found.json").read_text())
    return found


def test_two_runs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told("sweep/0_rgb", "sweep/0_flow", "--html", "found.html")
    text = capsys.readouterr().out
    assert [one["name"] for one in found["networks"]] == ["rgb", "flow"] and found["seeds"] == 1
    assert found["networks"][0]["train_loss"] == pytest.approx(0.2)  # of the last epoch
    assert re.search("rgb: room to learn: (flow|the ensemble) leads rgb by", text) and "one seed" in text
    assert "flow: no room to learn" in text and "rgb + flow together: top1" in text
    assert found["sentences"] and all(line in " ".join(text.split()) for line in found["sentences"])
    page = Path("found.html").read_text()
    assert page.count("<svg") == 2 and "room to learn" in page and "http" not in page.replace("http://www.w3.org", "")


def test_a_sweep_is_its_runs_and_its_seeds(runs: Path) -> None:
    found = told("sweep")
    assert [one["name"] for one in found["networks"]] == ["flow", "rgb"] and found["seeds"] == 2
    assert not found["notes"]


def test_networks_alone_and_inside_a_joint_model(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told("sweep", "joint")
    assert [(one["peer"], one["network"]) for one in found["joint"]] == [
        ("rgb", "rgb"),
        ("flow", "flow"),
        ("ensemble", "flow"),
    ]
    text = capsys.readouterr().out
    assert "flow inside mml_rgb+flow" in text and "training them together costs it" in text
    assert "the joint model is worse than flow alone" in text


def test_other_starts_of_a_joint_model_are_said(runs: Path) -> None:
    for folder, init in (("sweep", "scratch"), ("joint", "scratch"), ("joint", "ce")):
        for file in Path(folder).glob("*/result.json"):
            result = json.loads(file.read_text())
            if "rgb" in result["peers"]:
                result["peers"]["rgb"]["init"], result["steps"] = init, 360
            file.write_text(json.dumps(result))
        notes = told("sweep", "joint")["notes"]
        said = "rgb was trained from scratch for 360 steps, mml_rgb+flow/rgb from ce for 360 steps"
        assert notes == ([said] if init == "ce" else [])


def test_other_settings_of_a_joint_model_are_said(runs: Path) -> None:
    for file in Path("joint").glob("*/result.json"):
        result = json.loads(file.read_text())
        result["overrides"] += ["backbone.net.shift=online", "data.workers=2"]
        file.write_text(json.dumps(result))
    said = "rgb and mml_rgb+flow/rgb were not trained with the same settings: backbone.net.shift=online"
    assert said in told("sweep", "joint")["notes"]


def test_peers_of_a_joint_run_stand_for_what_has_no_run(runs: Path) -> None:
    found = told("joint/0_mml")
    assert [one["inside"] for one in found["networks"]] == ["mml_rgb+flow"] * 2 and not found["joint"]
    assert any("no network was trained alone" in note for note in found["notes"])
    found = told("sweep/0_rgb", "joint/0_mml")
    assert [(one["name"], one["inside"]) for one in found["networks"]] == [("rgb", ""), ("flow", "mml_rgb+flow")]
    assert any("flow has no run of its own" in note for note in found["notes"])


def test_names_tell_two_of_one_modality_apart(runs: Path) -> None:
    found = told("rgb=sweep/0_rgb", "rgb_2=sweep/1_rgb", "taught=joint/0_mml:rgb")
    assert [one["name"] for one in found["networks"]] == ["rgb", "rgb_2", "taught"]
    assert len(found["together"]) == 4
    assert any("different seeds" in note for note in found["notes"])


def test_several_labels(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("a", {"rgb": 0.6}, several=True)
    make("b", {"flow": 1.6}, several=True)
    found = told("a", "b")
    assert found["metric"] == "map" and found["networks"][0]["gap"]["value"] > 0
    assert "rgb: room to learn" in capsys.readouterr().out


def test_files_instead_of_runs_and_no_logs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("bare", {"rgb": 0.6}, loss=None)
    found = told("bare/predictions/test.npz", "sweep/0_flow/predictions/val.npz")
    assert found["split"] == "test" and "can't tell" in found["sentences"][0]
    assert any("training loss of rgb of bare" in note and "logs/metrics.csv" in note for note in found["notes"])


def test_mixed_videos_and_smoothed_labels_make_the_training_loss_another_one(runs: Path) -> None:
    (Path("sweep/0_rgb") / ".hydra").mkdir()
    (Path("sweep/0_rgb") / ".hydra" / "config.yaml").write_text("mix: {mixup: 0.2, cutmix: null}\n")
    assert any("mixed" in note for note in told("sweep/0_rgb", "sweep/0_flow")["notes"])
    (Path("sweep/0_rgb") / ".hydra" / "config.yaml").write_text("loss: {name: cross_entropy, label_smoothing: 0.1}\n")
    assert any("smoothed" in note for note in told("sweep/0_rgb", "sweep/0_flow")["notes"])


def test_losses_are_divided_by_their_weight_and_heads_have_their_own(runs: Path) -> None:
    run = Path("sweep/0_rgb")
    (run / ".hydra").mkdir()
    (run / ".hydra" / "config.yaml").write_text("objective: {supervised_weight: 0.5}\n")
    assert told("sweep/0_rgb", "sweep/0_flow")["networks"][0]["train_loss"] == pytest.approx(0.4)
    for split in ("val", "test"):
        for name in ("0_rgb", "0_flow"):
            file = Path("sweep") / name / "predictions" / f"{split}.npz"
            file.rename(file.with_stem(f"{split}_verb"))
    log = run / "logs" / "metrics.csv"
    log.write_text(log.read_text().replace("rgb/ce", "rgb/ce_verb"))
    found = told("sweep/0_rgb", "sweep/0_flow/predictions/val_verb.npz")
    assert found["networks"][0]["train_loss"] == pytest.approx(0.4)
    assert any("flow" in note and "has no train/flow/ce_verb" in note for note in found["notes"])


@pytest.mark.parametrize("what", [[1], {"a": 1}, "x" * 5000, "\x1b[2J<b>", -1.5, True])
def test_a_forged_run_is_no_traceback_and_steers_no_terminal(runs: Path, what: Any, capsys: Any) -> None:
    for folder in ("sweep/0_rgb", "joint/0_mml"):
        file = Path(folder) / "result.json"
        result = json.loads(file.read_text())
        forged = {"init": what, "origin": what, "modality": what}
        peers = {peer: forged for peer in result["peers"]}
        file.write_text(json.dumps({**result, "seed": what, "steps": what, "peers": peers}))
        (Path(folder) / ".hydra").mkdir()
        text = f"objective: {json.dumps({'supervised_weight': what})}\nmix: {json.dumps(what)}\n"
        (Path(folder) / ".hydra" / "config.yaml").write_text(text)
    code = main(["doctor", "a=sweep/0_rgb", "sweep/0_flow", "joint/0_mml", "--html", "page.html"])
    told = capsys.readouterr()
    assert code in (0, 2) and "\x1b" not in told.out + told.err and "Traceback" not in told.err
    assert not Path("page.html").is_file() or "<b>" not in Path("page.html").read_text()


def test_seeds_that_not_all_have_are_named(runs: Path) -> None:
    make("sweep/2_rgb", {"rgb": 0.6}, 2)
    assert any("seeds 2" in note for note in told("sweep")["notes"])


def rewrite(run: str, split: str, **changes: Any) -> None:
    file = Path(run) / "predictions" / f"{split}.npz"
    replace(predictions.load(file), **changes).save(file)


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a mistake; nothing is written."""
    before = sorted(Path().rglob("*"))
    assert main(["doctor", *words]) == 2
    text = capsys.readouterr()
    assert text.err.startswith("mml: error: ") and len(text.err.splitlines()) == 1 and not text.out
    assert sorted(Path().rglob("*")) == before
    return text.err


def test_mistakes_are_one_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rgb, flow = "sweep/0_rgb", "sweep/0_flow"
    assert "two runs or more" in fails(capsys)
    assert "rgb alone can't be compared" in fails(capsys, rgb)
    assert "rgb alone can't be compared" in fails(capsys, rgb, "sweep/1_rgb")  # two seeds of one network
    assert f"both rgb of seed 0: leave one out, or name them to compare them, rgb={rgb} rgb_2=" in fails(
        capsys, rgb, str(make("again", {"rgb": 0.7})), flow
    )
    assert "there is no nowhere" in fails(capsys, rgb, "nowhere")
    assert "there is no xxx" in fails(capsys, rgb, "x" * 5000)
    assert "has no peer audio; it has rgb" in fails(capsys, f"{rgb}:audio", flow)
    assert "no seed is in all of them" in fails(capsys, rgb, "sweep/1_rgb", str(make("seven", {"flow": 1.0}, 7)))
    assert "call sweep/0_rgb something else" in fails(capsys, f"ensemble={rgb}", flow)
    Path("empty").mkdir()
    assert "no completed run with scores below it" in fails(capsys, "empty", flow)
    assert "--record goes without" in fails(capsys, "--record", "empty", rgb)
    assert "can't read" in fails(capsys, "--record", "empty")
    assert "can't write found.json/x" in unwritable(capsys, rgb, flow)


def unwritable(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    Path("found.json").write_text("")
    assert main(["doctor", *words, "--json", "found.json/x"]) == 2
    return capsys.readouterr().err


def test_more_than_the_seed_differs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path("sweep/1_rgb/result.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "backbone": "other"}))
    assert "differ in more than the seed" in fails(capsys, "sweep")


def test_runs_that_do_not_fit_together(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rgb, flow = "sweep/0_rgb", "sweep/0_flow"
    (Path("sweep/1_rgb") / "predictions" / "val.npz").unlink()
    line = fails(capsys, "sweep/1_rgb", flow)
    assert "no scores of the validation split (found: test)" in line and "ckpt=sweep/1_rgb split=val" in line
    rewrite(flow, "val", classes=tuple("abcdef"))
    assert "different classes" in fails(capsys, rgb, flow)
    rewrite(flow, "val", classes=CLASSES, ids=tuple(f"other{i}" for i in range(60)))
    assert "no video is in all" in fails(capsys, rgb, flow)
    (Path(flow) / "predictions" / "val.npz").write_bytes(b"PK")
    assert "is not a score dump" in fails(capsys, rgb, flow)
