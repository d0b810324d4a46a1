"""Zoo entries: what is kept, dropped, converted and refused, and what is told about it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from mml_lightning.backbones import Peer, rebuild, tsm_resnet, video_resnet
from mml_lightning.backbones.temporal_2d import TemporalPool
from mml_lightning.utils.errors import UserError
from mml_lightning.zoo.files import export_peer, load_peer, unfilled
from mml_lightning.zoo.importers import import_trunk, read_checkpoint, recognise, zoo_entry
from mml_lightning.zoo.importers.match import fit
from tests.zoo.importers import naming

RGB = {"name": "rgb"}


def tiny(depth: int | str = "tiny", channels: int = 3, **options: Any) -> Any:
    return lambda heads: tsm_resnet(depth, width=8, in_channels=channels, num_classes=heads, **options)


def checkpoint(tmp_path: Path, make: Any, classes: int = 5, rename: Any = naming.tsm) -> tuple[Path, Peer]:
    net = naming.randomised(make({"label": classes}))
    return naming.save(rename(net), tmp_path / "x.pth"), net


def test_the_entry_is_a_zoo_file_that_rebuilds_the_network(tmp_path: Path) -> None:
    file, net = checkpoint(tmp_path, tiny())
    imported = zoo_entry(file, tiny(), RGB, {"label": list("abcde")}, {"label": True})
    entry = load_peer(export_peer(tmp_path / "zoo.pt", imported.entry))
    again = rebuild(entry["arch"])
    again.load_state_dict(entry["state_dict"])
    assert all(torch.equal(again.state_dict()[name], value) for name, value in net.state_dict().items())
    assert entry["classes"] == {"label": list("abcde")} and entry["multi_label"] == {"label": True}
    told = entry["provenance"]["imported"]
    assert told["sha256"] == read_checkpoint(file).sha256 and told["scheme"] == "TSM/MML" and told["file"] == "x.pth"
    assert entry["provenance"]["peer"] == "rgb"


def test_a_head_of_another_size_is_dropped(tmp_path: Path) -> None:
    file, _ = checkpoint(tmp_path, tiny())
    imported = zoo_entry(file, tiny(), RGB, {"label": ["a", "b"]})
    assert imported.head == "dropped: 5 classes of 64 features in the file, 2 of 64 here"
    assert not any(name.startswith("heads.") for name in imported.entry["state_dict"])
    assert imported.entry["classes"] == {} == imported.entry["arch"]["num_classes"]


def test_a_single_classifier_fills_no_pair_of_heads(tmp_path: Path) -> None:
    file, _ = checkpoint(tmp_path, tiny())
    imported = zoo_entry(file, tiny(), RGB, {"verb": list("abcde"), "noun": list("abcde")})
    assert imported.head == "dropped: the file has one classifier, the network has verb, noun"


def test_classes_come_from_the_file_if_nobody_names_them(tmp_path: Path) -> None:
    file, _ = checkpoint(tmp_path, tiny())
    assert zoo_entry(file, tiny(), RGB, head="action").entry["classes"] == {"action": ["0", "1", "2", "3", "4"]}
    trunk = {name: value for name, value in torch.load(file).items() if "new_fc" not in name}
    with pytest.raises(UserError, match="no classifier to count classes by: give --num-classes"):
        zoo_entry(naming.save(trunk, tmp_path / "y.pth"), tiny(), RGB)


@pytest.mark.parametrize("theirs, ours", [(18, 34), (34, 18), (50, 101), (101, 50), (18, 50)])
def test_another_depth_is_refused_with_the_report(theirs: int, ours: int, tmp_path: Path) -> None:
    file, _ = checkpoint(tmp_path, tiny(theirs))
    with pytest.raises(UserError, match=r"does not fit this backbone: .* trunk tensors matched \(\d") as caught:
        zoo_entry(file, tiny(ours), RGB)
    text = str(caught.value)
    assert "\n" not in text and ("missing: " in text or "unexpected: " in text)
    assert "at least 100% must match" in text or "all shapes must agree" in text


def incomplete(tmp_path: Path) -> Path:
    """A file with one tensor less than the trunk of depth 50, and one that it does not know."""
    file, _ = checkpoint(tmp_path, tiny(50))
    state = torch.load(file)
    del state["module.base_model.layer4.2.bn3.running_mean"]
    state["module.base_model.extra.weight"] = torch.zeros(3)
    return naming.save(state, file)


def test_few_missing_tensors_pass_only_if_asked(tmp_path: Path) -> None:
    file = incomplete(tmp_path)
    with pytest.raises(UserError, match=r"missing: 1 \(net\.layer4.* at least 100% must match .*--min-matched"):
        zoo_entry(file, tiny(50), RGB)
    with pytest.raises(UserError, match=r"at least 99\.5% must match"):
        zoo_entry(file, tiny(50), RGB, min_matched=0.995)
    imported = zoo_entry(file, tiny(50), RGB, min_matched=0.99)
    report = imported.report
    assert (report.matched, report.total) == (264, 266)  # of 265, and one that the trunk does not know
    assert report.missing == ["net.layer4.2.bn3.running_mean"] and report.unexpected == ["base_model.extra.weight"]
    assert "missing: 1 (net.layer4.2.bn3.running_mean)" in imported.lines()
    assert unfilled(imported.entry["provenance"]) == report.missing


def test_what_an_import_left_random_is_not_taken_for_weights(tmp_path: Path) -> None:
    zoo = export_peer(tmp_path / "zoo.pt", zoo_entry(incomplete(tmp_path), tiny(50), RGB, min_matched=0.9).entry)
    with pytest.raises(UserError, match=r"missing: 1 \(net\.layer4\.2\.bn3\.running_mean\)"):
        import_trunk(tiny(50)({"label": 2}), zoo)


@pytest.mark.parametrize("min_matched", [1.0, 0.01])
def test_other_shapes_and_a_missing_stem_are_refused_at_any_share(min_matched: float, tmp_path: Path) -> None:
    file, _ = checkpoint(tmp_path, tiny())
    state = torch.load(file)
    state["module.base_model.layer4.0.bn2.bias"] = torch.zeros(3)
    with pytest.raises(UserError, match=r"layer4\.0\.bn2\.bias \(3 in the file, \d+ here\)\); all shapes must agree"):
        zoo_entry(naming.save(state, tmp_path / "shape.pth"), tiny(), RGB, min_matched=min_matched)
    state = torch.load(file)
    del state["module.base_model.conv1.weight"]
    with pytest.raises(UserError, match="the first convolution is required"):
        zoo_entry(naming.save(state, tmp_path / "stem.pth"), tiny(), RGB, min_matched=min_matched)


def three_d(kind: str, **options: Any) -> Any:
    return lambda heads: video_resnet(kind, 50, width=8, num_classes=heads, **options)


def test_i3d_is_not_slow(tmp_path: Path) -> None:
    """They share 95.8 % of their tensors, without the stem and ten more convolutions."""
    file, _ = checkpoint(tmp_path, three_d("i3d"), rename=naming.slowfast)
    with pytest.raises(UserError, match=r"254 of 265 .*other shape: 11 \(net\.conv1\.weight.*all shapes must agree"):
        zoo_entry(file, three_d("slow"), RGB, min_matched=0.5)


@pytest.mark.parametrize("pooled", [True, False])
def test_block_numbers_of_pytorchvideo_tell_the_pooling(pooled: bool, tmp_path: Path) -> None:
    numbers = (1, 3, 4, 5) if pooled else (1, 2, 3, 4)
    rename = functools.partial(naming.pytorchvideo, stages=numbers)
    file, _ = checkpoint(tmp_path, three_d("i3d", temporal_pool=pooled), rename=rename)
    imported = zoo_entry(file, three_d("i3d", temporal_pool=pooled), RGB)
    assert imported.report.shift == "" == imported.hint
    other = three_d("i3d", temporal_pool=not pooled)
    here = "without" if pooled else "with"
    with pytest.raises(UserError, match=rf"along time: .* in the file, {here} here: .*mml import --other-shift"):
        import_trunk(other({"label": 2}), file)
    assert zoo_entry(file, other, RGB, other_shift=True).report.shift


def test_what_names_do_not_tell_about_the_pooling_is_hinted_at(tmp_path: Path) -> None:
    file, _ = checkpoint(tmp_path, three_d("c2d", temporal_pool=False), rename=naming.slowfast)
    (hint,) = [line for line in zoo_entry(file, three_d("c2d"), RGB).lines() if line.startswith("hint: ")]
    assert "this backbone pools along time" in hint and "backbone.net.temporal_pool=false" in hint


def test_files_of_two_heads(tmp_path: Path) -> None:
    source = naming.randomised(tiny()({"verb": 3, "noun": 4}))
    file = naming.save(dict(source.state_dict()), tmp_path / "x.pt")
    trunk, _ = import_trunk(tiny()({"label": 2}), file)
    assert not any(name.startswith("heads.") for name in trunk)
    imported = zoo_entry(file, tiny(), RGB)
    assert imported.head == "kept: verb: 3, noun: 4" and imported.entry["classes"]["noun"] == list("0123")
    assert all(torch.equal(imported.entry["state_dict"][name], value) for name, value in source.state_dict().items())
    one = zoo_entry(file, tiny(), RGB, {"verb": list("abc")})
    assert one.head == "dropped: the file has the heads verb: 3, noun: 4, the network has verb: 3"
    assert one.entry["classes"] == {}


def test_the_stem_is_converted_only_if_asked(tmp_path: Path) -> None:
    file, net = checkpoint(tmp_path, tiny(channels=10))
    with pytest.raises(UserError, match=r"inputs of 10 channels, this modality has 3: .* --convert-stem"):
        zoo_entry(file, tiny(), RGB)
    imported = zoo_entry(file, tiny(), RGB, convert_stem=True)
    assert imported.report.stem == "averaged over 10 channels, copied to 3"
    stem = imported.entry["state_dict"]["net.conv1.weight"]
    mean = net.get_parameter("net.conv1.weight").mean(1)
    assert stem.shape[1] == 3 and all(torch.equal(stem[:, channel], mean) for channel in range(3))


@pytest.mark.parametrize(
    "theirs, ours",
    [
        ({}, {"shift": False}),
        ({"shift": False}, {}),
        ({}, {"shift_place": "block"}),
        ({}, {"temporal_pool": True}),
    ],
)
def test_a_network_that_shifts_elsewhere_is_not_the_same(
    theirs: dict[str, Any], ours: dict[str, Any], tmp_path: Path
) -> None:
    file, net = checkpoint(tmp_path, tiny(**theirs))
    with pytest.raises(UserError, match=r"another network although its tensors match; along time: .* --other-shift"):
        zoo_entry(file, tiny(**ours), RGB)
    imported = zoo_entry(file, tiny(**ours), RGB, other_shift=True)
    assert imported.report.share == 1 and imported.report.shift
    assert torch.equal(imported.entry["state_dict"]["net.conv1.weight"], net.state_dict()["net.conv1.weight"])


def test_temporal_pooling_of_tsm_is_seen_in_the_names(tmp_path: Path) -> None:
    net = naming.randomised(tiny(temporal_pool=True)({"label": 5}))
    assert any(isinstance(module, TemporalPool) for module in net.modules())
    state = {name.replace("layer2.", "layer2.net."): value for name, value in naming.tsm(net).items()}
    imported = zoo_entry(naming.save(state, tmp_path / "x.pth"), tiny(temporal_pool=True), RGB)
    assert not imported.report.shift and imported.report.share == 1


def test_plain_names_say_nothing_about_a_shift(tmp_path: Path) -> None:
    file, _ = checkpoint(tmp_path, tiny(shift=False), rename=naming.torchvision)
    assert zoo_entry(file, tiny(), RGB).report.shift == ""


def test_singleton_dimensions_are_no_difference(tmp_path: Path) -> None:
    make: Any = lambda heads: video_resnet("slow", "tiny", num_classes=heads)  # noqa: E731
    file, net = checkpoint(tmp_path, make, rename=lambda net: dict(net.state_dict()))
    state = torch.load(file)
    state["net.bn1.weight"] = state["net.bn1.weight"][:, None, None]
    state["net.layer2.0.downsample.0.weight"] = state["net.layer2.0.downsample.0.weight"][..., 0, 0, 0]
    entry = zoo_entry(naming.save(state, file), make, RGB).entry
    assert all(torch.equal(entry["state_dict"][name], value) for name, value in net.state_dict().items())


def test_inflation_only_if_asked(tmp_path: Path) -> None:
    make: Any = lambda heads: video_resnet("i3d", 18, width=8, num_classes=heads)  # noqa: E731
    file, net = checkpoint(tmp_path, tiny(18, shift=False), rename=naming.torchvision)
    with pytest.raises(UserError, match=r"other shape: \d+ \(net\.conv1\.weight"):
        zoo_entry(file, make, RGB)
    weight = zoo_entry(file, make, RGB, inflate=True).entry["state_dict"]["net.conv1.weight"]
    torch.testing.assert_close(weight.sum(2), net.get_parameter("net.conv1.weight").detach())


def test_a_trunk_for_training_takes_any_stem_and_adds_nonlocal_blocks(tmp_path: Path) -> None:
    file, source = checkpoint(tmp_path, tiny(18), classes=400)
    net = tiny(18, channels=10, nonlocal_blocks=True)({"label": 3})
    trunk, told = import_trunk(net, file)
    assert trunk["net.conv1.weight"].shape[1] == 10 and not any(name.startswith("heads.") for name in trunk)
    assert torch.equal(trunk["net.layer4.1.bn2.bias"], source.state_dict()["net.layer4.1.bn2.bias"])
    assert len(told["fingerprint"]) == 16
    state = torch.load(file)
    del state["module.base_model.layer4.1.bn2.bias"]
    with pytest.raises(UserError, match="at least 100% must match"):
        import_trunk(net, naming.save(state, tmp_path / "y.pth"))


def test_a_zoo_file_is_recognised_too(tmp_path: Path) -> None:
    file, source = checkpoint(tmp_path, tiny())
    zoo = export_peer(tmp_path / "zoo.pt", zoo_entry(file, tiny(), RGB, {"label": ["a"]}).entry)
    trunk, told = import_trunk(tiny()({"label": 2}), zoo)
    assert told["imported"]["scheme"] == "this package"
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in trunk.items())


def test_fitting_changes_nothing(tmp_path: Path) -> None:
    file, _ = checkpoint(tmp_path, tiny())
    net = tiny()({"label": 5})
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fit(net, recognise(read_checkpoint(file).state), "x")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
