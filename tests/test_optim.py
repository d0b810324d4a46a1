from __future__ import annotations

import pytest
import torch
from torch import nn

from mml_lightning.backbones import freeze_batch_norm, tsm_resnet, video_resnet
from mml_lightning.optim import parameter_groups, slowfast_parameter_groups, tsn_parameter_groups

HEADS = {"label": 4}


def build(depth=50, partial_bn=False, **options):
    with torch.device("meta"):
        net = tsm_resnet(depth, num_classes=HEADS, **options)
    if partial_bn:
        freeze_batch_norm(net)
    return net


def by_name(groups):
    return {group["name"]: group for group in groups}


def counts(groups):
    return {name: len(group["params"]) for name, group in by_name(groups).items()}


def test_tensor_counts_of_resnet50():
    full = {"first_conv_weight": 1, "weight": 52, "norm": 106, "fc_weight": 1, "fc_bias": 1}
    assert counts(tsn_parameter_groups(build(), 0.01, 5e-4)) == full
    assert counts(tsn_parameter_groups(build(partial_bn=True), 0.01, 5e-4)) == {**full, "norm": 2}
    assert counts(tsn_parameter_groups(build(), 0.01, 5e-4, fc_lr5=False)) == {
        "first_conv_weight": 1,
        "weight": 53,
        "bias": 1,
        "norm": 106,
    }


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152, "tiny"])
@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("partial_bn", [True, False])
@pytest.mark.parametrize("make", [tsn_parameter_groups, parameter_groups, slowfast_parameter_groups])
def test_every_trainable_parameter_is_in_exactly_one_group(depth, shift, partial_bn, make):
    net = build(depth, partial_bn, shift=shift, in_channels=10)
    grouped = [id(p) for group in make(net, 0.01, 5e-4) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters() if p.requires_grad)


class Odd(nn.Module):
    """One of everything the groups tell apart."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv3d(3, 4, 1)
        self.conv2 = nn.Conv1d(4, 4, 1)
        self.norm = nn.LayerNorm(4)
        self.proj = nn.Linear(4, 4)
        self.token = nn.Parameter(torch.zeros(1, 4))
        self.heads = nn.ModuleDict({"label": nn.Linear(4, 2)})
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.proj.weight


FACTORS = {
    "first_conv_weight": (1, 1),
    "first_conv_bias": (2, 0),
    "weight": (1, 1),
    "bias": (2, 0),
    "norm": (1, 0),
    "custom": (1, 1),
    "fc_weight": (5, 1),
    "fc_bias": (10, 0),
}


def test_factors_and_members_of_every_group():
    net = Odd()
    groups = by_name(tsn_parameter_groups(net, 0.01, 5e-4))
    for name, (rate, decay) in FACTORS.items():
        assert groups[name]["lr"] == pytest.approx(0.01 * rate), name
        assert groups[name]["weight_decay"] == pytest.approx(5e-4 * decay), name
    members = {
        "first_conv_weight": [net.conv1.weight],
        "first_conv_bias": [net.conv1.bias],
        "weight": [net.conv2.weight, net.proj.weight],
        "bias": [net.conv2.bias, net.proj.bias],
        "norm": [net.norm.weight, net.norm.bias],
        "custom": [net.token],
        "fc_weight": [net.heads["label"].weight],
        "fc_bias": [net.heads["label"].bias],
    }
    for name, wanted in members.items():
        assert sorted(id(p) for p in groups[name]["params"]) == sorted(id(p) for p in wanted), name


def test_without_heads_every_linear_layer_is_the_classifier():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 4), nn.Linear(4, 2))
    assert counts(tsn_parameter_groups(net, 0.01, 0))["fc_weight"] == 2


def test_switches():
    net = Odd()
    tuned = by_name(tsn_parameter_groups(net, 0.01, 5e-4, fc_lr5=False))
    assert "fc_weight" not in tuned and len(tuned["bias"]["params"]) == 3
    assert (tuned["bias"]["lr"], tuned["bias"]["weight_decay"]) == (0.02, 0)
    flow = by_name(tsn_parameter_groups(net, 0.01, 5e-4, flow_stem_lr5=True))
    assert (flow["first_conv_weight"]["lr"], flow["first_conv_bias"]["lr"]) == (0.05, 0.1)
    assert (flow["first_conv_weight"]["weight_decay"], flow["first_conv_bias"]["weight_decay"]) == (5e-4, 0)


def test_plain_groups_decay_matrices_only():
    groups = by_name(parameter_groups(Odd(), 0.01, 0.05))
    assert groups["weight"]["weight_decay"] == 0.05 and groups["norm_and_bias"]["weight_decay"] == 0
    assert all(p.ndim > 1 for p in groups["weight"]["params"])
    assert all(p.ndim <= 1 for p in groups["norm_and_bias"]["params"])


def test_slowfast_groups_spare_norms_only():
    net = Odd()
    groups = by_name(slowfast_parameter_groups(net, 0.0375, 1e-4))
    assert {name: (g["lr"], g["weight_decay"]) for name, g in groups.items()} == {
        "rest": (0.0375, 1e-4),
        "norm": (0.0375, 0.0),
    }
    assert [id(p) for p in groups["norm"]["params"]] == [id(net.norm.weight), id(net.norm.bias)]
    assert any(p is net.heads["label"].bias for p in groups["rest"]["params"])


@pytest.mark.parametrize("make", [tsn_parameter_groups, parameter_groups, slowfast_parameter_groups])
def test_an_optimiser_takes_them(make):
    net = tsm_resnet("tiny", num_classes=HEADS)
    optimizer = torch.optim.SGD(make(net, 0.1, 1e-4), lr=0.1, momentum=0.9)
    before = [p.detach().clone() for p in net.parameters()]
    net(torch.randn(2, 2, 3, 32, 32)).logits["label"].square().sum().backward()
    optimizer.step()
    moved = sum(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert moved > 0.9 * len(before)


@pytest.mark.parametrize("make", [tsn_parameter_groups, parameter_groups, slowfast_parameter_groups])
def test_frozen_network_is_refused(make):
    with pytest.raises(ValueError, match="leave frozen peers out"):
        make(Odd().requires_grad_(False), 0.01, 0)


def test_tsn_groups_of_a_3d_network():
    with torch.device("meta"):
        net = video_resnet("i3d", 50, nonlocal_blocks=True, num_classes=HEADS)
    groups = by_name(tsn_parameter_groups(net, 0.01, 5e-4))
    # 52 convolutions of the trunk and 4 of each of five blocks, which have biases
    expected = {"first_conv_weight": 1, "weight": 72, "bias": 20, "norm": 2 * 58, "fc_weight": 1, "fc_bias": 1}
    assert {name: len(group["params"]) for name, group in groups.items()} == expected
    assert groups["first_conv_weight"]["params"][0] is net.net.conv1.weight
    assert groups["norm"]["weight_decay"] == 0 and groups["bias"]["lr"] == 0.02
    freeze_batch_norm(net)
    assert counts(tsn_parameter_groups(net, 0.01, 5e-4)) == {**expected, "norm": 2}
    freeze_batch_norm(net, "all")
    assert "norm" not in counts(tsn_parameter_groups(net, 0.01, 5e-4))
