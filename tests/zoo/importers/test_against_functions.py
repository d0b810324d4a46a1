"""Imported networks against the same arithmetic written out with functions, from the file's own tensors and names.

Nothing of the package computes the expected values: convolutions and norms are called one by one, the shift is slices.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mml_lightning.backbones import Peer, rebuild, tsm_mobilenet_v2, tsm_resnet
from mml_lightning.zoo.importers import zoo_entry
from tests.zoo.importers import naming
from tests.zoo.importers.naming import State

BASE = "module.base_model."


class Functions:
    """A TSM network as functions of its state dict."""

    def __init__(self, state: State, frames: int) -> None:
        self.state = {name.removeprefix(BASE): value for name, value in state.items()}
        self.frames = frames

    def conv(self, x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        if f"{name}.net.weight" in self.state:
            x, name = self.shift(x), f"{name}.net"
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, var, gamma, beta = (
            self.state[f"{name}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, gamma, beta, False, 0.1, 1e-5)

    def shift(self, x: Tensor) -> Tensor:
        fold = x.shape[1] // 8
        videos = x.reshape(-1, self.frames, *x.shape[1:])
        out = torch.zeros_like(videos)
        out[:, :-1, :fold] = videos[:, 1:, :fold]
        out[:, 1:, fold : 2 * fold] = videos[:, :-1, fold : 2 * fold]
        out[:, :, 2 * fold :] = videos[:, :, 2 * fold :]
        return out.reshape(x.shape)

    def logits(self, x: Tensor) -> Tensor:
        """Map [B*T, D, h, w] -> [B, K]."""
        weight, bias = self.state["module.new_fc.weight"], self.state["module.new_fc.bias"]
        frames = x.mean((2, 3)) @ weight.T + bias
        return frames.reshape(-1, self.frames, frames.shape[1]).mean(1)

    def nonlocal_block(self, x: Tensor, name: str) -> Tensor:
        rows, channels, height, width = x.shape
        volume = x.reshape(-1, self.frames, channels, height, width).transpose(1, 2)

        def project(part: str) -> Tensor:
            return F.conv3d(volume, self.state[f"{name}.{part}.weight"], self.state[f"{name}.{part}.bias"])

        query = project("theta").flatten(2)
        key, value = (F.max_pool3d(project(f"{part}.0"), (1, 2, 2)).flatten(2) for part in ("phi", "g"))
        attention = torch.softmax(torch.einsum("bcp,bcq->bpq", query, key), dim=2)
        y = torch.einsum("bpq,bcq->bcp", attention, value).reshape(len(volume), -1, *volume.shape[2:])
        y = self.norm(F.conv3d(y, self.state[f"{name}.W.0.weight"], self.state[f"{name}.W.0.bias"]), f"{name}.W.1")
        return x + y.transpose(1, 2).reshape(rows, channels, height, width)

    def resnet(self, clip: Tensor, layers: tuple[int, ...], convolutions: int) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv(clip.flatten(0, 1), "conv1", 2), "bn1")), 3, 2, 1)
        for stage, blocks in enumerate(layers, 1):
            for index in range(blocks):
                place = name = f"layer{stage}.{index}"
                wrapped = f"{place}.nl.theta.weight" in self.state
                name += ".block" if wrapped else ""
                stride = 2 if stage > 1 and index == 0 else 1
                y = x
                for number in range(1, convolutions + 1):
                    strided = number == (2 if convolutions == 3 else 1)
                    y = self.norm(self.conv(y, f"{name}.conv{number}", stride if strided else 1), f"{name}.bn{number}")
                    y = y if number == convolutions else F.relu(y)
                if f"{name}.downsample.0.weight" in self.state:
                    x = self.norm(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
                x = F.relu(x + y)
                if wrapped:
                    x = self.nonlocal_block(x, f"{place}.nl")
        return self.logits(x)

    def mobilenet(self, clip: Tensor) -> Tensor:
        x = F.relu6(self.norm(self.conv(clip.flatten(0, 1), "features.0.0", 2), "features.0.1"))
        strided = (2, 4, 7, 14)
        for block in range(1, 18):
            name, y = f"features.{block}.conv", x
            rows = (0, 3) if block == 1 else (0, 3, 6)
            for row in rows:
                depthwise = row == rows[-2]
                stride = 2 if depthwise and block in strided else 1
                y = self.norm(
                    self.conv(y, f"{name}.{row}", stride, y.shape[1] if depthwise else 1), f"{name}.{row + 1}"
                )
                y = y if row == rows[-1] else F.relu6(y)
            x = x + y if x.shape == y.shape and block != 1 else y
        return self.logits(F.relu6(self.norm(self.conv(x, "features.18.0"), "features.18.1")))


def imported(state: State, net: Peer, tmp_path: Path) -> Peer:
    """The network made again from the zoo entry alone."""
    file = naming.save(state, tmp_path / "x.pth.tar", lambda state: {"state_dict": state, "epoch": 1})
    arch = {key: value for key, value in net.arch.items() if key != "num_classes"}
    entry = zoo_entry(file, lambda heads: rebuild({**arch, "num_classes": heads}), {"name": "rgb"}).entry
    again = rebuild(entry["arch"]).eval()
    again.load_state_dict(entry["state_dict"])
    return again


@pytest.mark.parametrize(
    "depth, layers, convolutions, nonlocal_blocks",
    [(18, (2, 2, 2, 2), 2, False), (50, (3, 4, 6, 3), 3, False), (50, (3, 4, 6, 3), 3, True)],
)
@torch.no_grad()
def test_tsm_resnet(
    depth: int, layers: tuple[int, ...], convolutions: int, nonlocal_blocks: bool, tmp_path: Path
) -> None:
    net = naming.randomised(tsm_resnet(depth, nonlocal_blocks=nonlocal_blocks, num_classes={"label": 7}))
    state = naming.tsm(net)
    clip = torch.randn(2, 4, 3, 64, 64)
    expected = Functions(state, 4).resnet(clip, layers, convolutions)
    found = imported(state, net, tmp_path)(clip).logits["label"]
    assert expected.std() > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    unshifted = Functions(state, 1)  # each frame alone: what the answer would be without any look along time
    still = torch.stack([unshifted.resnet(clip[:, t : t + 1], layers, convolutions) for t in range(4)]).mean(0)
    assert (still - expected).abs().max() > 1e-2


@torch.no_grad()
def test_tsm_mobilenet_v2(tmp_path: Path) -> None:
    net = naming.randomised(tsm_mobilenet_v2(num_classes={"label": 7}))
    state = naming.tsm_mobilenet(net)
    clip = torch.randn(2, 4, 3, 64, 64)
    expected = Functions(state, 4).mobilenet(clip)
    found = imported(state, net, tmp_path)(clip).logits["label"]
    assert expected.std() > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    unshifted = Functions(state, 1)
    still = torch.stack([unshifted.mobilenet(clip[:, t : t + 1]) for t in range(4)]).mean(0)
    assert (still - expected).abs().max() > 1e-2
