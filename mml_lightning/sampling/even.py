"""Policies ``fixed`` and ``paper``: clips that fit into the video, in exact integer arithmetic.

Legend: N segments, V clips; *items* are the places a start may take (T - L + 1 for ``fixed``, T for ``paper``).
A *run* of N starts, ``stride`` apart, is what dense and strided clips have in common.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mml_lightning.sampling.draws import Indices, Rng, integers, part, shares


def train(items: Mapping[str, int], num_segments: int, stride: int | None, rng: Rng) -> dict[str, Indices]:
    """One draw of relative positions, laid out over the starts of each modality; [N] each.

    What a modality sees does not depend on the ones beside it, whichever they are: numbers in [0, 1) are drawn, as many
    in any company, and each modality takes them as shares of its own range. The start of a wider window lies at most
    its width before that of a narrow one, so the RGB frame of a segment is always among the frames of its flow window.

    Args:
        stride: of a run; None draws one start in each of N equal parts.
    """
    if stride is not None:
        share = float(shares(rng, 1)[0])
        runs = {name: run(count, num_segments, stride) for name, count in items.items()}
        return {name: offsets + part(share, free) for name, (offsets, free) in runs.items()}
    parts = np.arange(num_segments) + shares(rng, num_segments)
    # Rounding of the product can reach the next integer, which for the last part is outside of the video.
    return {
        name: np.minimum((parts * count / num_segments).astype(np.int64), count - 1) for name, count in items.items()
    }


def train_as_printed(counts: Mapping[str, int], num_segments: int, stride: int | None, rng: Rng) -> dict[str, Indices]:
    """The draw of the paper: on the shortest modality, then moved by unif{0 .. T_m - T_min}; [N] each."""
    shortest = min(counts.values())
    if stride is None:
        starts = train({"shortest": shortest}, num_segments, None, rng)["shortest"]
    else:
        offsets, free = run(shortest, num_segments, stride)
        starts = offsets + integers(rng, free)
    share = float(shares(rng, 1)[0])
    return {name: starts + part(share, count - shortest + 1) for name, count in counts.items()}


def run(items: int, num_segments: int, stride: int) -> tuple[Indices, int]:
    """Offsets [N] of a run from its first item, and at how many places the run fits into ``items``.

    A run that fits nowhere is shrunk evenly to span all items, which leaves it one place.
    """
    steps = np.arange(num_segments, dtype=np.int64)
    span = stride * (num_segments - 1)
    if span < items:
        return steps * stride, items - span
    return steps * (items - 1) // (num_segments - 1), 1


def runs(items: int, num_segments: int, stride: int, clips: int) -> Indices:
    """Starts [V, N] of evenly spread runs, the first and the last at the ends of the video, a single one centred."""
    offsets, free = run(items, num_segments, stride)
    first = np.array([(free - 1) // 2]) if clips == 1 else np.arange(clips) * (free - 1) // max(clips - 1, 1)
    return np.asarray(first[:, None] + offsets)


def runs_as_printed(items: int, num_segments: int, stride: int, clips: int) -> Indices:
    """Starts [V, N] of the paper's dense clips: i T' / (V - 1), a single one at T' / 2; the last moved back inside."""
    offsets, free = run(items, num_segments, stride)
    first = np.array([free // 2]) if clips == 1 else np.arange(clips) * free // max(clips - 1, 1)
    return np.asarray(np.minimum(first, free - 1)[:, None] + offsets)


def uniform(items: int, num_segments: int, clips: int) -> Indices:
    """Starts [V, N]: one clip sits in the middle of its segments; several spread over them, the latest first."""
    parts, shifts = (2, range(1, 2)) if clips == 1 else (clips, range(clips - 1, -1, -1))
    return _shifted(items, num_segments, parts, shifts)


def uniform_as_printed(items: int, num_segments: int, clips: int) -> Indices:
    """Starts [V, N] of the paper's uniform clips: floor((j + i / V) T / N), the unshifted clip first."""
    return _shifted(items, num_segments, clips, range(clips))


def _shifted(items: int, num_segments: int, parts: int, shifts: range) -> Indices:
    """floor((j + shift / parts) items / N) for every shift, [len(shifts), N]."""
    steps = np.arange(num_segments, dtype=np.int64) * parts
    late = np.asarray(shifts, dtype=np.int64)[:, None]
    return np.asarray((steps + late) * items // (num_segments * max(parts, 1)))
