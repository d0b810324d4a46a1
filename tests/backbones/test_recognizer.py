from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from mml_lightning.backbones import freeze_batch_norm, match_shift_names, rebuild, tsm_resnet

HEADS = {"label": 5}


def tiny(**options):
    return tsm_resnet("tiny", **{"num_classes": HEADS, **options})


def randomise(net):
    """Weights for which neither the shift nor the head can hide."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net


@pytest.mark.parametrize(("channels", "size"), [(3, 23_864_558), (10, 23_886_510), (15, 23_902_190)])
def test_size_of_the_papers_networks(channels, size):
    with torch.device("meta"):
        net = tsm_resnet(50, in_channels=channels, num_classes={"label": 174})
    assert sum(p.numel() for p in net.parameters()) == size


@pytest.mark.parametrize("depth", ["tiny", 18, 50])
@pytest.mark.parametrize("shift", [True, False])
def test_shapes(depth, shift):
    net = tsm_resnet(depth, shift, num_classes={"verb": 3, "noun": 4}, in_channels=10).eval()
    with torch.no_grad():
        out = net(torch.randn(2, 3, 10, 32, 32))
    width = net.net.feature_dim
    assert {name: tuple(value.shape) for name, value in out.logits.items()} == {"verb": (2, 3), "noun": (2, 4)}
    assert out.features["pooled"].shape == (2, width)
    assert out.features["map"].shape[:3] == (2, 3, width)
    torch.testing.assert_close(out.features["map"].mean((1, 3, 4)), out.features["pooled"])


def test_consensus_is_the_mean_of_frame_logits():
    net = randomise(tiny(shift=False)).eval()
    clip = torch.randn(2, 4, 3, 32, 32)
    frames = torch.stack([net(clip[:, t : t + 1]).logits["label"] for t in range(4)])
    torch.testing.assert_close(net(clip).logits["label"], frames.mean(0), rtol=1e-4, atol=1e-5)


def test_head_initialisation():
    torch.manual_seed(0)
    head = tsm_resnet(18, num_classes={"label": 174}).heads["label"]
    assert head.weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert (head.bias == 0).all()


def test_videos_do_not_mix_and_order_matters_only_with_shift():
    clip = torch.randn(3, 4, 3, 32, 32)
    for shift in (True, False):
        torch.manual_seed(1)
        net = randomise(tiny(shift=shift)).eval()
        logits = net(clip).logits["label"]
        alone = torch.cat([net(video[None]).logits["label"] for video in clip])
        torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)
        backwards = net(clip.flip(1)).logits["label"]
        assert torch.allclose(logits, backwards, rtol=1e-4, atol=1e-5) is not shift


def test_another_length_at_test_time_leaves_no_trace():
    net = randomise(tiny()).eval()
    fresh = copy.deepcopy(net)
    short, long = torch.randn(2, 2, 3, 32, 32), torch.randn(1, 5, 3, 32, 32)
    first = net(short).logits["label"]
    assert torch.equal(net(long).logits["label"], fresh(long).logits["label"])
    assert torch.equal(net(short).logits["label"], first)


def test_copies_are_independent():
    net = tiny()
    twin = copy.deepcopy(net)
    twin(torch.randn(1, 3, 3, 16, 16))
    assert {shift.n_segments for shift in twin._timed} == {3}
    assert {shift.n_segments for shift in net._timed} == {8}
    assert twin.net.layer1[0].conv1 in twin._timed


def test_dropout_acts_in_training_only_and_after_the_features():
    net = randomise(tiny(dropout=0.5))
    clip = torch.randn(2, 2, 3, 32, 32)
    freeze_batch_norm(net, "all")
    torch.manual_seed(0)
    a, b = net(clip), net(clip)
    assert not torch.equal(a.logits["label"], b.logits["label"])
    assert torch.equal(a.features["pooled"], b.features["pooled"])
    assert torch.equal(net.eval()(clip).logits["label"], net(clip).logits["label"])


def test_gradients_reach_every_parameter_through_logits_and_features():
    net = tiny()
    out = net(torch.randn(2, 4, 3, 32, 32))
    assert out.features["map"].requires_grad and out.features["pooled"].requires_grad
    out.logits["label"].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_float64():
    net = randomise(tiny()).double().eval()
    clip = torch.randn(1, 3, 3, 32, 32, dtype=torch.float64)
    out = net(clip)
    assert {t.dtype for t in (*out.logits.values(), *out.features.values())} == {torch.float64}
    single = net.float()(clip.float()).logits["label"]
    torch.testing.assert_close(single, out.logits["label"].float(), rtol=1e-3, atol=1e-4)


def test_autocast_leaves_the_logits_in_full_precision():
    net = randomise(tiny()).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = net(torch.randn(64, 4, 3, 32, 32))
    assert output.features["map"].dtype == torch.bfloat16, "the trunk runs in half precision"
    assert output.logits["label"].dtype == torch.float32
    assert len(output.logits["label"].unique()) > 0.95 * 64 * 5, "few scores tie"


def test_channels_last_survives_forward_and_backward():
    net = tiny().to(memory_format=torch.channels_last)
    layouts = []
    for shift in net._timed:
        shift.register_full_backward_hook(lambda m, gi, go: layouts.append(gi[0]))
        shift.register_forward_hook(lambda m, args, out: layouts.append(out))
    clip = torch.randn(2, 2, 3, 32, 32)
    net(clip).logits["label"].sum().backward()
    assert len(layouts) == 2 * len(net._timed)
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in layouts)


@pytest.mark.parametrize("source", [True, False])
def test_tsn_and_tsm_load_each_other(source):
    old, new = randomise(tiny(shift=source)).eval(), tiny(shift=not source).eval()
    new.load_state_dict(match_shift_names(old.state_dict(), new.state_dict()))
    image = torch.randn(2, 1, 3, 32, 32)
    assert torch.equal(new.net.conv1.weight, old.net.conv1.weight)
    new_features, old_features = new.net.conv1(image[:, 0]), old.net.conv1(image[:, 0])
    assert torch.equal(new_features, old_features)
    back = match_shift_names(new.state_dict(), old.state_dict())
    assert all(torch.equal(value, back[key]) for key, value in old.state_dict().items())


@pytest.mark.parametrize("options", [{}, {"shift": False, "in_channels": 10}, {"shift_place": "block", "width": 8}])
def test_arch_rebuilds_the_network(options):
    net = tiny(**options)
    other = rebuild(pickle.loads(pickle.dumps(net.arch)))
    assert other.arch == net.arch
    other.load_state_dict(net.state_dict())
    with pytest.raises(ValueError, match="tsm_resnet"):
        rebuild({**net.arch, "builder": "os.system"})


def test_one_seed_gives_every_modality_the_same_network_but_for_the_stem():
    nets = []
    for channels in (3, 10):
        torch.manual_seed(0)
        nets.append(tiny(in_channels=channels))
    rgb, flow = (net.state_dict() for net in nets)
    assert nets[1].in_channels == 10
    assert [key for key in rgb if not torch.equal(rgb[key], flow[key])] == [nets[0].stem_name + ".weight"]


def test_errors_name_the_fix():
    with pytest.raises(ValueError, match=r"\[B, T, 3, H, W\]"):
        tiny()(torch.randn(2, 4, 10, 16, 16))
    with pytest.raises(ValueError, match=r"\[B, T, 3, H, W\]"):
        tiny()(torch.randn(2, 3, 16, 16))
    with pytest.raises(ValueError, match="plain word"):
        tiny(num_classes={"type.of": 3})
    with pytest.raises(ValueError, match="plain word"):
        tiny(num_classes={"keys": 3})
    with pytest.raises(ValueError, match="one entry per head"):
        tiny(num_classes={})
    with pytest.raises(ValueError, match="1 or more"):
        tiny(num_classes={"label": 0})


@pytest.mark.parametrize("depth", ["tiny", 18])
def test_partial_batch_norm(depth):
    net = tsm_resnet(depth, num_classes=HEADS).train()
    layers = [(name, m) for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)]
    before = copy.deepcopy(net.state_dict())
    assert freeze_batch_norm(net) == len(layers) - 1 == freeze_batch_norm(net)
    assert layers[0][0] == "net.bn1"

    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net(torch.randn(2, 2, 3, 32, 32)).logits["label"].square().sum().backward()
    optimizer.step()
    after = net.state_dict()
    for index, (name, layer) in enumerate(layers):
        statistics = [f"{name}.{key}" for key in ("running_mean", "running_var", "num_batches_tracked")]
        assert all(torch.equal(before[key], after[key]) for key in statistics) is (index > 0)
        assert layer.training is layer.weight.requires_grad is layer.bias.requires_grad is (index == 0)
    net.train()  # what a caller may do every epoch; freezing again restores the state
    freeze_batch_norm(net)
    assert [layer.training for _, layer in layers] == [True] + [False] * (len(layers) - 1)


def test_freezing_all_includes_the_first():
    net = tiny()
    assert freeze_batch_norm(net, "all") == 12  # stem, two per block, three shortcuts
    assert not net.net.bn1.training


def test_export_sees_plain_operations():
    net = randomise(tiny()).eval()
    clip = torch.randn(1, 4, 3, 32, 32)
    exported = torch.export.export(net, (clip,)).module()
    torch.testing.assert_close(exported(clip).logits["label"], net(clip).logits["label"])


def test_compiled_network_follows_the_clip_length_and_trains():
    net = randomise(tiny()).eval()
    compiled = torch.compile(net, backend="eager")
    weight = net.net.layer1[0].conv1.net.weight
    for frames in (2, 3):
        clip = torch.randn(1, frames, 3, 32, 32)
        expected, actual = net(clip).logits["label"], compiled(clip).logits["label"]
        torch.testing.assert_close(actual, expected)
        gradients = [torch.autograd.grad(logits.square().sum(), weight)[0] for logits in (expected, actual)]
        torch.testing.assert_close(*gradients)
