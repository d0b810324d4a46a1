from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mml_lightning.backbones.stem import adapt_first_conv, convert_state, convert_stem

channel_counts = st.integers(1, 18)
few = settings(max_examples=30, deadline=None)


def answer_to_constant(weight):
    """Response of every filter to an image that is 1 everywhere, padding aside."""
    return weight.flatten(1).sum(1)


@few
@given(old=channel_counts, new=channel_counts)
def test_answer_to_a_constant_image(old, new):
    weight = torch.randn(4, old, 3, 3, dtype=torch.float64)
    before = answer_to_constant(weight)
    torch.testing.assert_close(answer_to_constant(convert_stem(weight, new)), before * new / old)
    torch.testing.assert_close(answer_to_constant(convert_stem(weight, new, "mean_rescaled")), before)


@few
@given(old=channel_counts, new=channel_counts, rule=st.sampled_from(["mean", "mean_rescaled"]))
def test_there_and_back_again_is_idempotent(old, new, rule):
    weight = torch.randn(2, old, 3, 3, dtype=torch.float64)
    once = convert_stem(convert_stem(weight, new, rule), old, rule)
    twice = convert_stem(convert_stem(once, new, rule), old, rule)
    torch.testing.assert_close(once, twice)
    assert once.shape == weight.shape


@pytest.mark.parametrize(("old", "new"), [(3, 10), (10, 3), (3, 15), (15, 10), (10, 15), (15, 3), (3, 1)])
def test_every_new_channel_is_the_mean_of_the_old_ones(old, new):
    weight = torch.randn(4, old, 7, 7)
    out = convert_stem(weight, new)
    assert out.shape == (4, new, 7, 7) and out.is_contiguous()
    for channel in range(new):
        torch.testing.assert_close(out[:, channel], weight.mean(1))
    out[:, 0] += 1  # the channels share no memory
    torch.testing.assert_close(out[:, -1], weight.mean(1) + (new == 1))


def test_same_count_keeps_the_colours():
    weight = torch.randn(4, 3, 7, 7)
    out = convert_stem(weight, 3)
    assert torch.equal(out, weight) and out.data_ptr() != weight.data_ptr()


def test_three_dimensional_kernels():
    assert convert_stem(torch.randn(4, 3, 5, 7, 7), 10).shape == (4, 10, 5, 7, 7)


@pytest.mark.parametrize("bias", [True, False])
def test_adapting_a_network(bias):
    net = nn.ModuleDict(
        {"stem": nn.Sequential(nn.Conv2d(3, 4, 5, 2, padding=2, bias=bias)), "rest": nn.Conv2d(4, 4, 1)}
    )
    old = net["stem"][0]
    before = copy.deepcopy(net.state_dict())
    new = adapt_first_conv(net, "stem.0", 10)
    assert net["stem"][0] is new and new is not old
    assert (new.in_channels, new.stride, new.padding) == (10, (2, 2), (2, 2))
    assert new.weight.requires_grad and new.weight.is_leaf
    torch.testing.assert_close(new.weight, convert_stem(before["stem.0.weight"], 10))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items() if k != "stem.0.weight")
    assert old.in_channels == 3 and torch.equal(old.weight, before["stem.0.weight"])
    if bias:
        assert new.bias.data_ptr() != old.bias.data_ptr()
    assert net["stem"](torch.randn(1, 10, 9, 9)).shape == (1, 4, 5, 5)


def test_the_new_stem_trains():
    net = nn.Sequential(nn.Conv2d(3, 2, 3))
    adapt_first_conv(net, "0", 5)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    before = net[0].weight.detach().clone()
    net(torch.randn(1, 5, 4, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(before, net[0].weight)


def test_same_count_leaves_the_module_alone():
    net = nn.Sequential(nn.Conv2d(3, 2, 3))
    assert adapt_first_conv(net, "0", 3) is net[0]


def test_state_level_equals_module_level():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Conv2d(2, 2, 1))
    state = net.state_dict()
    converted = convert_state(state, "0.weight", 10, "mean_rescaled")
    assert state["0.weight"].shape[1] == 3
    adapt_first_conv(net, "0", 10, "mean_rescaled")
    assert converted.keys() == net.state_dict().keys()
    assert all(torch.equal(converted[key], value) for key, value in net.state_dict().items())


def test_errors_name_the_fix():
    weight = torch.zeros(2, 3, 3, 3)
    with pytest.raises(ValueError, match="mean, mean_rescaled"):
        convert_stem(weight, 10, "sum")
    with pytest.raises(ValueError, match="1 or more"):
        convert_stem(weight, 0)
    with pytest.raises(ValueError, match="not a convolution weight"):
        convert_stem(torch.zeros(2, 3), 10)
    with pytest.raises(ValueError, match="no module 'conv9'"):
        adapt_first_conv(nn.Sequential(nn.Linear(1, 1)), "conv9", 10)
    with pytest.raises(ValueError, match="is Linear"):
        adapt_first_conv(nn.Sequential(nn.Linear(1, 1)), "0", 10)
    with pytest.raises(ValueError, match="ungrouped"):
        adapt_first_conv(nn.Sequential(nn.Conv2d(4, 4, 1, groups=2)), "0", 10)
    with pytest.raises(ValueError, match=r"no entry 'conv1\.weight'"):
        convert_state({}, "conv1.weight", 10)
