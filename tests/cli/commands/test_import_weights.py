"""`mml import` as a user meets it: one line for a mistake and nothing written, a zoo file that runs take otherwise."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mml_lightning.backbones import tsm_resnet, video_resnet
from mml_lightning.cli.main import main
from mml_lightning.config import data as config_data
from mml_lightning.config import peers
from mml_lightning.config.settings import Settings
from mml_lightning.engine.predict import check_classes, rebuilt
from mml_lightning.runs.fingerprint import fingerprint
from mml_lightning.runs.lineage import first_weights
from mml_lightning.utils.errors import UserError
from mml_lightning.zoo.files import load_peer
from tests.zoo.importers import naming


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TSM checkpoint of the network of backbone=tiny with ten classes."""
    net = naming.randomised(tsm_resnet("tiny", shift_div=4, width=16, num_classes={"label": 10}))
    path = tmp_path_factory.mktemp("theirs") / "TSM_flow_resnet50_misleading_name.pth.tar"
    return naming.save(naming.tsm(net), path, lambda state: {"state_dict": state, "epoch": 45})


@pytest.fixture(scope="module")
def zoo(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("zoo") / "rgb.pt"
    assert main(["import", str(file), "--backbone", "tiny", "--out", str(out)]) == 0
    return out


def test_import_says_what_matched_and_writes_a_zoo_file(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "zoo" / "rgb.pt"
    assert main(["import", str(file), "--backbone", "tiny", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "TSM/MML names: 60 of 60 trunk tensors matched (100.0%)" in printed
    assert "head: kept: 10 classes" in printed and f"wrote {out}" in printed
    entry = load_peer(out)
    assert entry["classes"] == {"label": [str(n) for n in range(10)]} and entry["modality"]["name"] == "rgb"
    assert [path.name for path in out.parent.iterdir()] == ["rgb.pt"]


def test_names_of_classes_from_a_file(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"class {n}" for n in range(10)) + "\n\n")
    out = tmp_path / "rgb.pt"
    assert main(["import", str(file), "--backbone", "tiny", "--classes", str(names), "--out", str(out)]) == 0
    assert load_peer(out)["classes"]["label"][3] == "class 3"
    names.write_text("a\n\nb\n")
    assert main(["import", str(file), "--backbone", "tiny", "--classes", str(names), "--out", str(out)]) == 2
    assert "one name per line, no empty or duplicate ones" in capsys.readouterr().err


def test_the_backbone_and_the_modality_take_overrides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = naming.randomised(video_resnet("slow", 18, width=16, num_classes={"label": 4}))
    theirs = naming.save(naming.slowfast(net), tmp_path / "x.pyth", lambda state: {"model_state": state, "cfg": "x"})
    arguments = ["import", str(theirs), "--backbone", "slow_resnet50", "backbone.net.depth=18", "backbone.net.width=16"]
    out = ["--out", str(tmp_path / "rgb.pt")]
    assert main([*arguments, "--out", str(tmp_path / "plain.pt")]) == 0
    assert "inputs: SlowFast networks usually see frames with mean 0.45" in capsys.readouterr().out
    assert main([*arguments, *out, "--modality", "rgb", "statistics.mean=[0.45]", "statistics.std=[0.225]"]) == 0
    assert "inputs:" not in capsys.readouterr().out
    assert load_peer(tmp_path / "rgb.pt")["modality"]["std"] == [0.225]
    before = (tmp_path / "rgb.pt").read_bytes()
    assert main([*arguments, *out]) == 2 and "exists and runs may" in capsys.readouterr().err
    assert (tmp_path / "rgb.pt").read_bytes() == before


@pytest.mark.parametrize(
    "options, message",
    [
        (["--backbone", "tsm_resnet18"], "does not fit this backbone"),
        (["--backbone", "tsm_resnet999"], "backbone=tsm_resnet999 is unknown; use one of"),
        (["--backbone", "tiny", "stray"], "takes one name and KEY=VALUE, not 'stray'"),
        (["--backbone", "tiny", "--modality", "flow"], "inputs of 3 channels, this modality has 10"),
        (["--backbone", "tiny", "--num-classes", "0"], "must be 1 or more"),
        (["--backbone", "tiny", "--min-matched", "95"], "is a share"),
        (["--backbone", "tiny", "--classes", "gone.txt"], "gone.txt can't be read"),
        (["--backbone", "tiny", "backbone.net.shift=false"], "--other-shift"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    options: list[str], message: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rgb.pt"
    assert main(["import", str(file), *options, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_out_is_a_zoo_file_and_not_the_checkpoint(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(file), "--backbone", "tiny", "--out", str(tmp_path / "rgb.zip")]) == 2
    assert "must end in .pt" in capsys.readouterr().err
    copy = tmp_path / "x.pth"
    copy.write_bytes(file.read_bytes())
    assert main(["import", str(copy), "--backbone", "tiny", "--out", str(copy)]) == 2
    assert "name another one" in capsys.readouterr().err and copy.read_bytes() == file.read_bytes()


def test_the_same_file_gives_the_same_weights(file: Path, tmp_path: Path) -> None:
    """Also where the file lacks some, which are random then."""
    content = torch.load(file)
    del content["state_dict"]["module.base_model.layer1.0.conv2.weight"]
    part = tmp_path / "part.pth"
    torch.save(content, part)
    entries = []
    for name in ("a.pt", "b.pt"):
        options = ["--backbone", "tiny", "--min-matched", "0.9", "--out", str(tmp_path / name)]
        assert main(["import", str(part), *options]) == 0
        entries.append(load_peer(tmp_path / name))
    first, second = entries
    assert all(torch.equal(value, second["state_dict"][key]) for key, value in first["state_dict"].items())
    assert first["provenance"] == second["provenance"]


def test_measuring_an_incomplete_trunk_is_warned_of(zoo: Path, caplog: pytest.LogCaptureFixture) -> None:
    entry = load_peer(zoo)
    for missing in ([], ["net.conv1.weight"]):
        entry["provenance"]["imported"]["report"]["missing"] = missing
        rebuilt("rgb", entry, 8)
        assert caplog.text.count("trunk tensors are randomly initialised") == len(missing)


def test_a_run_starts_from_the_imported_file(
    file: Path, zoo: Path, composed: Callable[..., tuple[Settings, list[str]]]
) -> None:
    theirs = torch.load(file)["state_dict"]["module.base_model.conv1.weight"]
    for overrides in (
        [f"init.rgb={zoo}", "init.new_head=true"],
        ["init=kinetics", f"init.file={file}"],
        ["init=kinetics", f"init.file={zoo}"],
    ):
        cfg, typed = composed("backbone.net.width=16", *overrides)
        data = config_data.dataset(cfg)
        nets, origins = peers.peers(cfg, peers.peer_specs(cfg, typed), data)
        assert origins["rgb"]["fresh_head"] is True
        assert torch.equal(nets["rgb"].state_dict()["net.conv1.weight"], theirs)
        # a pipeline that starts again knows these weights without loading them into a network
        specs = peers.peer_specs(cfg, typed)
        told = {spec.name: {"init": spec.origin.init, "provenance": first_weights(cfg, spec)} for spec in specs}
        assert fingerprint(cfg, data, told) == fingerprint(cfg, data, origins)
    assert cfg.name == "ce_rgb_from_kinetics"


def test_kinetics_without_a_file_fails_before_the_data_are_read(
    composed: Callable[..., tuple[Settings, list[str]]],
) -> None:
    cfg, typed = composed("init=kinetics")
    with pytest.raises(UserError, match=r"init=kinetics needs init\.file="):
        peers.peer_specs(cfg, typed)


def test_the_command_that_makes_an_earlier_stage_names_the_file_too(
    composed: Callable[..., tuple[Settings, list[str]]],
) -> None:
    cfg, typed = composed("stage=ml", "init=ce", "init.base=kinetics", "init.file=theirs.pth")
    command = peers.peer_specs(cfg, typed)[0].origin.command
    assert command and "init=kinetics" in command and "init.file=theirs.pth" in command


def test_an_imported_network_is_measured(
    file: Path, demo: Path, small: list[str], tmp_path: Path, shell: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Classes of the data set, named; and a file whose head was dropped has nothing to be measured."""
    data = [override for override in small if override.startswith(("data.root", "data.videos"))]
    command = ["import", str(file), "--backbone", "tiny", "--out"]
    assert main([*command, str(tmp_path / "named.pt"), "--data", "demo", *data]) == 0
    used = [override for override in small if not override.startswith(("data.batch_size", "schedule."))]
    words = [*used, f"paths.root={tmp_path}", f"ckpt={tmp_path / 'named.pt'}", "views=center", "backbone.net.width=16"]
    done = shell("eval", *words, plain=True)
    assert done.returncode == 0, done.stderr
    assert "evaluating rgb on 11 test videos" in done.stdout
    assert main([*command, str(tmp_path / "headless.pt"), "--num-classes", "7"]) == 0
    with pytest.raises(UserError, match=r"rgb is a trunk without a head; train one: .* init\.new_head=true"):
        check_classes({"rgb": load_peer(tmp_path / "headless.pt")}, {}, "demo")
