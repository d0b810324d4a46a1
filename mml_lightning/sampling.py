"""Temporal sampling: which source items of a video a network looks at.

Shapes: V clips of one video, N segments per clip, L items per window (rgb 1, flow 5, rgbdiff 6), T items of one
modality in one video. Indices count from 0. A *start* is the first item of a window, see :func:`window_indices`.

Every function is pure: its result depends on its arguments and on the state of the generator it is given, either a
``np.random.Generator`` or a legacy ``np.random.RandomState``. The three policies:

``fixed`` (default)
    Our rules. All modalities share one draw of relative positions, each laid out over its own legal starts 0 .. T - L,
    all of which training can reach. What a modality sees does not depend on the ones beside it, so a network is
    trained, measured and shipped on the same frames whoever taught it. Flow item i is the frame pair (i, i + 1); the
    RGB frame of a segment is always among the frames of its flow or difference window. Clips are monotonic; videos that
    are too short repeat items evenly. Nothing depends on the order of modalities.
``paper``
    The formulas printed in the MML paper (Computer Optics 47(4), 2023; sections 2.3, 3.1.1, appendix 1). The paper
    counts T without regard to L, so a window may pass the end of the video, where it repeats the last item. Our choices
    where the paper is silent or cannot be taken literally:

    - training, uniform: item j is floor((j + u_j) T / N) with u_j uniform in [0, 1): N equal parts, one item of each.
    - training, dense: with x = max(1, dense_length // N) and T' = T - x (N - 1), the start is uniform in 0 .. T' - 1.
      The paper requires x < T / (N - 1); a longer x shrinks to the whole video.
    - training, several modalities: drawn on the shortest one, then moved by unif{0 .. T_m - T_min}. The paper states
      this for two modalities; with more, one number u gives every offset floor(u (T_m - T_min + 1)), so modalities of
      equal length stay aligned.
    - testing: each modality on its own T. Uniform clip i of m is floor((j + i / m) T / N), unshifted clip first; a
      single clip is thus unshifted. Dense clip i of k starts at floor(i T' / (k - 1)); the last would end one item past
      the video and is moved back to T' - 1. A single dense clip starts at floor(T' / 2).
    - validation: one uniform clip.
``code``
    The published program, draw for draw (give it a ``RandomState``), with all its fallbacks: the tail of a video is
    never drawn, the last dense start neither, dense clips wrap around short videos, modalities are offset independently
    of each other. Here the order of ``counts`` matters; it is the order of modalities on the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Policy = Literal["code", "paper", "fixed"]
Mode = Literal["uniform", "dense", "random"]
Rng = np.random.RandomState | np.random.Generator
Indices = npt.NDArray[np.int64]


def train_starts(
    counts: Mapping[str, int],
    windows: Mapping[str, int],
    *,
    num_segments: int,
    mode: Mode,
    dense_length: int = 32,
    policy: Policy = "fixed",
    rng: Rng,
) -> dict[str, Indices]:
    """Draw the window starts of one training clip.

    Args:
        counts: items per modality, T.
        windows: items per window and modality, L.
        num_segments: N.
        mode: ``uniform`` over the video, ``dense`` (stride ``dense_length // N``), or ``random``: one of them by a fair
            coin.
        dense_length: items spanned by a dense clip.
        policy: see the module.
        rng: source of randomness.

    Returns:
        int64 [N] per modality.

    Raises:
        ValueError: an argument is out of range, or ``policy='code'`` meets a video the published program rejects.
    """
    _check(counts, windows, num_segments, dense_length, policy)
    if mode not in get_args(Mode):
        raise ValueError(f"unknown mode {mode!r}: use one of {', '.join(get_args(Mode))}")
    dense = mode == "dense" or (mode == "random" and _integers(rng, 2) == 0)
    if policy == "code":
        return _train_code(counts, windows, num_segments, dense, dense_length, rng)
    if policy == "fixed":
        return _train_fixed(_fitting(counts, windows), num_segments, dense, dense_length, rng)
    shortest = min(counts.values())
    starts = _train_fixed({"shortest": shortest}, num_segments, dense, dense_length, rng)["shortest"]
    share = _uniform(rng, 1)[0]
    return {name: starts + int(share * (count - shortest + 1)) for name, count in counts.items()}


def test_starts(
    counts: Mapping[str, int],
    windows: Mapping[str, int],
    *,
    num_segments: int,
    uniform: int = 1,
    dense: int = 0,
    dense_length: int = 32,
    policy: Policy = "fixed",
) -> dict[str, Indices]:
    """Place the window starts of all test clips of one video; nothing is random.

    Args:
        uniform: number of uniform clips. ``code`` and ``fixed`` place a single one half a segment late; of two the late
            one comes first. ``code`` knows no more than two.
        dense: number of dense clips; they come before the uniform ones.
        counts, windows, num_segments, dense_length, policy: as for :func:`train_starts`.

    Returns:
        int64 [V, N] per modality, V = dense + uniform. With ``policy='code'`` a video shorter than its window can give
        negative starts, as in the published program; :func:`window_indices` clamps them.

    Raises:
        ValueError: an argument is out of range.
    """
    _check(counts, windows, num_segments, dense_length, policy)
    if uniform < 0 or dense < 0 or uniform + dense < 1:
        raise ValueError(f"uniform={uniform}, dense={dense}: ask for at least one clip, and for no negative number")
    if policy == "code":
        if uniform > 2:
            raise ValueError(f"policy='code' has at most 2 uniform clips, not {uniform}: use policy='fixed' or 'paper'")
        return {
            name: _test_code(count, windows[name], num_segments, uniform, dense, dense_length)
            for name, count in counts.items()
        }
    if policy == "paper":
        return {name: _test_paper(count, num_segments, uniform, dense, dense_length) for name, count in counts.items()}
    return {
        name: _test_fixed(items, num_segments, uniform, dense, dense_length)
        for name, items in _fitting(counts, windows).items()
    }


def val_starts(
    counts: Mapping[str, int],
    windows: Mapping[str, int],
    *,
    num_segments: int,
    mode: Mode = "uniform",
    dense_length: int = 32,
    policy: Policy = "fixed",
    rng: Rng | None = None,
) -> dict[str, Indices]:
    """Place the window starts of the validation clip used during training.

    ``fixed`` and ``paper`` take one uniform test clip whatever ``mode`` is. ``code`` validates each modality by itself:
    as in testing, but on the first item only when T < N + L; and with ``mode='dense'`` on a *random* dense clip, as in
    training (``random`` counts as uniform there).

    Args:
        rng: needed by ``policy='code'`` with ``mode='dense'`` only; drawn from once per modality.
        counts, windows, num_segments, mode, dense_length, policy: as for :func:`train_starts`.

    Returns:
        int64 [V=1, N] per modality.

    Raises:
        ValueError: an argument is out of range, or ``rng`` is missing.
    """
    _check(counts, windows, num_segments, dense_length, policy)
    if mode not in get_args(Mode):
        raise ValueError(f"unknown mode {mode!r}: use one of {', '.join(get_args(Mode))}")
    if policy != "code":
        return test_starts(counts, windows, num_segments=num_segments, policy=policy)
    if mode == "dense":
        if rng is None:
            raise ValueError("policy='code' validates dense clips at random: pass rng, or use policy='fixed'")
        return {name: _dense_code(count, num_segments, dense_length, rng)[None] for name, count in counts.items()}
    return {
        name: _test_code(count, windows[name], num_segments, 1, 0, dense_length)
        if count > num_segments + windows[name] - 1
        else np.zeros((1, num_segments), dtype=np.int64)
        for name, count in counts.items()
    }


def window_indices(starts: npt.ArrayLike, window: int, count: int) -> Indices:
    """Expand window starts [..., N] into the items to read, int64 [..., N, L].

    Items are consecutive and clamped to 0 .. count - 1; a window that passes the end of the video repeats the last one.

    Raises:
        ValueError: ``window`` or ``count`` is below 1.
    """
    if window < 1 or count < 1:
        raise ValueError(f"window={window}, count={count}: both must be at least 1; drop videos without items")
    first = np.asarray(starts, dtype=np.int64)[..., None]
    return np.clip(first + np.arange(window, dtype=np.int64), 0, count - 1)


def _check(
    counts: Mapping[str, int], windows: Mapping[str, int], num_segments: int, dense_length: int, policy: str
) -> None:
    if not counts:
        raise ValueError("counts is empty: give the number of items of at least one modality")
    for name, count in counts.items():
        if name not in windows:
            raise ValueError(f"no window for modality {name!r}: add it to windows (has {', '.join(windows) or 'none'})")
        if windows[name] < 1:
            raise ValueError(f"window of {name!r} is {windows[name]}: it must be at least 1")
        if count < 1:
            raise ValueError(f"modality {name!r} has {count} items: drop this video from the list")
    if num_segments < 1:
        raise ValueError(f"num_segments is {num_segments}: it must be at least 1")
    if dense_length < 1:
        raise ValueError(f"dense_length is {dense_length}: it must be at least 1")
    if policy not in get_args(Policy):
        raise ValueError(f"unknown policy {policy!r}: use one of {', '.join(get_args(Policy))}")


def _integers(rng: Rng, high: int, size: int | None = None) -> Indices:
    """Uniform int64 in [0, high), scalar or [size]."""
    if isinstance(rng, np.random.Generator):
        return np.asarray(rng.integers(high, size=size, dtype=np.int64))
    if isinstance(rng, np.random.RandomState):
        return np.asarray(rng.randint(high, size=size, dtype=np.int64))
    raise ValueError(f"rng is a {type(rng).__name__}: pass np.random.default_rng(seed) or np.random.RandomState(seed)")


def _uniform(rng: Rng, size: int) -> npt.NDArray[np.float64]:
    """Uniform float64 [size] in [0, 1)."""
    if isinstance(rng, np.random.Generator | np.random.RandomState):
        return rng.random(size)
    raise ValueError(f"rng is a {type(rng).__name__}: pass np.random.default_rng(seed) or np.random.RandomState(seed)")


def _fitting(counts: Mapping[str, int], windows: Mapping[str, int]) -> dict[str, int]:
    """Number of starts at which the window of each modality fits; 1 where it never does."""
    return {name: max(1, count - windows[name] + 1) for name, count in counts.items()}


def _train_fixed(
    items: Mapping[str, int], num_segments: int, dense: bool, dense_length: int, rng: Rng
) -> dict[str, Indices]:
    """One draw of relative positions, laid out over the starts of each modality.

    What a modality sees therefore does not depend on the ones beside it: an RGB network is trained and shipped on the
    same frames. The start of a wider window lies at most its width before that of a narrow one, so the RGB frame of a
    segment is always among the frames of its flow window.
    """
    if dense:
        clips = {name: _dense_clip(count, num_segments, dense_length) for name, count in items.items()}
        widest = max(free for _, free in clips.values())
        place = int(_integers(rng, widest))
        return {
            name: offsets + (place * (free - 1) // (widest - 1) if widest > 1 else 0)
            for name, (offsets, free) in clips.items()
        }
    parts = np.arange(num_segments) + _uniform(rng, num_segments)
    # Rounding of the product can reach the next integer, which for the last part is outside of the video.
    return {
        name: np.minimum((parts * count / num_segments).astype(np.int64), count - 1) for name, count in items.items()
    }


def _dense_clip(items: int, num_segments: int, dense_length: int) -> tuple[Indices, int]:
    """Offsets [N] of a dense clip from its first item, and at how many places the clip fits into ``items``.

    A clip that fits nowhere is shrunk evenly to span all items, which leaves it one place.
    """
    steps = np.arange(num_segments, dtype=np.int64)
    stride = max(1, dense_length // num_segments)
    span = stride * (num_segments - 1)
    if span < items:
        return steps * stride, items - span
    return steps * (items - 1) // (num_segments - 1), 1


def _test_paper(items: int, num_segments: int, uniform: int, dense: int, dense_length: int) -> Indices:
    offsets, free = _dense_clip(items, num_segments, dense_length)
    first = np.array([free // 2]) if dense == 1 else np.arange(dense) * free // max(dense - 1, 1)
    first = np.minimum(first, free - 1)
    return np.concatenate([first[:, None] + offsets, _uniform_clips(items, num_segments, uniform, range(uniform))])


def _test_fixed(items: int, num_segments: int, uniform: int, dense: int, dense_length: int) -> Indices:
    offsets, free = _dense_clip(items, num_segments, dense_length)
    first = np.array([(free - 1) // 2]) if dense == 1 else np.arange(dense) * (free - 1) // max(dense - 1, 1)
    # One clip sits in the middle of its segments; several spread over them, the latest first as in the reference.
    parts, shifts = (2, range(1, 2)) if uniform == 1 else (uniform, range(uniform - 1, -1, -1))
    return np.concatenate([first[:, None] + offsets, _uniform_clips(items, num_segments, parts, shifts)])


def _uniform_clips(items: int, num_segments: int, parts: int, shifts: range) -> Indices:
    """floor((j + shift / parts) items / N) for every shift, [len(shifts), N], in exact integer arithmetic."""
    steps = np.arange(num_segments, dtype=np.int64) * parts
    late = np.asarray(shifts, dtype=np.int64)[:, None]
    return (steps + late) * items // (num_segments * max(parts, 1))


def _train_code(
    counts: Mapping[str, int], windows: Mapping[str, int], num_segments: int, dense: bool, dense_length: int, rng: Rng
) -> dict[str, Indices]:
    smallest = min(counts, key=lambda name: counts[name])
    count = counts[smallest]
    if dense:
        starts = _dense_code(count, num_segments, dense_length, rng)
    else:
        starts = _uniform_code(count, windows[smallest], num_segments, rng)
    return {name: starts + _integers(rng, total - count + 1) for name, total in counts.items()}


def _uniform_code(count: int, window: int, num_segments: int, rng: Rng) -> Indices:
    places = count - window + 1
    width = places // num_segments
    if width > 0:
        return np.arange(num_segments, dtype=np.int64) * width + _integers(rng, width, num_segments)
    if count <= num_segments:
        return np.zeros(num_segments, dtype=np.int64)
    if places < 1:
        raise ValueError(f"policy='code' cannot draw windows of {window} from {count} items: use policy='fixed'")
    return np.sort(_integers(rng, places, num_segments))


def _dense_code(count: int, num_segments: int, dense_length: int, rng: Rng) -> Indices:
    span = max(1, 1 + count - dense_length)
    # The upper bound leaves out the last legal start, as published.
    first = _integers(rng, span - 1) if span > 1 else 0
    return (first + np.arange(num_segments, dtype=np.int64) * (dense_length // num_segments)) % count


def _test_code(count: int, window: int, num_segments: int, uniform: int, dense: int, dense_length: int) -> Indices:
    span = max(1, 1 + count - dense_length)
    first = np.array([(span - 1) // 2]) if dense == 1 else np.linspace(0, span - 1, dense).astype(np.int64)
    steps = np.arange(num_segments, dtype=np.int64)
    tick = (count - window + 1) / num_segments
    # Floats and truncation towards zero on purpose: the published rounding is part of the reference.
    clips = [tick / 2.0 + tick * steps, tick * steps][:uniform]
    placed = np.array(clips, dtype=np.float64).reshape(uniform, num_segments)
    return np.concatenate([(first[:, None] + steps * (dense_length // num_segments)) % count, placed.astype(np.int64)])
