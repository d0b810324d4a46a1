"""Every naming scheme there and back: the same tensors, the same outputs bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mml_lightning.backbones import Peer, tsm_mobilenet_v2, tsm_resnet, video_resnet
from mml_lightning.utils.errors import UserError
from mml_lightning.zoo.importers import recognise, zoo_entry
from tests.zoo.importers import naming
from tests.zoo.importers.naming import State

RGB = {"name": "rgb", "source": "frames"}
Make = Callable[..., Peer]


def resnet2d(**options: object) -> Make:
    return lambda num_classes: tsm_resnet(18, width=8, num_classes=num_classes, **options)  # type: ignore[arg-type]


def resnet3d(kind: str, **options: object) -> Make:
    return lambda num_classes: video_resnet(kind, 50, width=8, num_classes=num_classes, **options)  # type: ignore[arg-type]


def mobilenet(shift: bool = True) -> Make:
    return lambda num_classes: tsm_mobilenet_v2(shift, num_classes=num_classes)


def read_back(file: Path, make: Make) -> tuple[Peer, dict[str, object]]:
    """A network with other random weights, filled from the zoo entry that the file makes."""
    torch.manual_seed(9)
    imported = zoo_entry(file, make, RGB)
    net = make({"label": 5}).eval()
    net.load_state_dict(imported.entry["state_dict"])
    return net, imported.entry


CASES: dict[str, tuple[Make, Callable[[Peer], State], str]] = {
    "torchvision resnet": (resnet2d(shift=False), naming.torchvision, "torchvision ResNet"),
    "torchvision names, shifted": (resnet2d(), naming.torchvision, "torchvision ResNet"),
    "torchvision mobilenet": (mobilenet(False), naming.torchvision, "torchvision MobileNetV2"),
    "tsm": (resnet2d(), naming.tsm, "TSM/MML"),
    "tsn": (resnet2d(shift=False), naming.tsm, "TSM/MML"),
    "tsm without dropout": (resnet2d(), lambda net: naming.tsm(net, "base_model.fc"), "TSM/MML"),
    "tsm block": (resnet2d(shift_place="block"), naming.tsm, "TSM/MML"),
    "tsm non-local": (resnet2d(nonlocal_blocks=True), naming.tsm, "TSM/MML"),
    "tsm mobilenet": (mobilenet(), naming.tsm_mobilenet, "TSM/MML"),
    "tsn mobilenet": (mobilenet(False), naming.tsm_mobilenet, "TSM/MML"),
    "slowfast i3d": (resnet3d("i3d"), naming.slowfast, "SlowFast"),
    "slowfast non-local": (resnet3d("i3d", nonlocal_blocks=True), naming.slowfast, "SlowFast"),
    "slowfast slow": (resnet3d("slow"), naming.slowfast, "SlowFast"),
    "pytorchvideo i3d": (resnet3d("i3d"), lambda net: naming.pytorchvideo(net, (1, 3, 4, 5)), "PyTorchVideo"),
    "pytorchvideo slow": (resnet3d("slow"), lambda net: naming.pytorchvideo(net, (1, 2, 3, 4)), "PyTorchVideo"),
    "our own": (resnet2d(), lambda net: dict(net.state_dict()), "this package"),
}


def same(ours: Peer, theirs: Peer, size: int = 64) -> None:
    clip = torch.randn(2, 4, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = theirs(clip), ours(clip)
    assert expected.logits["label"].std() > 1e-3, "a network that answers nothing proves nothing"
    assert torch.equal(expected.logits["label"], found.logits["label"])
    assert torch.equal(expected.features["pooled"], found.features["pooled"])


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case: str, tmp_path: Path) -> None:
    make, theirs, scheme = CASES[case]
    source = naming.randomised(make({"label": 5}))
    file = naming.save(theirs(source), tmp_path / "x.pth")
    net, entry = read_back(file, make)
    report = entry["provenance"]["imported"]["report"]  # type: ignore[index]
    assert (report["scheme"], report["missing"], report["unexpected"]) == (scheme, [], [])
    for (name, ours), theirs_ in zip(net.state_dict().items(), source.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs_), name
    same(net, source)


@pytest.mark.parametrize("nonlocal_blocks", [False, True])
def test_caffe2_pickle_there_and_back(nonlocal_blocks: bool, tmp_path: Path) -> None:
    make = resnet3d("i3d", nonlocal_blocks=nonlocal_blocks)
    source = naming.randomised(make({"label": 5}))
    blobs = naming.caffe2(source)
    net, entry = read_back(naming.save_caffe2(blobs, tmp_path / "x.pkl"), make)
    report = entry["provenance"]["imported"]["report"]  # type: ignore[index]
    assert report["scheme"] == "Caffe2" and report["ignored"] == sum(n.endswith("_momentum") for n in blobs)
    same(net, source)


def test_published_names_are_among_those_generated() -> None:
    """The generators themselves, against names from the published files."""
    tsm = naming.tsm(tsm_resnet(50, width=8, nonlocal_blocks=True))
    for name in (
        "module.base_model.layer1.0.conv1.net.weight",
        "module.base_model.layer2.0.block.conv1.net.weight",
        "module.base_model.layer3.4.nl.W.1.running_var",
        "module.base_model.layer2.2.nl.phi.0.bias",
        "module.new_fc.bias",
    ):
        assert name in tsm
    mobile = naming.tsm_mobilenet(tsm_mobilenet_v2())
    assert "module.base_model.features.3.conv.0.net.weight" in mobile
    assert "module.base_model.features.3.conv.7.running_var" in mobile
    assert "module.base_model.features.1.conv.4.bias" in mobile
    image = naming.torchvision(tsm_mobilenet_v2(shift=False))
    for name in ("features.1.conv.2.bias", "features.2.conv.3.weight", "features.18.1.bias", "classifier.1.weight"):
        assert name in image
    i3d = video_resnet("i3d", 50, width=8)
    assert {"s1.pathway0_stem.conv.weight", "s5.pathway0_res2.branch2.c_bn.running_var"} <= naming.slowfast(i3d).keys()
    video = naming.pytorchvideo(i3d, (1, 3, 4, 5))
    assert {"blocks.3.res_blocks.0.branch1_norm.bias", "blocks.6.proj.weight"} <= video.keys()
    blobs = naming.caffe2(i3d)
    assert {"conv1_w", "res_conv1_bn_riv", "res4_5_branch2c_bn_rm", "res2_0_branch1_bn_s", "pred_b"} <= blobs.keys()


def test_slowfast_and_pytorchvideo_i3d_are_the_same_320_tensors() -> None:
    net = naming.randomised(video_resnet("i3d", 50, width=8, num_classes={"label": 5}))
    for state in (naming.slowfast(net), naming.pytorchvideo(net, (1, 3, 4, 5))):
        assert len(state) == 320
        found = recognise(state)
        assert not found.unknown and set(found.head) == {"weight", "bias"}
        fresh = video_resnet("i3d", 50, width=8, num_classes={"label": 5}).eval()
        named = {f"net.{name}": value for name, value in found.trunk.items()}
        fresh.load_state_dict(named | {f"heads.label.{kind}": value for kind, value in found.head.items()}, strict=True)
        same(fresh, net)


WRAPPED: dict[str, Callable[[State], object]] = {
    "state_dict beside an optimiser": lambda state: {
        "epoch": 50,
        "arch": "resnet50",
        "state_dict": state,
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
        "best_prec1": torch.tensor(61.2),
    },
    "model_state beside a config": lambda state: {"model_state": state, "optimizer_state": {}, "cfg": "MODEL: {}"},
    "two containers": lambda state: {"model": {"state_dict": state}},
    "data parallel twice": lambda state: {"state_dict": {f"module.module.{name}": v for name, v in state.items()}},
    "hosted by another model": lambda state: {"model_state": {f"model.{name}": v for name, v in state.items()}},
    "compiled": lambda state: {f"_orig_mod.{name}": v for name, v in state.items()},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapping", WRAPPED)
def test_containers_and_prefixes(wrapping: str, legacy: bool, tmp_path: Path) -> None:
    source = naming.randomised(resnet3d("slow")({"label": 5}))
    state = naming.pytorchvideo(source, (1, 2, 3, 4))
    net, _ = read_back(naming.save(state, tmp_path / "x.pth", WRAPPED[wrapping], legacy), resnet3d("slow"))
    same(net, source)


def test_half_precision_and_missing_counters(tmp_path: Path) -> None:
    source = naming.randomised(resnet2d()({"label": 5}))
    state = {n: v.half() for n, v in naming.tsm(source).items() if not n.endswith("num_batches_tracked")}
    net, _ = read_back(naming.save(state, tmp_path / "x.pth"), resnet2d())
    for name, value in source.state_dict().items():
        found = net.state_dict()[name]
        assert found.dtype == value.dtype
        assert name.endswith("num_batches_tracked") or torch.equal(found, value.half().float())


@pytest.mark.parametrize(
    "names, message",
    [
        (
            ["s1.pathway0_stem.conv.weight", "s2.pathway0_res0.branch1.weight", "s1.pathway1_stem.conv.weight"],
            "two path",
        ),
        (["blocks.0.multipathway_blocks.0.conv.weight"], "two path"),
        (["conv1_w", "t_conv1_w"], "two path"),
        (["encoder.layers.0.weight", "encoder.layers.0.bias"], r"naming schemes .* tensors named encoder\.layers\.0"),
    ],
)
def test_what_is_not_recognised(names: list[str], message: str) -> None:
    state: dict[str, Tensor] = {name: torch.zeros(1) for name in names}
    with pytest.raises(UserError, match=message):
        recognise(state)


def test_a_second_name_for_one_tensor_is_unknown_and_never_wins() -> None:
    state = {
        "base_model.conv1.weight": torch.ones(2, 3, 7, 7),
        "new_fc.weight": torch.ones(5, 2),
        "base_model.fc.weight": torch.zeros(1000, 2),
    }
    found = recognise(state)
    assert found.unknown == ["base_model.fc.weight"] and found.head["weight"].shape == (5, 2)
