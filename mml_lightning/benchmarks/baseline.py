"""What the published program does per step, for comparison: one network, float32 in the usual memory format, a shift
that copies slices, images opened one by one with Pillow, float32 sent to the device. Written from its description.

Legend: B clips, T frames, L window, C channels of a step, H W height and width, K classes.
Source of what is described: Lin et al., "TSM", ICCV 2019, and the program published with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mml_lightning.backbones.recognizer import Recognizer
from mml_lightning.backbones.temporal_shift import TemporalShift
from mml_lightning.training.parameter_groups import tsn_parameter_groups

CLIP_NORM = 20.0


class SliceShift(nn.Module):
    """Copies slices into zeros, under plain autograd, then applies the wrapped module."""

    def __init__(self, net: nn.Module, n_segments: int, n_div: int) -> None:
        super().__init__()
        self.net, self.n_segments, self.fold_div = net, n_segments, n_div

    def forward(self, x: Tensor) -> Any:
        rows, channels, height, width = x.shape
        x = x.view(rows // self.n_segments, self.n_segments, channels, height, width)
        fold = channels // self.fold_div
        out = torch.zeros_like(x)
        out[:, :-1, :fold] = x[:, 1:, :fold]
        out[:, 1:, fold : 2 * fold] = x[:, :-1, fold : 2 * fold]
        out[:, :, 2 * fold :] = x[:, :, 2 * fold :]
        return self.net(out.view(rows, channels, height, width))


class PlainTSM(nn.Module):
    """Frames as rows, a trunk with slice shifts, a linear layer, the mean over time; no dropout.

    Args:
        made: a recogniser whose trunk and head it takes over.
        n_segments: T.
    """

    def __init__(self, made: Recognizer, n_segments: int) -> None:
        super().__init__()
        self.net, self.fc, self.n_segments = made.net, made.heads["label"], n_segments
        self.in_channels = made.in_channels
        for module in list(self.net.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, TemporalShift):
                    setattr(module, name, SliceShift(child.net, n_segments, child.n_div))

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, T*C, H, W] -> [B, K]."""
        rows = x.view(-1, self.in_channels, *x.shape[-2:])
        scores = self.fc(functional.adaptive_avg_pool2d(self.net(rows), 1).flatten(1))
        made: Tensor = scores.view(-1, self.n_segments, scores.shape[-1]).mean(1)
        return made


class PlainTrainer:
    """One network and its optimiser; the loss and two accuracies are read after every step, as they are printed."""

    def __init__(self, net: PlainTSM, lr: float, weight_decay: float, momentum: float = 0.9) -> None:
        self.net = net.train()
        self.optimizer = torch.optim.SGD(tsn_parameter_groups(net, lr, weight_decay), lr=lr, momentum=momentum)

    def step(self, clips: Tensor, target: Tensor) -> float:
        """One step on float32 [B, T*C, H, W]; returns the loss."""
        scores = self.net(clips)
        loss = functional.cross_entropy(scores, target)
        top = scores.topk(min(5, scores.shape[1]), dim=1).indices.eq(target[:, None])
        for count in (1, 5):
            top[:, :count].float().sum().item()
        told = loss.item()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), CLIP_NORM)
        self.optimizer.step()
        return told


def open_images(paths: Sequence[Any], mode: str, box: tuple[int, int, int, int], output: int) -> np.ndarray:
    """Images opened, cropped and resized one by one: uint8 [n, output, output, 3], or without the 3 of mode "L"."""
    from PIL import Image

    bilinear = Image.Resampling.BILINEAR
    images = [Image.open(path).convert(mode).crop(box).resize((output, output), bilinear) for path in paths]
    return np.stack([np.asarray(image) for image in images])


def to_float(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 [n, H, W, c] or [n, H, W] -> normalised float32 [n * c, H, W], on the host."""
    stacked = images.reshape(*images.shape[:3], -1)
    tensor = torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous().float().div(255)
    repeated = [torch.tensor(list(values) * (tensor.shape[1] // len(values))) for values in (mean, std)]
    return tensor.sub_(repeated[0][:, None, None]).div_(repeated[1][:, None, None]).flatten(0, 1)
