from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from mml_lightning.backbones import TemporalShift, add_temporal_shift, match_shift_names, resnet, temporal_shift
from mml_lightning.backbones.temporal_shift import shifted_convolution

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "temporal_shift.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"N{v['n_segment']}_C{len(v['x'][0])}")
@pytest.mark.parametrize("grad", [False, True])
def test_published_vectors(vector, grad):
    x = torch.tensor(vector["x"], dtype=torch.float32)[:, :, None, None].requires_grad_(grad)
    out = temporal_shift(x, vector["n_segment"], vector["n_div"])
    assert out[:, :, 0, 0].tolist() == vector["out"]


def test_golden_values_of_the_online_shift():
    """By hand: frames 0x, 1x, 2x of one video, then a single 3x, 4x, 5x; a quarter of 8 channels moves."""
    x = (10 * torch.arange(6.0)[:, None] + torch.arange(8.0))[:, :, None, None]
    assert temporal_shift(x, 3, 4, online=True)[:, :, 0, 0].int().tolist() == [
        [0, 0, 2, 3, 4, 5, 6, 7],
        [0, 1, 12, 13, 14, 15, 16, 17],
        [10, 11, 22, 23, 24, 25, 26, 27],
        [0, 0, 32, 33, 34, 35, 36, 37],
        [30, 31, 42, 43, 44, 45, 46, 47],
        [40, 41, 52, 53, 54, 55, 56, 57],
    ]


def slow_shift(x, n, n_div, online=False):
    out = torch.zeros_like(x)
    fold = x.shape[1] // n_div
    for row in range(x.shape[0]):
        t = row % n
        for c in range(x.shape[1]):
            offset = (-1 if c < fold else 0) if online else 1 if c < fold else -1 if c < 2 * fold else 0
            if 0 <= t + offset < n:
                out[row, c] = x[row + offset, c]
    return out


@settings(max_examples=40, deadline=None)
@given(b=st.integers(1, 3), n=st.integers(1, 5), c=st.integers(1, 20), n_div=st.integers(2, 9), online=st.booleans())
def test_equals_the_slow_reference(b, n, c, n_div, online):
    x = torch.randn(b * n, c, 2, 1)
    assert torch.equal(temporal_shift(x, n, n_div, online), slow_shift(x, n, n_div, online))


@settings(max_examples=20, deadline=None)
@given(b=st.integers(1, 2), n=st.integers(1, 4), c=st.integers(2, 17), n_div=st.integers(2, 8), online=st.booleans())
def test_backward_is_the_adjoint(b, n, c, n_div, online):
    x = torch.randn(b * n, c, 2, 2, dtype=torch.float64, requires_grad=True)
    y = torch.randn_like(x)
    (temporal_shift(x, n, n_div, online) * y).sum().backward()
    torch.testing.assert_close((x.detach() * x.grad).sum(), (temporal_shift(x.detach(), n, n_div, online) * y).sum())


@pytest.mark.parametrize("online", [False, True])
def test_first_and_second_derivative(online):
    x = torch.randn(6, 9, 1, 2, dtype=torch.float64, requires_grad=True)

    def cubed(x):
        return temporal_shift(x, 3, 4, online) ** 3

    assert gradcheck(cubed, (x,))
    assert gradgradcheck(cubed, (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_channels_last_and_dtype_are_kept_both_ways(dtype):
    x = torch.randn(4, 16, 5, 3, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    out = temporal_shift(x, 2)
    weight = torch.randn_like(out)
    (grad,) = torch.autograd.grad((out * weight).sum(), x)
    for tensor in (out, grad):
        assert tensor.dtype == dtype
        assert tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def test_input_is_not_touched():
    x = torch.randn(4, 8, 2, 2)
    before = x.clone()
    temporal_shift(x, 4)
    assert torch.equal(x, before)


def slices_and_convolution(x, conv, n, online=False):
    """A plain shift of slices under plain autograd, then the convolution."""
    videos, fold = x.unflatten(0, (-1, n)), x.shape[1] // 8
    out = torch.zeros_like(videos)
    if online:
        out[:, 1:, :fold] = videos[:, :-1, :fold]
        out[:, :, fold:] = videos[:, :, fold:]
        return conv(out.flatten(0, 1))
    out[:, :-1, :fold] = videos[:, 1:, :fold]
    out[:, 1:, fold : 2 * fold] = videos[:, :-1, fold : 2 * fold]
    out[:, :, 2 * fold :] = videos[:, :, 2 * fold :]
    return conv(out.flatten(0, 1))


def block(x, convolve):
    """The input is a ReLU's output, which the ReLU keeps, and goes into a shortcut as well."""
    x = (x * 1).relu_()
    return x + convolve(x)


LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("online", [False, True])
def test_shifted_convolution_equals_slices_to_the_bit(layout, kernel, half, online):
    conv = nn.Conv2d(16, 16, kernel, padding=kernel // 2, bias=False).to(memory_format=layout)
    x = torch.randn(8, 16, 6, 6).to(memory_format=layout).requires_grad_()
    results = []
    for convolve in (
        lambda v: slices_and_convolution(v, conv, 4, online),
        lambda v: shifted_convolution(v, conv, 4, online=online),
    ):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = block(x.bfloat16() if half else x, convolve)
        grads = torch.autograd.grad(out.float().pow(2).sum(), [x, conv.weight])
        results.append([out, *grads])
        assert out.is_contiguous(memory_format=layout)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_shifted_convolution_keeps_no_second_copy():
    kept = []
    conv, x = nn.Conv2d(16, 4, 1, bias=False), torch.randn(8, 16, 6, 6, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.data_ptr()), lambda _: None):
        shifted_convolution(x, conv, 4)
    assert set(kept) == {x.data_ptr(), conv.weight.data_ptr()}


@pytest.mark.parametrize("online", [False, True])
def test_shifted_convolution_has_the_right_derivative(online):
    conv = nn.Conv2d(9, 2, 3, padding=1, stride=2, bias=False).double()
    x = torch.randn(6, 9, 3, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(
        lambda v, _: shifted_convolution(v, conv, 3, 4, online), (x, conv.weight)
    )  # it changes the weight itself


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_shifted_convolution_without_gradient_leaves_its_input(mode):
    conv = nn.Conv2d(16, 4, 1, bias=False)
    with mode():
        x = torch.randn(4, 16, 3, 3)
        before = x.clone()
        assert torch.equal(shifted_convolution(x, conv, 4), conv(temporal_shift(x, 4)))
        assert torch.equal(x, before)


def test_what_cannot_be_shifted_in_place_goes_the_plain_way():
    conv = nn.Conv2d(16, 4, 1, bias=False)
    seen = []
    hooked = nn.Conv2d(16, 4, 1, bias=False)
    hooked.register_forward_hook(lambda *_: seen.append(1))
    one = torch.randn(1, 16, 1, 1)
    cases = [
        (one.expand(4, 16, 3, 3), conv),  # overlapping memory
        (torch.randn(4, 16, 3, 3), nn.Conv2d(16, 4, 1)),  # with a bias
        (torch.randn(4, 16, 3, 3), hooked),
    ]
    for x, layer in cases:
        before = x.clone()
        torch.testing.assert_close(shifted_convolution(x, layer, 4), layer(temporal_shift(x, 4)))
        assert torch.equal(x, before)
    assert seen == [1, 1]


def test_shifted_network_traces_to_one_graph():
    trunk = resnet("tiny", width=8)
    add_temporal_shift(trunk.stages, n_segments=2)
    x = torch.randn(2, 3, 16, 16)
    traced = torch.compile(trunk, backend="aot_eager", fullgraph=True)
    results = []
    for net in (trunk, traced):
        out = net(x)
        results.append([out, *torch.autograd.grad(out.sum(), list(trunk.parameters()))])
    torch.testing.assert_close(*results)


def test_errors_name_the_fix():
    with pytest.raises(ValueError, match="set n_segments"):
        temporal_shift(torch.zeros(7, 8, 1, 1), 2)
    with pytest.raises(ValueError, match="n_div of 2 or more"):
        temporal_shift(torch.zeros(4, 8, 1, 1), 2, n_div=1)
    with pytest.raises(ValueError, match="blockres, block"):
        add_temporal_shift(resnet("tiny").stages, place="inplace")
    trunk = resnet("tiny")
    add_temporal_shift(trunk.stages)
    with pytest.raises(ValueError, match="already"):
        add_temporal_shift(trunk.stages)


def shifted(trunk):
    return [name for name, module in trunk.named_modules() if isinstance(module, TemporalShift)]


PLACES = {
    18: {1: [0, 1], 2: [0, 1], 3: [0, 1], 4: [0, 1]},
    50: {1: range(3), 2: range(4), 3: range(6), 4: range(3)},
    101: {1: [0, 2], 2: [0, 2], 3: range(0, 23, 2), 4: [0, 2]},
    152: {1: [0, 2], 2: range(0, 8, 2), 3: range(0, 36, 2), 4: [0, 2]},
}


@pytest.mark.parametrize(("depth", "count"), [(18, 8), (50, 16), (101, 18), (152, 26)])
def test_places_in_residual_branches(depth, count):
    with torch.device("meta"):
        trunk = resnet(depth)
    assert len(add_temporal_shift(trunk.stages)) == count
    assert shifted(trunk) == [f"layer{s}.{b}.conv1" for s, blocks in PLACES[depth].items() for b in blocks]


@pytest.mark.parametrize(("depth", "blocks"), [(18, 8), (50, 16), (101, 33)])
def test_place_block_wraps_every_block(depth, blocks):
    with torch.device("meta"):
        trunk = resnet(depth)
    add_temporal_shift(trunk.stages, place="block")
    assert len(shifted(trunk)) == blocks
    assert all(len(name.split(".")) == 2 for name in shifted(trunk))


def test_block_shifts_the_shortcut_and_blockres_does_not():
    x = torch.randn(2, 16, 8, 8)  # two frames of one video
    trunk = resnet("tiny").eval()
    nn.init.zeros_(trunk.layer1[0].bn2.weight)  # the residual branch adds nothing
    plain = trunk.layer1(x)
    add_temporal_shift([trunk.layer1], n_segments=2)
    assert torch.equal(trunk.layer1(x), plain)
    trunk.layer1[0].conv1 = trunk.layer1[0].conv1.net
    add_temporal_shift([trunk.layer1], n_segments=2, place="block")
    assert torch.equal(trunk.layer1(x), temporal_shift(x, 2).relu())


FORMS = [None, "blockres", "block"]


@pytest.mark.parametrize("source", FORMS)
@pytest.mark.parametrize("target", FORMS)
def test_names_map_between_every_two_forms(source, target):
    def build(place):
        trunk = resnet("tiny")
        if place:
            add_temporal_shift(trunk.stages, place=place)
        return trunk

    old, new = build(source), build(target)
    new.load_state_dict(match_shift_names(old.state_dict(), new.state_dict()))
    old_weights, new_weights = list(old.parameters()), list(new.parameters())
    assert all(torch.equal(a, b) for a, b in zip(old_weights, new_weights, strict=True))


def test_strangers_keep_their_name():
    state = {"fc.weight": torch.zeros(1), "net.layer1.0.conv1.weight": torch.zeros(1)}
    assert list(match_shift_names(state, ["net.layer1.0.conv1.net.weight"])) == [
        "fc.weight",
        "net.layer1.0.conv1.net.weight",
    ]
