from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from mml_lightning.backbones import checkpoint_blocks, set_memory_format, tsm_mobilenet_v2, tsm_resnet, video_resnet
from mml_lightning.backbones.batch_norm import batch_norms, freeze_batch_norm, group_batch_norm
from tests.patience import LONGEST


def tiny(width=8, **options):
    torch.manual_seed(0)
    return tsm_resnet("tiny", width=width, num_classes={"label": 3}, **options)


def wide():
    return tiny(width=16)


def i3d(**options):
    return video_resnet("i3d", "tiny", num_classes={"label": 3}, **options)


@pytest.mark.parametrize(
    ("name", "made", "chosen"),
    [
        ("auto", wide, "channels_last"),
        ("auto", tsm_mobilenet_v2, "channels_last"),
        ("auto", tiny, "contiguous"),
        ("auto", i3d, "contiguous"),
        ("contiguous", tiny, "contiguous"),
        ("channels_last", i3d, "channels_last"),
    ],
)
def test_filters_follow_the_format(name, made, chosen):
    net = made()
    assert set_memory_format(net, name) == chosen
    filters = [m.weight for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d)) and m.kernel_size[-1] > 1]
    last = {4: torch.channels_last, 5: torch.channels_last_3d}[filters[0].ndim]
    assert all(f.is_contiguous(memory_format=last) == (chosen == "channels_last") for f in filters)


def test_maps_follow_the_filters():
    net = tiny()
    set_memory_format(net, "channels_last")
    maps = []
    for layer in batch_norms(net):
        layer.register_forward_hook(lambda _m, _i, out: maps.append(out))
    net(torch.randn(1, 4, 3, 64, 64))
    assert maps and all(m.is_contiguous(memory_format=torch.channels_last) for m in maps)


def test_formats_give_one_result():
    plain, last = tiny(dropout=0.0), tiny(dropout=0.0)
    set_memory_format(last, "channels_last")
    clip = torch.randn(2, 4, 3, 32, 32)
    outs = [net(clip).logits["label"] for net in (plain, last)]
    torch.testing.assert_close(*outs)
    grads = [torch.autograd.grad(out.sum(), net.parameters()) for out, net in zip(outs, (plain, last), strict=True)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


NARROW = """
import torch
from mml_lightning.backbones import set_memory_format, tsm_resnet

net = tsm_resnet("tiny", width=8)
set_memory_format(net)
for size in (112, 224):
    net(torch.randn(2, 4, 3, size, size)).logits["label"].sum().backward()
print("alive")
"""


def test_a_narrow_network_lives_through_its_backward_pass():
    """In channels_last the first of these ends the process, on processors with AVX-512."""
    done = subprocess.run([sys.executable, "-c", NARROW], capture_output=True, text=True, timeout=LONGEST)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_unknown_format():
    with pytest.raises(ValueError, match="auto, contiguous, channels_last"):
        set_memory_format(tiny(), "nhwc")


def grouped(net):
    group_batch_norm(net, 1)
    return net


def partial(net):
    freeze_batch_norm(net, "partial")
    return net


NETS = {
    "tsm": lambda: tiny(dropout=0.0),
    "partial BN": lambda: partial(tiny(dropout=0.0)),
    "grouped BN": lambda: grouped(tiny(dropout=0.0)),
    "mobilenet": lambda: tsm_mobilenet_v2(dropout=0.0, num_classes={"label": 3}),
    "3-D": lambda: i3d(dropout=0.0),
}


@pytest.mark.parametrize("made", NETS.values(), ids=NETS)
def test_checkpointed_blocks_change_no_bit(made):
    torch.manual_seed(1)
    plain = made()
    twice = copy.deepcopy(plain)
    assert checkpoint_blocks(twice) >= 4
    clip = torch.randn(2, 4, 3, 32, 32)
    grads = []
    for net in (plain, twice):
        out = net(clip).logits["label"].square().sum()
        grads.append(torch.autograd.grad(out, [p for p in net.parameters() if p.requires_grad]))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    for one, other in zip(plain.buffers(), twice.buffers(), strict=True):
        assert torch.equal(one, other)
    assert all(layer.momentum == 0.1 for layer in batch_norms(twice))
    with torch.no_grad():
        assert torch.equal(plain.eval()(clip).logits["label"], twice.eval()(clip).logits["label"])


def test_checkpointing_keeps_less():
    def kept(net):
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t, lambda t: t
        ):
            net(torch.randn(1, 4, 3, 64, 64))
        return sum(sizes.values())

    once, twice = tiny(), tiny()
    checkpoint_blocks(twice)
    assert kept(twice) < 0.5 * kept(once)


def test_nothing_to_checkpoint():
    with pytest.raises(ValueError, match="nothing to checkpoint"):
        checkpoint_blocks(nn.Linear(1, 1))
