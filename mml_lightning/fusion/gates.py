"""Gates: which peer is used in which segment of a video. Legend: B videos, V segments.

A gate is a module or a rule, called with what it may look at, a :class:`Look`. Where a video lacks a modality, its gate
is closed whatever this one says.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Look(NamedTuple):
    """What a gate may look at.

    Attributes:
        clips: {modality: prepared clips [B, V, T, ...]}, of gates that take them.
        present: {peer: [B] bool}: whether the video has its modality.
        ids: of the videos.
        views: V.
        epoch: of training; None in evaluation.
        rounds: epochs that the gate has been trained for before this one.
    """

    clips: Mapping[str, Tensor]
    present: Mapping[str, Tensor]
    ids: Sequence[str]
    views: int
    epoch: int | None
    rounds: int = 0


class Gate(nn.Module, ABC):
    """Which peers are used. Those with parameters are trained as the part `gate` of a stage."""

    takes_clips = True
    skips = False
    """Whether peers are computed in evaluation only where it is open."""

    @property
    def seen_through(self) -> dict[str, str]:
        """{peer: modality that the decision about it is made from}; of those that it lacks, their own."""
        return {}

    def optimiser_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Of all that learns, one group."""
        learn = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [{"name": "weights", "params": learn, "lr": lr, "weight_decay": weight_decay}] if learn else []

    @abstractmethod
    def forward(self, look: Look) -> dict[str, Tensor]:
        """{peer: [B, V], from 0 to 1}"""


class RandomGate(Gate):
    """Each peer is used in a segment with probability 1 - `threshold`. The draws are keyed by video and epoch, those of
    evaluation by the video alone: they depend neither on the other videos of a batch nor on the other peers.

    Args:
        peers: names.
        threshold: 0 uses all, 1 none.
        joint: one draw for all peers of a segment.
        seed: of the run.
    """

    takes_clips = False

    def __init__(self, peers: Sequence[str], threshold: float = 0.5, joint: bool = False, seed: int = 0) -> None:
        super().__init__()
        self.peers, self.threshold, self.joint, self.seed = tuple(peers), threshold, joint, seed

    def forward(self, look: Look) -> dict[str, Tensor]:
        device = next(iter(look.present.values())).device
        chosen = {}
        for peer in self.peers:
            who = "" if self.joint else peer
            drawn = [self._draws(look.epoch, video, who, look.views) for video in look.ids]
            chosen[peer] = torch.from_numpy(np.stack(drawn) >= self.threshold).float().to(device)
        return chosen

    def _draws(self, epoch: int | None, video: str, peer: str, views: int) -> np.ndarray:
        when = "evaluation" if epoch is None else epoch
        return keyed_generator(self.seed, when, video, peer, "gate").random(views)


def keyed_generator(*key: object) -> np.random.Generator:
    """Random numbers that hang on plain values alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
