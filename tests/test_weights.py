"""Origins: words, aliases and files to weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mml_lightning.backbones.recognizer import Recognizer, tsm_resnet
from mml_lightning.errors import UserError
from mml_lightning.weights import Alias, Origin, checkpoint_entries, fill, load_entry, require, resolve
from mml_lightning.zoo import export_peer

ALIASES = {
    "ce": Alias("ce_rgb_from_scratch", "rgb{copy}", ("stage=ce", "modality=[rgb]", "init=scratch")),
    "own": Alias("ce_{modality}_from_scratch", "{modality}{copy}", ("stage=ce", "modality=[{modality}]")),
}
CLASSES = {"label": ["a", "b"]}


def net(**changes: int) -> Recognizer:
    return tsm_resnet("tiny", num_classes={"label": 2}, **{"width": 8, **changes})  # type: ignore[arg-type]


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
    assert given(init, modality, copy).path == Path(path)


def test_words_without_a_file() -> None:
    assert given("scratch") == Origin("scratch") and given("imagenet") == Origin("imagenet")
    with pytest.raises(
        UserError, match=r"'nonsense' of flow is unknown; use scratch, imagenet, one of \['ce', 'own'\]"
    ):
        given("nonsense", "flow")


def test_the_command_that_makes_weights_can_be_pasted() -> None:
    origin = given("own", "flow", "_2", ("data.root=/my videos",))
    assert origin.command == ("python train.py stage=ce 'modality=[flow]' stage.copies=3 'data.root=/my videos' seed=2")
    with pytest.raises(UserError, match=r"was never trained; make it with: python train.py stage=ce"):
        require(origin, "flow_2")
    with pytest.raises(UserError, match=r"init\.rgb=gone\.pt: no such file"):
        require(given("gone.pt"), "rgb")
    require(given("scratch"), "rgb")


def test_fill_takes_trunk_and_head_of_the_same_classes(tmp_path: Path) -> None:
    source = net()
    file = export_peer(tmp_path / "rgb.pt", entry(source))
    target = net()
    where = fill(target, Origin(str(file), file), "rgb", "rgb", CLASSES, "tiny", None)
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
        fill(target, Origin(str(file), file), "flow", "flow", CLASSES, "tiny", None)
    where = fill(target, Origin(str(file), file), "flow", "flow", CLASSES, "tiny", None, new_head=True)
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
