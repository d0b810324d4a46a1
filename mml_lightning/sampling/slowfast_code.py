"""Strided clips as PySlowFast takes them: N items, ``stride`` apart, edges repeated where a video is too short.

Legend: N segments, T items of one modality, V clips; a clip spans (N - 1) stride + 1 items. Indices count from 0.

The program knows one modality of single frames. With several, one number in [0, 1) places all of them. What a window
reads beyond its start is not counted, as in the other published rules. Only the law of its draws is reproduced: the
program takes them from a generator that nobody seeds.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mml_lightning.sampling.draws import Indices, Rng, shares


def train(counts: Mapping[str, int], num_segments: int, stride: int, rng: Rng) -> dict[str, Indices]:
    """Starts [N] per modality: the first uniform in 0 .. T - span, or in T - span .. 0 where the clip does not fit."""
    share = shares(rng, 1)[0]
    starts = {}
    for name, count in counts.items():
        free = count - span(num_segments, stride)
        first = min(free, 0) + int(share * (abs(free) + 1))
        starts[name] = _clip(np.array([first]), count, num_segments, stride)[0]
    return starts


def test(count: int, num_segments: int, stride: int, clips: int) -> Indices:
    """Starts [V, N]: clip i of V begins at i (T - span) / (V - 1), halves rounded to even.

    The program divides by zero for a single clip; ours lies in the centre.
    """
    free = max(count - span(num_segments, stride), 0)
    # Python's rounding of the float quotient is that of the program.
    first = [round(free / 2)] if clips == 1 else [round(i * free / (clips - 1)) for i in range(clips)]
    return _clip(np.array(first, dtype=np.int64), count, num_segments, stride)


def span(num_segments: int, stride: int) -> int:
    """Items from the first to the last of a clip, both included."""
    return (num_segments - 1) * stride + 1


def _clip(first: Indices, count: int, num_segments: int, stride: int) -> Indices:
    return np.clip(first[:, None] + np.arange(num_segments, dtype=np.int64) * stride, 0, count - 1)
