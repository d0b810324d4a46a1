from __future__ import annotations

import pytest
import torch
from torch import nn

from mml_lightning.backbones import resnet

# published sizes of the classifiers on 1000 classes, less the classifier itself
PUBLISHED = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}


@pytest.mark.parametrize("depth", PUBLISHED)
def test_size_is_the_published_one(depth):
    with torch.device("meta"):
        trunk = resnet(depth)
    classifier = 1000 * (trunk.feature_dim + 1)
    assert sum(p.numel() for p in trunk.parameters()) == PUBLISHED[depth] - classifier


def test_parameter_names_are_torchvisions():
    with torch.device("meta"):
        keys = list(resnet(50).state_dict())
    assert keys[:2] == ["conv1.weight", "bn1.weight"]
    block = [key.removeprefix("layer1.0.") for key in keys if key.startswith("layer1.0.") and key.endswith("weight")]
    assert block == [
        *("conv1.weight", "bn1.weight", "conv2.weight", "bn2.weight", "conv3.weight", "bn3.weight"),
        *("downsample.0.weight", "downsample.1.weight"),
    ]
    assert not any(key.startswith(("fc.", "layer1.1.downsample")) for key in keys)
    with torch.device("meta"):  # equal widths and stride 1: no projection on the first shortcut
        assert not any("layer1.0.downsample" in key for key in resnet(18).state_dict())


def test_stride_of_a_bottleneck_sits_on_the_3x3():
    with torch.device("meta"):
        block = resnet(50).layer2[0]
    assert (block.conv1.stride, block.conv2.stride, block.conv3.stride) == ((1, 1), (2, 2), (1, 1))


@pytest.mark.parametrize(("depth", "shape"), [(18, (2, 512, 2, 2)), (50, (2, 2048, 2, 2)), ("tiny", (2, 128, 3, 3))])
def test_map_shape(depth, shape):
    trunk = resnet(depth).eval()
    with torch.no_grad():
        out = trunk(torch.randn(2, 3, 48, 48))
    assert out.shape == shape and trunk.feature_dim == shape[1]


@pytest.mark.parametrize("width", [16, 20])
def test_tiny_is_small(width):
    assert 2e5 < sum(p.numel() for p in resnet("tiny", width=width).parameters()) < 6e5


def test_initialisation_is_he_normal_by_fan_out():
    torch.manual_seed(0)
    trunk = resnet(18)
    for name, module in trunk.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()


def test_unknown_depth_lists_the_choices():
    with pytest.raises(ValueError, match="18, 34, 50, 101, 152, tiny"):
        resnet(20)
