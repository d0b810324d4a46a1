"""State dicts of our networks under the names that other projects give the same tensors, and how they would save them.

Written from the other side than the importer: every function goes from our names to theirs.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mml_lightning.backbones import Peer

State = dict[str, Tensor]
NONLOCAL = {"theta": "nl.theta", "phi": "nl.phi.0", "g": "nl.g.0", "out": "nl.W.0", "norm": "nl.W.1"}


def randomised(net: Peer, seed: int = 0) -> Peer:
    """Weights and statistics with which no tensor can be mistaken for another one's, in eval mode."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor, low, high in (
                    (module.weight, 0.5, 1.0),
                    (module.bias, -0.2, 0.2),
                    (module.running_mean, -0.2, 0.2),
                    (module.running_var, 0.5, 1.5),
                ):
                    assert isinstance(tensor, Tensor)
                    uniform(tensor, low, high)
            elif isinstance(module, (nn.Conv2d, nn.Conv3d)):  # by fan-in, so that no layer drowns the input
                weight = module.weight
                weight.copy_(torch.randn(weight.shape, generator=generator) * (2 / weight[0].numel()) ** 0.5)
            elif isinstance(module, nn.Linear):
                uniform(module.weight, -1, 1)
                uniform(module.bias, -1, 1)
    return net.eval()


def _split(net: Peer) -> tuple[State, State]:
    """(trunk without `net.`, classifier as weight and bias)."""
    state = net.state_dict()
    trunk = {name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")}
    return trunk, {name.rpartition(".")[2]: value for name, value in state.items() if name.startswith("heads.")}


def torchvision(net: Peer) -> State:
    """`conv1`, `layer1.0.conv1`, .., `fc`; of MobileNetV2 `features.0.0`, .., `classifier.1`."""
    trunk, head = _split(net)
    name = "classifier.1" if "features.0.0.weight" in trunk else "fc"
    return {**trunk, **{f"{name}.{kind}": value for kind, value in head.items()}}


def tsm(net: Peer, head_name: str = "new_fc") -> State:
    """`module.base_model.*`, `module.new_fc.*`; a non-local block wraps the block it follows."""
    trunk, head = _split(net)
    wrapped = {name.split(".")[1] for name in trunk if name.startswith("nonlocals.")}
    state: State = {}
    for name, value in trunk.items():
        parts = name.split(".")
        if parts[0] == "nonlocals":
            stage, block = parts[1].split("_")
            theirs = f"{stage}.{block}.{NONLOCAL[parts[2]]}.{parts[3]}"
        elif "_".join(parts[:2]) in wrapped:
            theirs = ".".join([*parts[:2], "block", *parts[2:]])
        else:
            theirs = name
        state[f"module.base_model.{theirs}"] = value
    return {**state, **{f"module.{head_name}.{kind}": value for kind, value in head.items()}}


def tsm_mobilenet(net: Peer) -> State:
    """The layers of a block in one row, activations counted: 0 1 (2) 3 4 (5) 6 7, or 0 1 (2) 3 4 without expansion."""
    trunk, head = _split(net)
    expanded = {(0, 0): 0, (0, 1): 1, (1, 0): 3, (1, 1): 4, (2, None): 6, (3, None): 7}
    plain = {(0, 0): 0, (0, 1): 1, (1, None): 3, (2, None): 4}
    state: State = {}
    for name, value in trunk.items():
        found = re.fullmatch(r"features\.(\d+)\.conv\.(\d)\.(net\.)?(?:(\d)\.)?(\w+)", name)
        theirs = name
        if found:
            block, layer, shift, inner, kind = found.groups()
            row = (plain if block == "1" else expanded)[int(layer), int(inner) if inner else None]
            first = bool(shift) and row == 0  # only the convolution is wrapped, not its norm
            theirs = f"features.{block}.conv.{row}.{'net.' if first else ''}{kind}"
        state[f"module.base_model.{theirs}"] = value
    return {**state, **{f"module.new_fc.{kind}": value for kind, value in head.items()}}


def slowfast(net: Peer) -> State:
    """`s1.pathway0_stem.conv`, `s2.pathway0_res0.branch2.a`, .., `head.projection`."""
    trunk, head = _split(net)
    parts = {"downsample.0": "branch1", "downsample.1": "branch1_bn"}
    parts |= {f"conv{n}": f"branch2.{c}" for n, c in zip((1, 2, 3), "abc", strict=True)}
    parts |= {f"bn{n}": f"branch2.{c}_bn" for n, c in zip((1, 2, 3), "abc", strict=True)}
    attention = {"theta": "conv_theta", "phi": "conv_phi", "g": "conv_g", "out": "conv_out", "norm": "bn"}
    state: State = {}
    for name, value in trunk.items():
        body, _, kind = name.rpartition(".")
        if body in ("conv1", "bn1"):
            theirs = f"s1.pathway0_stem.{body.removesuffix('1')}"
        elif body.startswith("nonlocals."):
            _, place, part = body.split(".")
            theirs = f"s{int(place[5]) + 1}.pathway0_nonlocal{place[7:]}.{attention[part]}"
        else:
            stage, block, part = body.split(".", 2)
            theirs = f"s{int(stage[5]) + 1}.pathway0_res{block}.{parts[part]}"
        state[f"{theirs}.{kind}"] = value
    return {**state, **{f"head.projection.{kind}": value for kind, value in head.items()}}


def pytorchvideo(net: Peer, stages: tuple[int, ...]) -> State:
    """`blocks.0.conv`, `blocks.<stage>.res_blocks.0.branch2.conv_a`, .., `blocks.<last>.proj`.

    Args:
        stages: block numbers of layer1 .. layer4: (1, 3, 4, 5) where block 2 is a pooling, else (1, 2, 3, 4).
    """
    trunk, head = _split(net)
    parts = {"downsample.0": "branch1_conv", "downsample.1": "branch1_norm"}
    parts |= {f"conv{n}": f"branch2.conv_{c}" for n, c in zip((1, 2, 3), "abc", strict=True)}
    parts |= {f"bn{n}": f"branch2.norm_{c}" for n, c in zip((1, 2, 3), "abc", strict=True)}
    state: State = {}
    for name, value in trunk.items():
        body, _, kind = name.rpartition(".")
        if body in ("conv1", "bn1"):
            theirs = "blocks.0.conv" if body == "conv1" else "blocks.0.norm"
        else:
            stage, block, part = body.split(".", 2)
            theirs = f"blocks.{stages[int(stage[5]) - 1]}.res_blocks.{block}.{parts[part]}"
        state[f"{theirs}.{kind}"] = value
    return {**state, **{f"blocks.{stages[-1] + 1}.proj.{kind}": value for kind, value in head.items()}}


def caffe2(net: Peer) -> dict[str, object]:
    """`conv1_w`, `res_conv1_bn_s`, `res2_0_branch2a_w`, .., `pred_w` as arrays, and what training leaves there."""
    blobs: dict[str, object] = {"lr": 0.1, "model_iter": 7.0}
    norms = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
    filters = {"weight": "w", "bias": "b"}
    for name, value in slowfast(net).items():
        body, _, kind = name.rpartition(".")
        if kind == "num_batches_tracked":
            continue
        if body == "head.projection":
            theirs = f"pred_{filters[kind]}"
        elif body.startswith("s1."):
            theirs = f"conv1_{filters[kind]}" if body.endswith("conv") else f"res_conv1_bn_{norms[kind]}"
        elif found := re.fullmatch(r"s(\d)\.pathway0_nonlocal(\d+)\.(?:conv_(\w+)|bn)", body):
            stage, block, part = found.groups()
            end = f"{part}_{filters[kind]}" if part else f"bn_{norms[kind]}"
            theirs = f"nonlocal_conv{stage}_{block}_{end}"
        else:
            found = re.fullmatch(r"s(\d)\.pathway0_res(\d+)\.branch(\d)(?:\.([abc]))?(_bn)?", body)
            assert found, body
            stage, block, branch, letter, norm = found.groups()
            end = f"bn_{norms[kind]}" if norm else filters[kind]
            theirs = f"res{stage}_{block}_branch{branch}{letter or ''}_{end}"
        blobs[theirs] = value.numpy()
        blobs[f"{theirs}_momentum"] = value.numpy() * 0
    return blobs


def save_caffe2(blobs: dict[str, object], file: Path) -> Path:
    """As Python 2 wrote it: protocol 2; strings come back as latin1."""
    with file.open("wb") as handle:
        pickle.dump({"blobs": blobs}, handle, protocol=2)
    return file


def save(state: State, file: Path, wrap: Callable[[State], object] = lambda state: state, legacy: bool = False) -> Path:
    torch.save(wrap(state), file, _use_new_zipfile_serialization=not legacy)
    return file
