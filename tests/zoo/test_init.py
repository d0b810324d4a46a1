"""Origins: words, aliases and files to weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mml_lightning.backbones import Recognizer, rebuild, resnet, tsm_resnet, video_resnet
from mml_lightning.utils.errors import UserError
from mml_lightning.zoo.aliases import Alias, Origin, require_file, resolve
from mml_lightning.zoo.files import checkpoint_entries, export_peer, load_entry
from mml_lightning.zoo.importers import zoo_entry
from mml_lightning.zoo.init import kinetics_file, load_initial_weights

ALIASES = {
    "ce": Alias("ce_rgb_from_scratch", "rgb{copy}", ("stage=ce", "modality=[rgb]", "init=scratch")),
    "own": Alias("ce_{modality}_from_scratch", "{modality}{copy}", ("stage=ce", "modality=[{modality}]")),
}
CLASSES = {"label": ["a", "b"]}


def net(**changes: Any) -> Recognizer:
    return tsm_resnet("tiny", **{"num_classes": {"label": 2}, "width": 8, **changes})


def entry(peer: Recognizer, **changes: object) -> dict[str, object]:
    modality = {"name": "rgb"}
    return {
        "state_dict": peer.state_dict(),
        "arch": peer.arch,
        "modality": modality,
        "classes": CLASSES,
        "provenance": {"peer": "rgb", "fingerprint": "f", "origin": {"init": "scratch"}},
        **changes,
    }


def given(init: str, modality: str = "rgb", copy: str = "", kept: tuple[str, ...] = ()) -> Origin:
    return resolve(init, modality, copy, ALIASES, Path("zoo"), kept, seed=2)


@pytest.mark.parametrize(
    "init, modality, copy, path",
    [
        ("ce", "flow", "", "zoo/ce_rgb_from_scratch/seed2/rgb.pt"),
        ("ce", "rgb", "_1", "zoo/ce_rgb_from_scratch/seed2/rgb_1.pt"),
        ("own", "flow", "_1", "zoo/ce_flow_from_scratch/seed2/flow_1.pt"),
        ("ce:rgb_1", "flow", "", "zoo/ce_rgb_from_scratch/seed2/rgb_1.pt"),
        ("some/file.pt", "rgb", "", "some/file.pt"),
        ("file.ckpt", "rgb", "", "file.ckpt"),
    ],
)
def test_where_an_init_leads(init: str, modality: str, copy: str, path: str) -> None:
    origin = given(init, modality, copy)
    assert origin.key == Path(path) and (origin.path is None) == (init.partition(":")[0] in ALIASES)


@pytest.mark.parametrize("text", ["{kind}", "{", "{0}", "{modality.x}", "{modality:z}"])
@pytest.mark.parametrize("place", ["run", "peer", "make"])
def test_other_braces_of_an_alias_are_named(place: str, text: str) -> None:
    alias = replace(ALIASES["own"], **{place: (text,) if place == "make" else text})
    with pytest.raises(UserError, match=r"aliases\.mine may hold \{modality\} and \{copy\} only"):
        resolve("mine", "rgb", "", {"mine": alias}, Path("zoo"), (), seed=0)


def test_words_without_a_file() -> None:
    assert given("scratch") == Origin("scratch") and given("imagenet") == Origin("imagenet")
    with pytest.raises(
        UserError, match=r"'nonsense' of flow is unknown; use scratch, imagenet, kinetics, one of \['ce', 'own'\]"
    ):
        given("nonsense", "flow")


def test_the_command_that_makes_weights_can_be_pasted() -> None:
    origin = given("own", "flow", "_2", ("data.root=/my videos",))
    assert origin.command == ("python train.py stage=ce 'modality=[flow]' stage.copies=3 'data.root=/my videos' seed=2")
    with pytest.raises(UserError, match=r"was never trained; make it with: python train.py stage=ce"):
        require_file(origin, "init.flow_2")
    with pytest.raises(UserError, match=r"init\.rgb=gone\.pt: no such file"):
        require_file(given("gone.pt"), "init.rgb")
    require_file(given("scratch"), "init.rgb")


def test_fill_takes_trunk_and_head_of_the_same_classes(tmp_path: Path) -> None:
    source = net()
    file = export_peer(tmp_path / "rgb.pt", entry(source))
    target = net()
    where = load_initial_weights(target, Origin(str(file), file), "rgb", "rgb", CLASSES, "tiny", None)
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    )
    assert where["fresh_head"] is False and where["provenance"] == {"peer": "rgb", "fingerprint": "f"}


def test_fill_converts_the_stem_and_may_leave_the_head(tmp_path: Path) -> None:
    source = net()
    file = export_peer(tmp_path / "rgb.pt", entry(source, classes={"label": ["x", "y"]}))
    target = net(in_channels=10)
    head = target.heads["label"].weight.clone()
    with pytest.raises(UserError, match="other classes"):
        load_initial_weights(target, Origin(str(file), file), "flow", "flow", CLASSES, "tiny", None)
    where = load_initial_weights(target, Origin(str(file), file), "flow", "flow", CLASSES, "tiny", None, new_head=True)
    assert where["fresh_head"] is True and torch.equal(target.heads["label"].weight, head)
    mean = source.net.conv1.weight.mean(dim=1, keepdim=True)
    assert torch.allclose(target.net.conv1.weight, mean.expand(-1, 10, -1, -1))


def test_a_checkpoint_offers_its_peers_by_name_then_modality(tmp_path: Path) -> None:
    peers = {"rgb": net(), "rgb_1": net(), "flow": net(in_channels=10)}
    described = {
        name: {key: value for key, value in entry(peer, modality={"name": name.split("_")[0]}).items()}
        for name, peer in peers.items()
    }
    for value in described.values():
        del value["state_dict"], value["provenance"]
    config = {"name": "run", "stage": {"name": "ml"}, "seed": 1, "sampling": {}, "transforms": {}}
    state = {f"peers.{name}.{key}": value for name, peer in peers.items() for key, value in peer.state_dict().items()}
    file = tmp_path / "last.ckpt"
    torch.save({"hyper_parameters": {"peers": described, "config": config}, "state_dict": state, "epoch": 4}, file)
    assert list(checkpoint_entries(file)) == ["rgb", "rgb_1", "flow"]
    assert load_entry(file, "rgb_1", "rgb")["provenance"]["peer"] == "rgb_1"
    assert load_entry(file, "rgb_2", "rgb")["provenance"] == {
        **load_entry(file, "rgb", "rgb")["provenance"],
        "peer": "rgb",
        "epochs": 5,
    }
    with pytest.raises(UserError, match="none of them rgbdiff"):
        load_entry(file, "rgbdiff", "rgbdiff")


@pytest.mark.parametrize("channels", [3, 10])
def test_imagenet_weights_are_inflated_to_a_3d_network(tmp_path: Path, channels: int) -> None:
    with torch.device("meta"):
        names = resnet(50).state_dict()
    image = {key: torch.rand(value.shape) if value.ndim else torch.tensor(7) for key, value in names.items()}
    torch.save({**image, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, tmp_path / "resnet50.pth")
    peer = video_resnet("i3d", 50, nonlocal_blocks=True, in_channels=channels, num_classes={"label": 2})
    before = {key: value.clone() for key, value in peer.state_dict().items()}
    where = load_initial_weights(peer, Origin("imagenet"), "rgb", "rgb", CLASSES, 50, str(tmp_path / "resnet50.pth"))
    assert where["inflated"] == 53 and where["fresh_head"] is True
    stem = image["conv1.weight"][:, :, None].expand(-1, -1, 5, -1, -1) / 5
    if channels != 3:
        stem = stem.mean(1, keepdim=True).expand(-1, channels, -1, -1, -1)
    torch.testing.assert_close(peer.net.conv1.weight, stem)
    state = peer.state_dict()
    for key, value in image.items():
        if value.ndim == 4 and key != "conv1.weight":
            torch.testing.assert_close(state[f"net.{key}"].sum(2), value)
        elif value.ndim < 4:
            assert torch.equal(state[f"net.{key}"], value), key
    kept = [key for key in state if key.startswith(("heads.", "net.nonlocals."))]
    assert len(kept) == 2 + 5 * 13 and all(torch.equal(state[key], before[key]) for key in kept)


def test_weights_of_a_run_are_not_inflated_unasked(tmp_path: Path) -> None:
    file = export_peer(tmp_path / "rgb.pt", entry(net()))
    other = video_resnet("i3d", "tiny", width=8, num_classes={"label": 2})
    with pytest.raises(UserError, match="does not fit this backbone"):
        load_initial_weights(other, Origin(str(file), file), "rgb", "rgb", CLASSES, "tiny", None)


def theirs(tmp_path: Path, **changes: int) -> tuple[Path, Recognizer]:
    """A checkpoint under TSM's names and the network it was made from."""
    source = net(**changes)
    state = {
        name.replace("heads.label", "module.new_fc")
        if name.startswith("heads")
        else f"module.base_model.{name[4:]}": value
        for name, value in source.state_dict().items()
    }
    torch.save({"state_dict": state, "epoch": 50}, tmp_path / "kinetics.pth.tar")
    return tmp_path / "kinetics.pth.tar", source


@pytest.mark.parametrize("theirs, ours", [(True, "online"), ("online", True)])
def test_the_other_shift_is_refused_by_what_mends_it(tmp_path: Path, theirs: Any, ours: Any) -> None:
    file = export_peer(tmp_path / "rgb.pt", entry(net(shift=theirs)))
    fix = "online" if theirs == "online" else "true"
    with pytest.raises(UserError, match=rf"temporal shift.*backbone\.net\.shift={fix}, or .*--other-shift"):
        load_initial_weights(net(shift=ours), Origin(str(file), file), "rgb", "rgb", CLASSES, "tiny", None)
    with pytest.raises(UserError, match=r"along time: the \w+ shift in the file, .* --other-shift"):
        load_initial_weights(net(shift=ours), given("kinetics"), "rgb", "rgb", CLASSES, "tiny", str(file))


@pytest.mark.parametrize("theirs, ours", [("online", "online"), (False, "online")])
def test_the_same_shift_and_none_are_taken(tmp_path: Path, theirs: Any, ours: Any) -> None:
    source, target = net(shift=theirs), net(shift=ours)
    file = export_peer(tmp_path / "rgb.pt", entry(source))
    load_initial_weights(target, Origin(str(file), file), "rgb", "rgb", CLASSES, "tiny", None)
    assert torch.equal(target.net.layer4[0].conv2.weight, source.net.layer4[0].conv2.weight)
    assert rebuild(target.arch).net.layer1[0].conv1.online


def test_a_start_of_the_other_shift_is_made_by_import(tmp_path: Path) -> None:
    file = export_peer(tmp_path / "rgb.pt", entry(source := net()))
    made = zoo_entry(file, lambda heads: net(shift="online", num_classes=heads), {"name": "rgb"}, other_shift=True)
    start = export_peer(tmp_path / "start.pt", made.entry)
    target = net(shift="online")
    load_initial_weights(target, Origin(str(start), start), "rgb", "rgb", CLASSES, "tiny", None, new_head=True)
    assert torch.equal(target.net.layer4[0].conv2.weight, source.net.layer4[0].conv2.weight)


def test_kinetics_takes_the_trunk_of_any_known_scheme(tmp_path: Path) -> None:
    file, source = theirs(tmp_path)
    target = net(in_channels=10)
    head = target.heads["label"].weight.clone()
    where = load_initial_weights(target, given("kinetics"), "flow", "flow", CLASSES, "tiny", str(file))
    assert (where["init"], where["path"], where["fresh_head"]) == ("kinetics", str(file), True)
    assert where["provenance"]["imported"]["scheme"] == "TSM/MML" and where["provenance"]["fingerprint"]
    assert torch.equal(target.heads["label"].weight, head)
    assert torch.equal(target.net.layer4[0].conv2.weight, source.net.layer4[0].conv2.weight)
    torch.testing.assert_close(target.net.conv1.weight[:, 4], source.net.conv1.weight.mean(1))


def test_kinetics_refuses_a_network_that_shifts_elsewhere(tmp_path: Path) -> None:
    file, _ = theirs(tmp_path)
    target = tsm_resnet("tiny", width=8, shift=False, num_classes={"label": 2})
    with pytest.raises(UserError, match=r"along time: .* choose the backbone .* mml import --other-shift"):
        load_initial_weights(target, given("kinetics"), "rgb", "rgb", CLASSES, "tiny", str(file))


def test_a_trunk_that_an_import_left_incomplete_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = {"peer": "rgb", "imported": {"report": {"missing": ["net.layer1.0.bn1.bias"]}}}
    for changes, said in (({}, 0), ({"provenance": told}, 1)):
        file = export_peer(tmp_path / "rgb.pt", entry(net(), **changes))
        load_initial_weights(net(), Origin(str(file), file), "rgb", "rgb", CLASSES, "tiny", None)
        assert caplog.text.count("1 trunk tensors are randomly initialised") == said


def test_kinetics_takes_a_zoo_file(tmp_path: Path) -> None:
    source = net()
    file = export_peer(tmp_path / "rgb.pt", entry(source))
    target = net()
    load_initial_weights(target, given("kinetics"), "rgb", "rgb", {"label": ["x", "y"]}, "tiny", str(file))
    assert torch.equal(target.net.conv1.weight, source.net.conv1.weight)


def test_kinetics_without_a_fitting_file_is_one_line(tmp_path: Path) -> None:
    assert given("kinetics") == Origin("kinetics")
    with pytest.raises(UserError, match=r"init=kinetics needs init\.file=<a checkpoint trained on Kinetics"):
        kinetics_file(None)
    with pytest.raises(UserError, match=r"init=kinetics: no file gone\.pth"):
        kinetics_file("gone.pth")
    file, _ = theirs(tmp_path, width=16)
    with pytest.raises(UserError, match=r"other shape: \d+ .* choose the backbone") as caught:
        load_initial_weights(net(), given("kinetics"), "rgb", "rgb", CLASSES, "tiny", str(file))
    assert "\n" not in str(caught.value)


def test_a_zoo_file_without_a_head_needs_a_new_one(tmp_path: Path) -> None:
    source = net()
    trunk = {name: value for name, value in source.state_dict().items() if name.startswith("net.")}
    file = export_peer(tmp_path / "rgb.pt", entry(source, state_dict=trunk, classes={}))
    target = net()
    with pytest.raises(UserError, match=r"other classes \(none\) than the data have \(label: 2\).*init\.new_head=true"):
        load_initial_weights(target, Origin(str(file), file), "rgb", "rgb", CLASSES, "tiny", None)
    where = load_initial_weights(target, Origin(str(file), file), "rgb", "rgb", CLASSES, "tiny", None, new_head=True)
    assert where["fresh_head"] is True and torch.equal(target.net.conv1.weight, source.net.conv1.weight)
