"""Segments of a video (AdaMML): several clips of N windows, `stride` items apart, spread over the video.

Legend: N windows of a segment, C segments, T items of a modality, L items of a window, M = T - L + 1 starts.

``code`` and ``paper``
    The published program (Panda et al., ICCV 2021). M is that of the widest window, at least 1. A segment takes
    N * stride places, so the last legal start is M - N * stride. In training segment i starts uniformly in the i-th of
    C equal parts, cut down to whole items, of the starts before that; where they have no item each, anywhere before it,
    or at 0. A single segment starts anywhere before it. In testing C starts are evenly spread from 0 to M - N * stride,
    cut down to whole items; a single one starts at 0. Items behind the last are counted on from 0: short videos wrap.
``fixed``
    Ours: each modality on its own M, from one draw of relative places; every start is reached, the last one too, and a
    video that is too short for a segment shrinks it. A single segment of testing lies in the middle.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mml_lightning.sampling import even
from mml_lightning.sampling.draws import Indices, Rng, integers, part, shares


def train(
    items: Mapping[str, int], num_segments: int, stride: int, clips: int, published: bool, rng: Rng
) -> dict[str, Indices]:
    """Starts [C, N] of the segments of a training sample, per modality.

    Args:
        items: M of each modality.
    """
    if published:
        starts = _published(_first(items, num_segments, stride, clips, rng), items, num_segments, stride)
        return dict.fromkeys(items, starts)
    drawn = (np.arange(clips) + shares(rng, clips)) / clips
    found = {}
    for name, count in items.items():
        offsets, free = even.run(count, num_segments, stride)
        first = np.array([part(float(share), free) for share in drawn])
        found[name] = np.minimum(first, free - 1)[:, None] + offsets
    return found


def _first(items: Mapping[str, int], num_segments: int, stride: int, clips: int, rng: Rng) -> Indices:
    last = min(items.values()) - num_segments * stride
    size = last // clips
    if last <= 0:
        return np.zeros(clips, dtype=np.int64)
    if size > 0 and clips > 1:
        return np.arange(clips, dtype=np.int64) * size + integers(rng, size, clips)
    return integers(rng, last, clips)


def test(items: Mapping[str, int], num_segments: int, stride: int, clips: int, published: bool) -> dict[str, Indices]:
    """Starts [C, N] of evenly spread segments, per modality; arguments as of :func:`train`."""
    if not published:
        return {name: even.runs(count, num_segments, stride, clips) for name, count in items.items()}
    last = max(1, 1 + min(items.values()) - num_segments * stride) - 1
    first = np.arange(clips, dtype=np.int64) * last // max(clips - 1, 1)
    return dict.fromkeys(items, _published(first, items, num_segments, stride))


def _published(first: Indices, items: Mapping[str, int], num_segments: int, stride: int) -> Indices:
    return (first[:, None] + np.arange(num_segments, dtype=np.int64) * stride) % min(items.values())
