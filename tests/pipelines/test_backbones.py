"""A ResNet-50 that looks at rgb beside a ResNet-18 that looks at flow, through a whole pipeline."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mml_lightning import report
from mml_lightning.cli import main
from mml_lightning.config import objective, peers
from mml_lightning.config.settings import Settings
from mml_lightning.engine import train as engine_train
from mml_lightning.engine.evaluate import evaluate
from mml_lightning.objectives import Objective
from mml_lightning.pipelines.plan import plan_runs
from mml_lightning.pipelines.run_pipeline import pipeline
from mml_lightning.runs.fingerprint import config_that_decides_weights
from mml_lightning.utils.errors import UserError
from mml_lightning.zoo.files import load_peer

Composed = Callable[..., tuple[Settings, list[str]]]
OWN = ("backbone=tsm_resnet50", "backbone.flow=tsm_resnet18", "backbone.flow.net.width=8", "schedule.epochs=1")
OF_EACH = (
    "pipeline.runs=[{stage: ce, modality: [rgb], init: base}, {stage: ce, modality: [flow], init: base}, "
    "{stage: reduced_mml, init: {rgb: ce, flow: own}, default: {modality: [rgb, flow]}}]"
)
SHAPES = {width: {"pooled": (width,), "map": (4, width, 1, 1)} for width in (256, 64)}
LABEL = "rgb=tsm_resnet50, flow=tsm_resnet18"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names and backbones of the stages that were trained, in order."""
    names: list[str] = []
    stage = engine_train.stage

    def spy(cfg: Settings, overrides: list[str], alone: bool = True) -> dict[str, Any]:
        result = stage(cfg, overrides, alone)
        names.append(f"{cfg.name}: {result['backbone']}")
        return result

    monkeypatch.setattr(engine_train, "stage", spy)
    return names


def graph_of(cfg: Settings) -> Objective:
    return objective.objective(cfg, ["rgb", "flow"])


def arch(file: Path) -> tuple[object, int]:
    entry = load_peer(file)
    return entry["arch"]["depth"], entry["arch"]["in_channels"]


def test_a_pipeline_of_two_backbones(
    composed: Composed,
    trained: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    stages = [
        "ce_rgb_from_scratch: tsm_resnet50",
        "ce_flow_from_scratch: tsm_resnet18",
        f"reduced_mml_rgb+flow_from_ce+own: {LABEL}",
    ]
    caplog.set_level("INFO")
    pipeline(*composed(OF_EACH, *OWN))
    assert trained == stages
    zoo = tmp_path / "zoo/demo"
    files = {str(path.relative_to(zoo).parent.parent): path for path in zoo.glob("*/*/*/*/*.pt")}
    assert {place: arch(path) for place, path in files.items()} == {
        "tsm_resnet50/ce_rgb_from_scratch/seed0": (50, 3),
        "tsm_resnet18/ce_flow_from_scratch/seed0": (18, 10),
        "tsm_resnet50/reduced_mml_rgb+flow_from_ce+own/seed0": (50, 3),
        "tsm_resnet18/reduced_mml_rgb+flow_from_ce+own/seed0": (18, 10),
    }
    told = json.loads((tmp_path / "single/run/3_reduced_mml_rgb+flow_from_ce+own/result.json").read_text())
    assert {name: peer["backbone"] for name, peer in told["peers"].items()} == {
        "rgb": "tsm_resnet50",
        "flow": "tsm_resnet18",
    }
    assert told["peers"]["flow"]["origin"] == str(files["tsm_resnet18/ce_flow_from_scratch/seed0"])
    assert f"backbone  {LABEL}" in caplog.text

    trained.clear()
    pipeline(*composed(OF_EACH, *OWN, run="second"))
    assert trained == [], "every entry is known again"
    assert {path.name for path in zoo.glob("*/*/*/*")} == {path.parent.name for path in files.values()}

    rows = report.tabulate(report.collect(tmp_path / "single/run")).rows
    assert [row["backbone"] for row in rows] == ["tsm_resnet18", "tsm_resnet50", LABEL]

    run = tmp_path / "single/second/3_reduced_mml_rgb+flow_from_ce+own"
    words = ("modality=[rgb,flow]", *OWN)
    of_run = evaluate(*composed(*words, f"ckpt={run}", program="eval", run="e1"))
    assert of_run["metrics"] == {"test": told["metrics"]["test"]}
    assert of_run["backbone"] == "flow=tsm_resnet18, rgb=tsm_resnet50" and of_run["modality"] == ["flow", "rgb"]
    flow = files["tsm_resnet18/reduced_mml_rgb+flow_from_ce+own/seed0"]
    of_file = evaluate(*composed(f"ckpt={flow}", program="eval", run="e2"))
    assert of_file["metrics"]["test"]["flow"] == told["metrics"]["test"]["flow"]
    assert of_file["backbone"] == "tsm_resnet18", "as the file says, whatever was typed"

    capsys.readouterr()
    assert main.main(["report", str(tmp_path / "single/run")]) == 0
    assert set(LABEL.split(", ")) <= set(re.split(r"[\s,]+", capsys.readouterr().out))  # cells break at spaces
    assert main.main(["ensemble", str(tmp_path / "single/run/3_reduced_mml_rgb+flow_from_ce+own")]) == 0
    assert "rgb" in capsys.readouterr().out


def test_what_nobody_has_declared_is_trained_too(composed: Composed, trained: list[str], tmp_path: Path) -> None:
    """The method starts all peers from a cross-entropy rgb network: flow's has the shape of flow's network."""
    pipeline(*composed("pipeline=reduced_mml", *OWN))
    assert trained == [
        "ce_rgb_from_scratch: tsm_resnet50",
        "ce_rgb_from_scratch: tsm_resnet18",
        f"reduced_mml_rgb+flow_from_ce: {LABEL}",
    ]
    step = json.loads((tmp_path / "single/run/3_reduced_mml_rgb+flow_from_ce/result.json").read_text())
    assert "zoo/demo/tsm_resnet18/ce_rgb_from_scratch/" in step["peers"]["flow"]["origin"]
    assert "ce_rgb_from_scratch (tsm_resnet18)" in (tmp_path / "single/run/runs.md").read_text()
    trained.clear()
    pipeline(*composed("pipeline=reduced_mml", *OWN, run="second"))
    assert trained == []


def test_a_longer_way_is_made_whole(composed: Composed) -> None:
    runs = plan_runs(*composed("pipeline=mml", *OWN))
    assert [(run.name, run.added) for run in runs] == [
        ("ce_rgb_from_scratch", ""),
        ("ml_rgb_from_ce", ""),
        ("ce_rgb_from_scratch", "tsm_resnet18"),
        ("ml_rgb_from_ce", "tsm_resnet18"),
        ("mml_rgb+flow_from_ml", ""),
    ]


def test_a_network_for_what_no_run_looks_at_is_refused(composed: Composed) -> None:
    with pytest.raises(UserError, match=r"backbone\.rgbdiff=tiny: no run uses rgbdiff"):
        plan_runs(*composed("pipeline=reduced_mml", "backbone.rgbdiff=tiny"))


def test_a_network_is_the_same_however_it_is_chosen(train: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    one = train("modality=[flow]", "backbone=tsm_resnet18", "schedule.epochs=1", run="one")
    two = train("modality=[flow]", "backbone=tsm_resnet50", *OWN[1:], run="two")
    assert one["fingerprint"] == two["fingerprint"] and one["zoo"] == two["zoo"]
    assert one["backbone"] == two["backbone"] == "tsm_resnet18"
    mixed = train("stage=mml", "modality=[rgb,flow]", *OWN, "init.rgb=scratch", "init.flow=own", run="mixed")
    assert mixed["peers"]["flow"]["origin"] == f"{one['zoo']}/flow.pt"


@pytest.mark.parametrize(
    "init, making",
    [
        ("own", "modality=[flow] .* backbone.flow=tsm_resnet18 backbone.flow.net.width=8 seed=0"),
        ("ce", r"modality=\[rgb\] .* backbone.rgb=tsm_resnet18 backbone.rgb.net.width=8 seed=0"),
        ("ml", r"stage=ml .*modality=\[rgb\] .* backbone.rgb=tsm_resnet18 backbone.rgb.net.width=8 seed=0"),
    ],
)
def test_the_command_that_makes_first_weights_names_their_network(
    train: Callable[..., dict[str, Any]], init: str, making: str
) -> None:
    words = (*OWN, "stage=mml", "modality=[rgb,flow]", "init.rgb=scratch", f"init.flow={init}")
    with pytest.raises(UserError, match=r"zoo/demo/tsm_resnet18/.* was never trained; make it with: ") as caught:
        train(*words)
    command = str(caught.value).replace("'", "")
    assert re.search(making.replace("modality=[flow]", r"modality=\[flow\]"), command), command
    assert "backbone=tsm_resnet50" in command


def test_an_alias_of_a_run_of_both_keeps_both(composed: Composed) -> None:
    """Of rgb, `mml` is what learned beside this flow network; of flow, an rgb network of its shape."""
    runs = plan_runs(*composed("pipeline=relaunch", *OWN))
    assert sorted((run.name, run.added) for run in runs) == [
        ("ce_rgb_from_scratch", ""),
        ("ce_rgb_from_scratch", "tsm_resnet18"),
        ("mml_rgb+flow_from_ce", ""),
        ("mml_rgb+flow_from_ce", "tsm_resnet18"),
        ("mml_rgb+flow_from_mml", ""),
        ("mml_rgb+flow_from_mml", "tsm_resnet18"),
        ("mml_rgb+flow_from_mml2", ""),
    ]
    both = next(run for run in runs if run.name == "mml_rgb+flow_from_ce" and not run.added)
    again = next(run for run in runs if run.name == "mml_rgb+flow_from_mml" and not run.added)
    assert {path.parts[-4:-2] for path in again.needs & set(both.makes)} == {("tsm_resnet50", "mml_rgb+flow_from_ce")}


def test_weights_of_the_other_backbone_are_refused(train: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    train("backbone=tsm_resnet50", "schedule.epochs=1", run="ce")
    file = tmp_path / "single/ce/peers/rgb.pt"
    with pytest.raises(UserError, match="does not fit this backbone"):
        train(*OWN, "stage=mml", "modality=[rgb,flow]", f"init.all={file}", "init.rgb=scratch")


def test_networks_of_one_backbone_lie_as_they_did(train: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    told = train("stage=mml", "modality=[rgb,flow]", "init=scratch", "schedule.epochs=1")
    assert {path.name for path in Path(told["zoo"]).glob("*.pt")} == {"rgb.pt", "flow.pt"}
    assert "/zoo/demo/tiny/mml_rgb+flow_from_scratch/seed0/" in told["zoo"]
    assert not any("backbone" in peer for peer in told["peers"].values())


def test_one_file_is_not_the_start_of_two_depths(composed: Composed, tmp_path: Path) -> None:
    (tmp_path / "resnet50.pth").touch()
    words = (*OWN, "init=imagenet", f"init.file={tmp_path / 'resnet50.pth'}")
    told = r"resnet50\.pth is the file of one network, and tsm_resnet50 and tsm_resnet18 would start from it"
    with pytest.raises(UserError, match=told):
        peers.peer_specs(*composed(*words, "stage=mml", "modality=[rgb,flow]"))
    with pytest.raises(UserError, match=told):
        plan_runs(*composed(*words, "pipeline=reduced_mml"))
    alike = (f"init.file={tmp_path / 'resnet50.pth'}", "init=imagenet", "stage=mml", "modality=[rgb,flow]")
    assert peers.peer_specs(*composed(*alike, "backbone=tsm_resnet50", "backbone.flow=tsn_resnet50"))


def test_a_run_of_a_pipeline_may_choose_it(composed: Composed) -> None:
    declared = "pipeline.runs=[{stage: ce, modality: [flow], init: base, set: ['backbone.flow=tsm_resnet18']}]"
    (run,) = plan_runs(*composed(declared))
    assert "zoo/demo/tsm_resnet18/ce_flow_from_scratch" in str(run.makes[0])


@pytest.mark.parametrize("stage", ["mars", "mers"])
def test_features_of_two_widths_are_refused_before_anything_is_written(
    train: Callable[..., dict[str, Any]], tmp_path: Path, stage: str
) -> None:
    words = (*OWN, f"stage={stage}", "modality=[rgb,flow]", "init=scratch")
    with pytest.raises(
        UserError, match=rf"objective={stage}: .* rgb \(256 wide.* flow \(64 wide.*backbone\.<modality>="
    ):
        train(*words)
    assert not (tmp_path / "single").exists()
    train(*words, "objective=d3d")


def test_a_learned_map_learns_and_stays_behind(
    train: Callable[..., dict[str, Any]], composed: Composed, tmp_path: Path
) -> None:
    words = (*OWN, "stage=mars", "modality=[rgb,flow]", "init=scratch", "objective.edges.0.project=true")
    told = train(*words)
    checkpoint = tmp_path / "single/run/checkpoints/last.ckpt"
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    learned = {key: tuple(value.shape) for key, value in state.items() if "projections" in key}
    assert learned == {
        "peers.rgb.projections.feature_mse_pooled_from_flow.weight": (64, 256),
        "peers.rgb.projections.feature_mse_pooled_from_flow.bias": (64,),
    }
    cfg = composed(*words)[0]
    fresh = graph_of(cfg).projections({"rgb": SHAPES[256], "flow": SHAPES[64]}, seed=0)["rgb"]
    before = next(iter(fresh.values())).weight
    assert not torch.equal(before, state["peers.rgb.projections.feature_mse_pooled_from_flow.weight"])
    exported = load_peer(Path(told["zoo"]) / "rgb.pt")["state_dict"]
    assert not any("projection" in key for key in exported)
    for ckpt in (checkpoint, Path(told["zoo"]) / "rgb.pt"):
        again = evaluate(*composed(*words[:-1], f"ckpt={ckpt}", program="eval", run=f"of_{ckpt.stem}"))
        assert again["metrics"]["test"]["rgb"] == told["metrics"]["test"]["rgb"]
    untold = evaluate(*composed(f"ckpt={checkpoint}", program="eval", run="untold"))
    assert untold["backbone"] == LABEL, "as the checkpoint says"


def test_a_config_without_one_is_known_as_before(composed: Composed) -> None:
    values = composed("stage=mars", "modality=[rgb,flow]", "init=scratch")[0].plain()
    assert values["objective"]["edges"][0]["project"] is False
    assert "project" not in config_that_decides_weights(values)["objective"]["edges"][0]
    values["objective"]["edges"][0]["project"] = True
    assert config_that_decides_weights(values)["objective"]["edges"][0]["project"] is True


def test_the_graph_names_the_networks_where_they_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["graph", "stage=mml", "modality=[rgb,flow]", "init=scratch"]
    assert main.main([*words, *OWN, "--out", str(tmp_path / "graph.svg")]) == 0
    assert f"backbone: {LABEL}" in capsys.readouterr().out
    assert "tsm_resnet18, from scratch" in (tmp_path / "graph.svg").read_text()
    assert main.main(words) == 0
    assert "backbone" not in capsys.readouterr().out
