"""Policy ``code``: the published program of MML (a descendant of TSM), draw for draw with all its fallbacks.

Legend: N segments, L items per window, T items of one modality, V clips. Indices count from 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mml_lightning.sampling.draws import Indices, Rng, integers


def train(
    counts: Mapping[str, int], windows: Mapping[str, int], num_segments: int, dense: bool, dense_length: int, rng: Rng
) -> dict[str, Indices]:
    """Starts [N] per modality: drawn on the shortest (the first of several), then each moved by a draw of its own.

    Raises:
        ValueError: a video that the program rejects.
    """
    smallest = min(counts, key=lambda name: counts[name])
    count = counts[smallest]
    if dense:
        starts = dense_clip(count, num_segments, dense_length, rng)
    else:
        starts = uniform_clip(count, windows[smallest], num_segments, rng)
    return {name: starts + integers(rng, total - count + 1) for name, total in counts.items()}


def uniform_clip(count: int, window: int, num_segments: int, rng: Rng) -> Indices:
    """One draw in each of N equal parts of whole width, the tail left out; fallbacks for short videos; [N].

    Raises:
        ValueError: more items than segments, yet fewer than the window.
    """
    places = count - window + 1
    width = places // num_segments
    if width > 0:
        return np.arange(num_segments, dtype=np.int64) * width + integers(rng, width, num_segments)
    if count <= num_segments:
        return np.zeros(num_segments, dtype=np.int64)
    if places < 1:
        raise ValueError(f"policy='code' cannot draw windows of {window} from {count} items: use policy='fixed'")
    return np.sort(integers(rng, places, num_segments))


def dense_clip(count: int, num_segments: int, dense_length: int, rng: Rng) -> Indices:
    """A dense clip [N] from a random start, wrapped around the end of a short video."""
    span = max(1, 1 + count - dense_length)
    # The upper bound leaves out the last legal start, as published.
    first = integers(rng, span - 1) if span > 1 else 0
    return (first + np.arange(num_segments, dtype=np.int64) * (dense_length // num_segments)) % count


def test(count: int, window: int, num_segments: int, uniform: int, dense: int, dense_length: int) -> Indices:
    """Starts [V, N] of the dense clips, then of up to two uniform ones, the half-shifted first."""
    span = max(1, 1 + count - dense_length)
    first = np.array([(span - 1) // 2]) if dense == 1 else np.linspace(0, span - 1, dense).astype(np.int64)
    steps = np.arange(num_segments, dtype=np.int64)
    tick = (count - window + 1) / num_segments
    # Floats and truncation towards zero on purpose: the published rounding is part of the reference.
    clips = [tick / 2.0 + tick * steps, tick * steps][:uniform]
    placed = np.array(clips, dtype=np.float64).reshape(uniform, num_segments)
    return np.concatenate([(first[:, None] + steps * (dense_length // num_segments)) % count, placed.astype(np.int64)])


def validation(count: int, window: int, num_segments: int) -> Indices:
    """Starts [V=1, N]: the uniform test clip, but the first item throughout where T < N + L."""
    if count > num_segments + window - 1:
        return test(count, window, num_segments, 1, 0, num_segments)
    return np.zeros((1, num_segments), dtype=np.int64)
