"""AdaMML's policy: small networks that decide, segment by segment, which peers are worth their cost.

Legend: B videos, V segments, T frames of a segment, C channels, H W height and width, D width of a trunk's features, M
peers.

    frames 0, 2, 4, .. of a segment at 160 px -> a small network per modality -> [B, V, D] each
    side by side -> Linear 2048 -> ReLU -> Linear 2048 -> ReLU -> LSTM over the segments, 256 wide, which is also given
    what it said of the segment before -> two logits per peer, skip and use -> straight-through Gumbel-softmax

Parts are matched by the names of the peers, never by position. Source: Panda et al., "AdaMML: Adaptive Multi-Modal
Learning for Efficient Video Recognition", ICCV 2021, and its released code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mml_lightning.backbones.mobilenet_v2 import MobileNetV2
from mml_lightning.backbones.resnet import resnet
from mml_lightning.backbones.stem import adapt_first_conv
from mml_lightning.backbones.temporal_2d import TemporalPool
from mml_lightning.fusion.gates import Gate, Look, keyed_generator

FEEDBACK = ("logits", "decision", "none")
EVALUATION = ("argmax", "sample")
USE = 1  # the second of two logits; the first one is "skip"
TRUNKS = ("mobilenet_v2", "tiny")
POOLED_BEFORE = (7, 14)
"""Features of MobileNetV2 before which time is pooled: the first of 64 channels and the first of 160."""


class FrameTrunk(nn.Module):
    """A small 2-D network over the frames of a segment, pooled along time inside.

    Args:
        channels: C of a frame.
        trunk: one of :data:`TRUNKS`: MobileNetV2 as published, or a four-block ResNet for small frames.
        stem_rule: how an RGB stem becomes one of C channels, see `convert_stem`.
        width: of the first stage of `tiny`.

    Raises:
        ValueError: the trunk is unknown.
    """

    def __init__(self, channels: int, trunk: str = "mobilenet_v2", stem_rule: str = "mean", width: int = 8) -> None:
        super().__init__()
        if trunk not in TRUNKS:
            raise ValueError(f"trunk={trunk} is unknown: use one of {', '.join(TRUNKS)}")
        net: Any = MobileNetV2() if trunk == "mobilenet_v2" else resnet("tiny", width)
        adapt_first_conv(net, net.stem_name, channels, stem_rule)
        self.net = net
        self.pool = TemporalPool()
        self.feature_dim = int(net.feature_dim)

    def forward(self, clip: Tensor) -> Tensor:
        """[N, T, C, H, W] -> [N, D]: the mean over places, and over the frames that temporal pooling leaves."""
        size, frames = clip.shape[:2]
        x = clip.flatten(0, 1)
        if isinstance(self.net, MobileNetV2):
            for number, block in enumerate(self.net.features):
                if number in POOLED_BEFORE:
                    x, frames = self._pooled(x, frames)
                x = block(x)
        else:
            x = self.net.relu(self.net.bn1(self.net.conv1(x)))
            for number, stage in enumerate(self.net.stages):
                if number in (1, 2):
                    x, frames = self._pooled(x, frames)
                x = stage(x)
        return x.mean(dim=(-2, -1)).unflatten(0, (size, frames)).mean(dim=1)

    def _pooled(self, x: Tensor, frames: int) -> tuple[Tensor, int]:
        if frames == 1:
            return x, 1
        self.pool.n_segments = frames
        return self.pool(x), self.pool.frames_out(frames)


class Policy(Gate):
    """Which peers are used in which segments, learned.

    Args:
        looks_at: {peer: modality that the decision about it is made from}: its own, or a cheaper one (a proxy).
        channels: {modality: C}.
        pictures: {modality: whether its frames are resized to `size`}; spectrograms stay as they are.
        trunk, stem_rule, width: of every modality's network, see :class:`FrameTrunk`.
        size: height and width of pictures.
        frame_step: every n-th frame of a segment is looked at; of sound only the middle one.
        hidden: width of the two layers over all modalities.
        memory: width of the LSTM; 0: none, the heads look at the joint features (no causality).
        feedback: what the LSTM is told of the segment before: raw `logits` (as released), the `decision`, or `none`
            (the paper's formula).
        temperature, decay: of Gumbel-softmax: t * decay ** n after n rounds of training.
        eval_policy: `argmax`, or `sample` with draws keyed by seed and video (as released, where nothing seeds them).
        bn_per_segment: batch norms see one segment of each video at a time in training, as released.
        seed: of the run.

    Raises:
        ValueError: an option is unknown.
    """

    def __init__(
        self,
        looks_at: Mapping[str, str],
        channels: Mapping[str, int],
        pictures: Mapping[str, bool],
        trunk: str = "mobilenet_v2",
        stem_rule: str = "mean",
        width: int = 8,
        size: int = 160,
        frame_step: int = 2,
        hidden: int = 2048,
        memory: int = 256,
        feedback: str = "logits",
        temperature: float = 5.0,
        decay: float = 0.965,
        eval_policy: str = "argmax",
        bn_per_segment: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, known in (("feedback", feedback, FEEDBACK), ("eval_policy", eval_policy, EVALUATION)):
            if value not in known:
                raise ValueError(f"{name}={value} is unknown: use one of {', '.join(known)}")
        self.looks_at, self.pictures = dict(looks_at), dict(pictures)
        self.size, self.frame_step, self.memory, self.feedback = size, frame_step, memory, feedback
        self.temperature, self.decay, self.eval_policy = temperature, decay, eval_policy
        self.bn_per_segment, self.seed = bn_per_segment, seed
        self.options = {
            **{"trunk": trunk, "stem_rule": stem_rule, "width": width, "size": size, "frame_step": frame_step},
            **{"hidden": hidden, "memory": memory, "feedback": feedback, "temperature": temperature, "decay": decay},
            **{"eval_policy": eval_policy, "bn_per_segment": bn_per_segment, "seed": seed},
        }
        self.channels = dict(channels)
        modalities = list(dict.fromkeys(self.looks_at.values()))
        self.trunks = nn.ModuleDict({m: FrameTrunk(channels[m], trunk, stem_rule, width) for m in modalities})
        joined = sum(one.feature_dim for one in self.trunks.values())  # type: ignore[misc]
        self.joint = nn.Sequential(nn.Linear(joined, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        fed_back = 0 if feedback == "none" else 2 * len(self.looks_at)
        self.lstm = nn.LSTMCell(hidden + fed_back, memory) if memory else None
        self.heads = nn.ModuleDict({peer: nn.Linear(memory or hidden, 2) for peer in self.looks_at})

    @property
    def seen_through(self) -> dict[str, str]:
        return dict(self.looks_at)

    @property
    def arch(self) -> dict[str, Any]:
        """Plain values from which the same policy is made again with fresh weights: the arguments."""
        named = {"looks_at": {**self.looks_at}, "channels": {**self.channels}, "pictures": {**self.pictures}}
        return {**named, **self.options}

    def temperature_at(self, rounds: int) -> float:
        """Of Gumbel-softmax after so many alternating epochs; it is told by their number alone, so that nothing of it
        has to be kept in a checkpoint."""
        return float(self.temperature * self.decay**rounds)

    def forward(self, look: Look) -> dict[str, Tensor]:
        """{peer: [B, V]}, 0 or 1; in training with the gradient of the soft decision."""
        _, decisions = self.decide(look)
        return {peer: decisions[:, :, n, USE] for n, peer in enumerate(self.looks_at)}

    def decide(self, look: Look) -> tuple[Tensor, Tensor]:
        """Logits and one-hot decisions [B, V, M, 2]: skip and use of each peer, in the order of `looks_at`."""
        features = self.features(look)
        noise = None
        if look.epoch is None and self.eval_policy == "sample":
            noise = self._noise(look.ids, look.views, features)
        said, decided, state = [], [], None
        back = features.new_zeros(len(features), 0 if self.feedback == "none" else 2 * len(self.looks_at))
        for segment in range(look.views):
            now = features[:, segment]
            if self.lstm is not None:
                state = self.lstm(torch.cat([now, back], dim=1), state)
                now = state[0]
            logits = torch.stack([head(now) for head in self.heads.values()], dim=-2)
            said.append(logits)
            if look.epoch is not None:
                decided.append(gumbel(logits, self.temperature_at(look.rounds)))
            else:
                noisy = logits if noise is None else logits + noise[:, segment]
                decided.append(F.one_hot(noisy.argmax(-1), 2).to(logits))
            if self.feedback != "none":
                back = (logits if self.feedback == "logits" else decided[-1]).flatten(1)
        return torch.stack(said, dim=1), torch.stack(decided, dim=1)

    def _noise(self, ids: Sequence[str], views: int, like: Tensor) -> Tensor:
        """Gumbel noise [B, V, M, 2] keyed by seed, video and peer: neither the order of videos nor the size of a batch
        matters."""
        drawn = np.stack(
            [np.stack([self._draws(video, peer, views) for peer in self.looks_at], axis=1) for video in ids]
        )
        return torch.from_numpy(drawn).to(like)

    def _draws(self, video: str, peer: str, views: int) -> np.ndarray:
        return keyed_generator(self.seed, "evaluation", video, peer, "policy").gumbel(size=(views, 2))

    def features(self, look: Look) -> Tensor:
        """[B, V, hidden] of all modalities together; those that a video lacks are 0."""
        parts = []
        for modality, trunk in self.trunks.items():
            rows = self._present(modality, look).nonzero().squeeze(1)
            clip = look.clips[modality]
            found = clip.new_zeros(*clip.shape[:2], int(trunk.feature_dim))  # type: ignore[arg-type]
            if len(rows):
                looked = self.reduced(modality, clip[rows])
                found = found.index_copy(0, rows, self._of_trunk(trunk, looked).to(found))
            parts.append(found)
        joined: Tensor = self.joint(torch.cat(parts, dim=-1))
        return joined

    def _present(self, modality: str, look: Look) -> Tensor:
        return torch.stack([look.present[peer] for peer, own in self.looks_at.items() if own == modality]).any(dim=0)

    def _of_trunk(self, trunk: nn.Module, clip: Tensor) -> Tensor:
        """[n, V, T, C, H, W] -> [n, V, D]"""
        if trunk.training and self.bn_per_segment:
            return torch.stack([trunk(clip[:, segment]) for segment in range(clip.shape[1])], dim=1)
        whole: Tensor = trunk(clip.flatten(0, 1)).unflatten(0, clip.shape[:2])
        return whole

    def reduced(self, modality: str, clip: Tensor) -> Tensor:
        """What is looked at of a clip [n, V, T, C, H, W]: every `frame_step`-th frame at `size` px; the spectrogram in
        the middle."""
        if not self.pictures[modality]:
            middle = max(0, clip.shape[2] // 2 - 1)
            return clip[:, :, middle : middle + 1]
        clip = clip[:, :, :: self.frame_step]
        if clip.shape[-2:] == (self.size, self.size):
            return clip
        small = F.interpolate(clip.flatten(0, 2), (self.size, self.size), mode="bilinear", align_corners=False)
        return small.unflatten(0, clip.shape[:3])


def gumbel(logits: Tensor, temperature: float) -> Tensor:
    """A one-hot draw [.., 2] from softmax(logits), with the gradient of softmax((logits + noise) / temperature)."""
    noisy = logits - torch.empty_like(logits).exponential_().log()
    soft = (noisy / temperature).softmax(-1)
    hard = F.one_hot(noisy.argmax(-1), logits.shape[-1]).to(soft)
    return hard + (soft - soft.detach())  # the bracket is exactly 0: values stay 0 and 1
