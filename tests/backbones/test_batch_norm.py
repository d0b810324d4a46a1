"""Batch norms: who is frozen, groups of clips, exact statistics; names of the weights never change."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mml_lightning.backbones import freeze_batch_norm, tsm_resnet, video_resnet
from mml_lightning.backbones.batch_norm import (
    GroupBatchNorm,
    Population,
    batch_norms,
    group_batch_norm,
    population_statistics,
    silenced,
)
from mml_lightning.backbones.non_local import NonLocal

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    options = dict(width=8, num_classes={"label": 3}, dropout=0.0)
    make = {"2d": tsm_resnet, "3d": video_resnet}[kind]
    net = make(depth="tiny", **options)
    for layer in batch_norms(net):
        nn.init.normal_(layer.weight, 1, 0.2)
    return net.double()


def clips(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, 3, 32, 32, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["2d", "3d"])
@pytest.mark.parametrize(
    "freeze, still, fixed", [("none", 0, 0), ("partial", 11, 11), ("stats", 12, 0), ("all", 12, 12)]
)
def test_freezes(kind, freeze, still, fixed):
    """`still` layers keep their statistics, `fixed` ones their affine values; they are the last of the network."""
    net = network(kind).train()
    layers = batch_norms(net)
    assert len(layers) == 12 and layers[0] is net.net.bn1
    assert freeze_batch_norm(net, freeze) == still == freeze_batch_norm(net, freeze)
    before = copy.deepcopy(net.state_dict())
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net(clips(2)).logits["label"].square().sum().backward()
    optimizer.step()
    names = {id(module): name for name, module in net.named_modules()}
    for index, layer in enumerate(layers):
        name = names[id(layer)]
        changed = {key for key, value in layer.state_dict().items() if not torch.equal(before[f"{name}.{key}"], value)}
        expected = set(STATISTICS) if index < 12 - still else set()
        assert changed == expected | ({"weight", "bias"} if index < 12 - fixed else set())


@pytest.mark.parametrize("kind", ["2d", "3d"])
def test_partial_freezing_lets_non_local_blocks_learn(kind):
    """Their norms start at zero: frozen, the blocks would be the identity for good."""
    torch.manual_seed(0)
    options = {"width": 8, "nonlocal_blocks": True, "dropout": 0.0, "num_classes": {"label": 3}}
    net = tsm_resnet(50, **options) if kind == "2d" else video_resnet("i3d", "tiny", **options)
    blocks = [module for module in net.modules() if isinstance(module, NonLocal)]
    for layer in batch_norms(net):
        if not any(layer is block.norm for block in blocks):
            nn.init.normal_(layer.weight, 1, 0.2)
    assert len(blocks) == (5 if kind == "2d" else 1)
    assert freeze_batch_norm(net.train()) == len(batch_norms(net)) - len(blocks) - 1
    assert all(block.norm.training and block.norm.weight.requires_grad for block in blocks)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net(clips(2).float()).logits["label"].square().sum().backward()
    optimizer.step()
    assert all(block.norm.weight.any() and block.norm.running_mean.any() for block in blocks)
    assert silenced(net, "partial") == silenced(net, "all") == []


def test_norms_that_would_stay_at_zero_are_named():
    net = video_resnet("i3d", "tiny", width=8, nonlocal_blocks=True, num_classes={"label": 3})
    assert silenced(net, "none") == silenced(net, "stats") == []
    residual = silenced(net, "partial")
    assert residual and not any("nonlocal" in name for name in residual)
    assert [name for name in silenced(net, "all") if name not in residual] == ["net.nonlocals.layer2_0.norm"]


def test_unknown_freeze():
    with pytest.raises(ValueError, match="none, partial, stats, all"):
        freeze_batch_norm(network("3d"), "some")


@pytest.mark.parametrize("frames", [1, 3])  # rows of a clip: one of a 3-D network, T of a 2-D one
@pytest.mark.parametrize("momentum", [0.1, None])
def test_group_norm_is_a_plain_norm_of_each_group(frames, momentum):
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(5, momentum=momentum).double()
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.running_mean)
    holder = nn.Sequential(copy.deepcopy(plain))
    assert group_batch_norm(holder, 2) == 1
    grouped = holder[0]
    assert isinstance(grouped, GroupBatchNorm) and list(holder.state_dict()) == [f"0.{k}" for k in plain.state_dict()]
    alone = [copy.deepcopy(plain) for _ in range(3)]
    for step in range(3):
        x = torch.randn(6 * frames, 5, 4, 4, dtype=torch.float64, requires_grad=True)
        twin = x.detach().clone().requires_grad_()
        grouped.clips = 6
        out = grouped(x)
        expected = torch.cat([norm(part) for norm, part in zip(alone, twin.split(2 * frames), strict=True)])
        assert torch.equal(out, expected)
        mean = torch.stack([norm.running_mean for norm in alone]).mean(0)
        var = torch.stack([norm.running_var for norm in alone]).mean(0)
        torch.testing.assert_close((grouped.running_mean, grouped.running_var), (mean, var))
        assert int(grouped.num_batches_tracked) == step + 1
        out.pow(3).sum().backward()
        expected.pow(3).sum().backward()
        assert torch.equal(x.grad, twin.grad)
    grouped.eval()
    reference = copy.deepcopy(alone[0]).eval()
    reference.load_state_dict(grouped.state_dict())
    assert torch.equal(grouped(x), reference(x))


@pytest.mark.parametrize("kind", ["2d", "3d"])
def test_a_network_with_groups_equals_devices_with_so_many_clips(kind):
    """Four clips in groups of two: outputs and gradients of two plain networks that see two clips each."""
    plain, grouped = network(kind).train(), network(kind).train()
    group_batch_norm(grouped, 2)
    batch = clips(4)
    apart = [plain(part).logits["label"] for part in batch.split(2)]
    together = grouped(batch).logits["label"]
    torch.testing.assert_close(together, torch.cat(apart))
    together.square().sum().backward()
    torch.cat(apart).square().sum().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), grouped.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_weights_of_a_network_with_groups_load_into_a_plain_one():
    grouped, plain = network("3d").train(), network("3d")
    group_batch_norm(grouped, 2)
    grouped(clips(4))
    plain.load_state_dict(grouped.state_dict(), strict=True)
    batch = clips(3, seed=1)  # any number of clips in eval mode
    assert torch.equal(plain.eval()(batch).logits["label"], grouped.eval()(batch).logits["label"])


def test_groups_must_go_into_the_batch():
    net = network("3d").train()
    group_batch_norm(net, 2)
    with pytest.raises(ValueError, match="3 clips has no whole groups of 2"):
        net(clips(3))
    with pytest.raises(ValueError, match="1 clip or more"):
        group_batch_norm(net, 0)


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 99), st.sampled_from([0.0, 1e3]))
def test_population_is_that_of_all_values_at_once(sizes, seed, offset):
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(n, 3, 2, 2, generator=generator, dtype=torch.float64) + offset for n in sizes]
    population = Population()
    for part in parts:
        population.add(part)
    layer = nn.BatchNorm2d(3).double()
    population.write(layer)
    values = torch.cat(parts).transpose(0, 1).flatten(1)
    torch.testing.assert_close(layer.running_mean, values.mean(1))
    torch.testing.assert_close(layer.running_var, values.var(1))


@pytest.mark.parametrize("kind", ["2d", "3d"])
def test_precise_statistics_are_those_of_the_activations(kind):
    net = network(kind).train()
    freeze_batch_norm(net, "none")
    batches = [clips(2, seed) for seed in range(3)]
    entered: dict[int, list[torch.Tensor]] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda m, i: entered.setdefault(id(m), []).append(i[0].detach()))
        for layer in batch_norms(net)
    ]
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad(), population_statistics(net) as watched:
        for batch in batches:
            net(batch)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items()), "nothing moved yet"
    assert len(watched) == 12
    for hook in hooks:
        hook.remove()
    for layer, population in watched:
        population.write(layer)
        values = torch.cat(entered[id(layer)]).transpose(0, 1).flatten(1)
        torch.testing.assert_close(layer.running_mean, values.mean(1))
        torch.testing.assert_close(layer.running_var, values.var(1))
    net(batches[0])  # nobody watches any more
    assert watched[0][1].count == 3 * 2 * (4 * 16 * 16)


def test_frozen_norms_are_not_watched():
    net = network("3d").train()
    freeze_batch_norm(net, "partial")
    with population_statistics(net) as watched:
        assert [layer for layer, _ in watched] == [net.net.bn1]
