"""3-D trunks: layers, names and initial values; sizes and costs of the published tables."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mml_lightning.backbones import cost, parameter_count, resnet, resnet3d, video_resnet
from mml_lightning.backbones.resnet3d import STAGES, Conv3d

# Temporal kernels of the blocks of each stage.
I3D_50 = {"layer1": [3, 3, 3], "layer2": [3, 1, 3, 1], "layer3": [3, 1, 3, 1, 3, 1], "layer4": [1, 3, 1]}
SLOW_50 = {"layer1": [1] * 3, "layer2": [1] * 4, "layer3": [3] * 6, "layer4": [3] * 3}
C2D_50 = {"layer1": [1] * 3, "layer2": [1] * 4, "layer3": [1] * 6, "layer4": [1] * 3}


def meta(*args, **options):
    with torch.device("meta"):
        return video_resnet(*args, **options)


@pytest.mark.parametrize(
    "kind, stem, kernels, frames", [("i3d", 5, I3D_50, 4), ("slow", 1, SLOW_50, 8), ("c2d", 1, C2D_50, 4)]
)
def test_layers_of_resnet50(kind, stem, kernels, frames):
    with torch.device("meta"):
        net = resnet3d(kind, 50)
        shapes = {}
        for name in ("conv1", "maxpool", "timepool", *STAGES):
            module = net.get_submodule(name)
            last = module[-1] if isinstance(module, nn.Sequential) else module
            last.register_forward_hook(lambda m, i, o, n=name: shapes.update({n: tuple(o.shape[1:])}))
        net(torch.empty(1, 3, 8, 224, 224))
    assert net.conv1.kernel_size == (stem, 7, 7) and net.conv1.padding == (stem // 2, 3, 3)
    assert {s: [block.conv1.kernel_size[0] for block in net.get_submodule(s)] for s in STAGES} == kernels
    assert shapes == {
        "conv1": (64, 8, 112, 112),
        "maxpool": (64, 8, 56, 56),
        "layer1": (256, 8, 56, 56),
        "timepool": (256, frames, 56, 56),
        "layer2": (512, frames, 28, 28),
        "layer3": (1024, frames, 14, 14),
        "layer4": (2048, frames, 7, 7),
    }
    for stage in STAGES:
        for index, block in enumerate(net.get_submodule(stage)):
            assert block.conv2.stride == ((1, 2, 2) if stage != "layer1" and index == 0 else (1, 1, 1))
            assert (block.downsample is None) is (index > 0) and block.conv1.stride == (1, 1, 1)
    assert all(module.bias is None for module in net.modules() if isinstance(module, nn.Conv3d))


def test_kernels_of_resnet101_follow_the_pattern():
    with torch.device("meta"):
        net = resnet3d("i3d", 101)
    assert [block.conv1.kernel_size[0] for block in net.layer3] == [3, 1] * 11 + [3]


@pytest.mark.parametrize("kind", ["i3d", "slow", "c2d"])
@pytest.mark.parametrize("depth", [18, 50, "tiny"])
def test_names_are_those_of_the_2d_network(kind, depth):
    with torch.device("meta"):
        assert list(resnet3d(kind, depth).state_dict()) == list(resnet(depth).state_dict())


def test_initial_values():
    net = video_resnet("i3d", 50)
    assert float(net.net.conv1.weight.detach().std()) == pytest.approx(0.01129, rel=0.02)  # 5 x 7 x 7 x 64 fan-out
    for block in net.net.layer3:
        assert not block.bn3.weight.any() and bool((block.bn2.weight == 1).all()) and not block.bn3.bias.any()
        fan_out = block.conv1.weight[0, 0].numel() * block.conv1.out_channels
        assert float(block.conv1.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)
    head = net.heads["label"]
    assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.02) and not head.bias.any()


# Parameters for 400 and 157 classes; 10^9 operations for 8 frames of 224 and 256 px with 400 classes.
PUBLISHED = [
    (dict(kind="i3d"), 28_043_472, 27_545_565, 28.54, 37.28),
    (dict(kind="i3d", nonlocal_blocks=True), 35_401_936, None, 36.7, 49.1),
    (dict(kind="c2d"), 24_327_632, None, 19.6, 25.6),
    (dict(kind="slow"), 32_454_096, 31_956_189, 41.9, 54.75),
    (dict(kind="i3d", depth=101), 51_754_192, None, 47.1, 61.6),
]


@pytest.mark.parametrize("options, kinetics, charades, small, large", PUBLISHED)
def test_published_sizes_and_costs(options, kinetics, charades, small, large):
    net = meta(**options, eval_pool="sliding", crop=224, frames=8)
    assert parameter_count(net) == kinetics
    if charades is not None:
        assert parameter_count(meta(**options, num_classes={"label": 157})) == charades
    for size, published in ((224, small), (256, large)):
        digits = len(str(published).split(".")[1])
        operations = cost(net, (1, 8, 3, size, size)).operations / 1e9
        assert operations == pytest.approx(published, abs=0.6 * 10**-digits)


@pytest.mark.parametrize("channels, parameters, published", [(10, 27_655_325, 51.7), (15, 27_733_725, 61.9)])
def test_published_costs_of_other_modalities(channels, parameters, published):
    net = meta("i3d", in_channels=channels, num_classes={"label": 157})
    told = cost(net, (1, 8, channels, 256, 256))
    assert told.parameters == parameters and told.operations / 1e9 == pytest.approx(published, abs=0.06)


@pytest.mark.parametrize("frames, published", [(16, 74.6), (32, 149), (64, 298)])
def test_published_costs_of_longer_clips(frames, published):
    net = meta("i3d", eval_pool="sliding", crop=224, frames=frames)
    assert cost(net, (1, frames, 3, 256, 256)).operations / 1e9 == pytest.approx(published, abs=0.2)


def test_cost_counts_by_hand_and_leaves_the_network_alone():
    layers = nn.Conv3d(2, 4, (3, 1, 1), padding=(1, 0, 0)), nn.BatchNorm3d(4), nn.Flatten(), nn.Linear(96, 5)
    net = nn.Sequential(*layers)
    told = cost(net, (1, 2, 6, 2, 2))
    convolution, linear = 4 * 24 * 2 * 3, 96 * 5
    assert told == (4 * 2 * 3 + 4 + 8 + 96 * 5 + 5, convolution + linear, 2 * 96)
    assert told.operations == convolution + linear + 192
    assert net[0].weight.device.type == "cpu" and net.training


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_any_number_of_frames_that_the_pooling_allows(frames):
    pooled, plain = resnet3d("i3d", "tiny", width=8), resnet3d("i3d", "tiny", width=8, temporal_pool=False)
    clip = torch.randn(1, 3, frames, 32, 48)
    assert plain(clip).shape == (1, 64, frames, 2, 3)
    if frames > 1:
        assert pooled(clip).shape == (1, 64, frames // 2, 2, 3)
    else:
        with pytest.raises(ValueError, match="2 frames or more"):
            pooled(clip)


def test_frames_meet_where_the_kernels_say():
    """The gradient of one frame's features reaches as far as the kernels in front of them."""
    clip = torch.randn(1, 3, 8, 16, 16, requires_grad=True)
    for kind, reach in (("i3d", 3), ("c2d", 0)):
        net = resnet3d(kind, "tiny", width=8, temporal_pool=False).eval()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm3d):
                nn.init.ones_(module.weight)
        stem = net.layer1(net.maxpool(net.bn1(net.conv1(clip))))  # kernels 5 and 3: 2 + 1 frames each way
        (gradient,) = torch.autograd.grad(stem[0, :, 4].sum(), clip)
        seen = gradient.abs().sum((0, 1, 3, 4)).nonzero().flatten().tolist()
        assert seen == list(range(4 - reach, 4 + reach + 1))


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("time", [1, 3, 5])
def test_gradients_of_short_clips_in_bfloat16(time, frames):
    """Of filters with more taps than there are frames, torch's own are 70 % off, or NaN, on CPUs that have bfloat16."""
    torch.manual_seed(0)
    conv = Conv3d(3, 16, (time, 7, 7), (1, 2, 2), (time // 2, 3, 3), bias=False)
    clip = torch.randn(2, 3, frames, 20, 20)
    gradients = []
    for enabled in (False, True):
        conv.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = conv(clip)
        assert out.shape == (2, 16, frames, 10, 10)
        out.float().mul(0.01).sum().backward()
        gradients.append(conv.weight.grad.clone())
    exact, reduced = gradients
    assert (reduced - exact).abs().max() < 0.02 * exact.abs().max()


def test_errors_name_the_choices():
    with pytest.raises(ValueError, match="i3d, c2d, slow"):
        resnet3d("r3d", 50)
    with pytest.raises(ValueError, match="18, 34, 50"):
        resnet3d("i3d", 51)
    with pytest.raises(ValueError, match="50, tiny"):
        resnet3d("i3d", 18, nonlocal_blocks=True)
