from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn

from mml_lightning.backbones import freeze_batch_norm, tsm_resnet, video_resnet
from mml_lightning.training.parameter_groups import (
    FUSED,
    fused,
    parameter_groups,
    slowfast_parameter_groups,
    tsn_parameter_groups,
)

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
    # the first norm learns, and those of the five blocks, which start at zero
    assert counts(tsn_parameter_groups(net, 0.01, 5e-4)) == {**expected, "norm": 2 * 6}
    freeze_batch_norm(net, "all")
    assert "norm" not in counts(tsn_parameter_groups(net, 0.01, 5e-4))


def pair(make):
    """Two layers as peers, and their optimiser."""
    torch.manual_seed(0)
    layers = [nn.Linear(3, 2), nn.Linear(3, 2)]
    groups = [
        {"name": f"{peer}/{kind}", "params": [getattr(layer, kind)], "lr": 0.1, "weight_decay": 0.01}
        for peer, layer in zip("ab", layers, strict=True)
        for kind in ("weight", "bias")
    ]
    return layers, make(groups)


def step(layers, optimizer, seed, skip=()):
    torch.manual_seed(seed)
    for layer in layers:
        for parameter in layer.parameters():
            gradient = torch.randn_like(parameter)
            parameter.grad = None if layer in skip else gradient
    optimizer.step()


@pytest.mark.parametrize("kind", FUSED)
def test_a_flag_leaves_out_the_step_of_one_peer(kind):
    """And for one step: the other peer, and both before and after, move as with an optimiser that knows no flag."""
    make = fused(functools.partial(kind, **({"momentum": 0.9} if kind is torch.optim.SGD else {})), "32-true")
    (one, other), optimizer = pair(make)
    (short, long), usual = pair(make)
    for seed in range(4):
        left_out = seed == 1
        if left_out:
            optimizer.left_out = {"a": torch.tensor(1.0), "b": torch.tensor(0.0)}
        step([one, other], optimizer, seed)
        step([short, long], usual, seed, skip=[short] if left_out else [])
        for layer, expected in ((one, short), (other, long)):
            for parameter, value in zip(layer.parameters(), expected.parameters(), strict=True):
                assert torch.equal(parameter, value)
                torch.testing.assert_close(optimizer.state[parameter], usual.state[value], rtol=0, atol=0)


@pytest.mark.parametrize("kind", FUSED)
def test_fused_steps_are_the_usual_ones_up_to_rounding(kind):
    plain = functools.partial(kind, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
    (one, other), optimizer = pair(fused(plain, "32-true"))
    layers, usual = pair(plain)
    for seed in range(3):
        step([one, other], optimizer, seed)
        step(layers, usual, seed)
    torch.testing.assert_close(list(one.parameters()), list(layers[0].parameters()))


@pytest.mark.parametrize("options", [{"fused": False}, {"foreach": True}, {"dampening": 0.1, "momentum": 0.9}])
def test_options_that_a_flag_does_not_go_with(options):
    plain = functools.partial(torch.optim.SGD, **options)
    assert fused(plain, "32-true") is plain
    assert fused(functools.partial(torch.optim.SGD), "16-mixed").func is torch.optim.SGD


def test_a_checkpoint_of_groups_that_were_not_fused():
    layers, usual = pair(torch.optim.AdamW)
    step(layers, usual, 0)
    again, optimizer = pair(fused(functools.partial(torch.optim.AdamW), "32-true"))
    for layer, before in zip(again, layers, strict=True):
        layer.load_state_dict(before.state_dict())
    optimizer.load_state_dict(copy.deepcopy(usual.state_dict()))
    assert not optimizer.heeds_flags()
    step(layers, usual, 1)
    step(again, optimizer, 1)
    assert torch.equal(again[0].weight, layers[0].weight)


@pytest.mark.parametrize("before", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("kind", FUSED)
def test_state_of_a_run_in_another_memory_format(kind, before):
    after = torch.contiguous_format if before is torch.channels_last else torch.channels_last
    torch.manual_seed(0)
    start, gradients = torch.randn(8, 4, 3, 3), torch.randn(2, 8, 4, 3, 3)
    make = fused(functools.partial(kind, lr=0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {})), "32-true")

    def stepped(weight, gradient, layout, state=None):
        parameter = nn.Parameter(weight.clone(memory_format=layout))
        optimizer = make([{"name": "a/weight", "params": [parameter]}])
        if state is not None:
            optimizer.load_state_dict(copy.deepcopy(state))
        parameter.grad = gradient.clone(memory_format=layout)
        optimizer.step()
        return parameter.detach(), optimizer.state_dict()

    first, state = stepped(start, gradients[0], before)
    torch.testing.assert_close(
        stepped(first, gradients[1], after, state)[0], stepped(first, gradients[1], before, state)[0]
    )
