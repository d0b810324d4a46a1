"""Several segments of a video: what a network says of each, and of the video.

Legend: B videos, V segments (clips, views) of each, T' steps of a feature map, D channels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mml_lightning.backbones.peer import Peer, PeerOutput


def forward(peer: Peer, clips: Tensor, views: int, one_by_one: bool) -> PeerOutput:
    """What a peer says of prepared clips [B * V, T, C, H, W], segment by segment: everything [B, V, ..].

    Args:
        one_by_one: in V forward passes, so that batch norms see one segment of every video at a time.
    """
    if not one_by_one or views == 1:
        return apart(peer.project(peer(clips)), views)
    each = [peer.project(peer(one)) for one in clips.unflatten(0, (-1, views)).unbind(1)]
    fields = zip(*each, strict=True)
    return PeerOutput(*({key: torch.stack([one[key] for one in own], 1) for key in own[0]} for own in fields))


def apart(output: PeerOutput, views: int) -> PeerOutput:
    """What a peer says of B * V clips, video by video: everything [B * V, ..] becomes [B, V, ..]."""
    return PeerOutput(*({key: value.unflatten(0, (-1, views)) for key, value in one.items()} for one in output))


def joined(outputs: Sequence[PeerOutput]) -> PeerOutput:
    """What a peer says of several batches, as of one."""
    first = outputs[0]
    return PeerOutput(
        {head: torch.cat([one.logits[head] for one in outputs]) for head in first.logits},
        {key: torch.cat([one.features[key] for one in outputs]) for key in first.features},
    )


def of_video(output: PeerOutput) -> PeerOutput:
    """What a peer says of its videos from what it says of their segments: the mean of the logits [B, V, K] and of
    pooled features [B, V, D]; feature maps [B, V, T', D, h, w] one after the other, [B, V * T', D, h, w]."""
    return PeerOutput(
        {head: _mean(logits) for head, logits in output.logits.items()},
        {key: _mean(value) if value.ndim == 3 else value.flatten(1, 2) for key, value in output.features.items()},
    )


def _mean(value: Tensor) -> Tensor:
    return value.squeeze(1) if value.shape[1] == 1 else value.mean(dim=1)
