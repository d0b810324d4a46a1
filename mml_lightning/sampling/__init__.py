"""Temporal sampling: which source items of a video a network looks at.

Shapes: V clips of one video, N segments per clip, L items per window (rgb 1, flow 5, rgbdiff 6), T items of one
modality in one video. Indices count from 0. A *start* is the first item of a window, see :func:`window_indices`.

Every function is pure: its result depends on its arguments and on the state of the generator it is given, either a
``np.random.Generator`` or a legacy ``np.random.RandomState``. The modes of training:

``uniform``  one window in each of N equal parts of the video (TSN).
``dense``    N windows, ``dense_length // N`` apart.
``random``   one of these two by a fair coin (MML).
``strided``  N windows, ``stride`` apart, however long the video is (SlowFast, I3D).
``segments`` several such clips, spread over the video (AdaMML): see :mod:`~mml_lightning.sampling.segments`.

The three policies:

``fixed`` (default, :mod:`~mml_lightning.sampling.even`)
    Our rules. All modalities share one draw of relative positions, each laid out over its own legal starts 0 .. T - L,
    all of which training reaches, a run of windows each with the same probability. What a modality sees does not depend
    on the ones beside it, so a network is trained, measured and shipped on the same frames whoever taught it. Flow item
    i is the frame pair (i, i + 1); the RGB frame of a segment is always among the frames of its flow or difference
    window. Clips are monotonic; videos that are too short repeat items evenly. Nothing depends on the order of
    modalities.
``paper`` (:mod:`~mml_lightning.sampling.even`)
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
    - strided: as ``code``, since the paper refers to that program; but validation is the central clip.
``code`` (:mod:`~mml_lightning.sampling.tsm_code`, :mod:`~mml_lightning.sampling.slowfast_code`)
    The published programs with all their fallbacks; that of MML draw for draw if given a ``RandomState``: the tail of a
    video is never drawn, the last dense start neither, dense clips wrap around short videos, modalities are offset
    independently of each other. Here the order of ``counts`` matters; it is the order of modalities on the command
    line. Strided clips are those of PySlowFast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from mml_lightning.sampling import even, segments, slowfast_code, tsm_code
from mml_lightning.sampling.draws import Indices, Rng, integers

Policy = Literal["code", "paper", "fixed"]
Mode = Literal["uniform", "dense", "random", "strided", "segments"]


def train_starts(
    counts: Mapping[str, int],
    windows: Mapping[str, int],
    *,
    num_segments: int,
    mode: Mode,
    dense_length: int = 32,
    stride: int = 8,
    policy: Policy = "fixed",
    rng: Rng,
) -> dict[str, Indices]:
    """Draw the window starts of one training clip.

    Args:
        counts: items per modality, T.
        windows: items per window and modality, L.
        num_segments: N.
        mode: see the module.
        dense_length: items spanned by a dense clip.
        stride: items from one start of a strided clip to the next.
        policy: see the module.
        rng: source of randomness.

    Returns:
        int64 [N] per modality.

    Raises:
        ValueError: an argument is out of range, or ``policy='code'`` meets a video the published program rejects.
    """
    _check(counts, windows, num_segments, dense_length, stride, policy, mode)
    if mode == "segments":
        raise ValueError("mode='segments' has several clips of a video: use train_segments")
    if mode == "strided":
        if policy == "fixed":
            return even.train(_fitting(counts, windows), num_segments, stride, rng)
        return slowfast_code.train(counts, num_segments, stride, rng)
    dense = mode == "dense" or (mode == "random" and integers(rng, 2) == 0)
    if policy == "code":
        return tsm_code.train(counts, windows, num_segments, dense, dense_length, rng)
    step = _dense_stride(dense_length, num_segments) if dense else None
    if policy == "fixed":
        return even.train(_fitting(counts, windows), num_segments, step, rng)
    return even.train_as_printed(counts, num_segments, step, rng)


def train_segments(
    counts: Mapping[str, int],
    windows: Mapping[str, int],
    *,
    num_segments: int,
    clips: int,
    stride: int = 4,
    policy: Policy = "fixed",
    rng: Rng,
) -> dict[str, Indices]:
    """Draw the window starts of the segments of one video.

    Args:
        clips: number of segments.
        counts, windows, num_segments, stride, policy, rng: as for :func:`train_starts`.

    Returns:
        int64 [clips, N] per modality.

    Raises:
        ValueError: an argument is out of range.
    """
    _check(counts, windows, num_segments, 1, stride, policy, clips=clips)
    return segments.train(_fitting(counts, windows), num_segments, stride, clips, policy != "fixed", rng)


def test_segments(
    counts: Mapping[str, int],
    windows: Mapping[str, int],
    *,
    num_segments: int,
    clips: int,
    stride: int = 4,
    policy: Policy = "fixed",
) -> dict[str, Indices]:
    """Place the segments of validation and testing; nothing is random. Arguments and errors as of
    :func:`train_segments`; int64 [clips, N] per modality."""
    _check(counts, windows, num_segments, 1, stride, policy, clips=clips)
    return segments.test(_fitting(counts, windows), num_segments, stride, clips, policy != "fixed")


def independent(mode: Mode, policy: Policy) -> bool:
    """Whether the training clips of a modality are the same whatever stands beside it: not where the published rules
    draw on the shortest modality and move the others."""
    return policy == "fixed" or mode == "strided"  # segments of `code` begin where the widest window fits


def test_starts(
    counts: Mapping[str, int],
    windows: Mapping[str, int],
    *,
    num_segments: int,
    uniform: int = 1,
    dense: int = 0,
    strided: int = 0,
    dense_length: int = 32,
    stride: int = 8,
    policy: Policy = "fixed",
) -> dict[str, Indices]:
    """Place the window starts of all test clips of one video; nothing is random.

    Args:
        uniform: number of uniform clips. ``code`` and ``fixed`` place a single one half a segment late; of two the late
            one comes first. ``code`` knows no more than two.
        dense: number of dense clips; they come before the uniform ones.
        strided: number of strided clips; they come last.
        counts, windows, num_segments, dense_length, stride, policy: as for :func:`train_starts`.

    Returns:
        int64 [V, N] per modality, V = dense + uniform + strided. With ``policy='code'`` a video shorter than its window
        can give negative starts, as in the published program; :func:`window_indices` clamps them.

    Raises:
        ValueError: an argument is out of range.
    """
    _check(counts, windows, num_segments, dense_length, stride, policy)
    if min(uniform, dense, strided) < 0 or uniform + dense + strided < 1:
        asked = f"uniform={uniform}, dense={dense}, strided={strided}"
        raise ValueError(f"{asked}: ask for at least one clip, and for no negative number")
    if policy == "code" and uniform > 2:
        raise ValueError(f"policy='code' has at most 2 uniform clips, not {uniform}: use policy='fixed' or 'paper'")
    step = _dense_stride(dense_length, num_segments)
    items = _fitting(counts, windows) if policy == "fixed" else counts
    starts = {}
    for name, count in items.items():
        if policy == "code":
            clips = [tsm_code.test(count, windows[name], num_segments, uniform, dense, dense_length)]
        elif policy == "paper":
            clips = [
                even.runs_as_printed(count, num_segments, step, dense),
                even.uniform_as_printed(count, num_segments, uniform),
            ]
        else:
            clips = [even.runs(count, num_segments, step, dense), even.uniform(count, num_segments, uniform)]
        runs = even.runs if policy == "fixed" else slowfast_code.test
        starts[name] = np.concatenate([*clips, runs(count, num_segments, stride, strided)])
    return starts


def val_starts(
    counts: Mapping[str, int],
    windows: Mapping[str, int],
    *,
    num_segments: int,
    mode: Mode = "uniform",
    dense_length: int = 32,
    stride: int = 8,
    policy: Policy = "fixed",
    rng: Rng | None = None,
) -> dict[str, Indices]:
    """Place the window starts of the validation clip used during training.

    ``fixed`` and ``paper`` take one uniform test clip, or the central strided clip with ``mode='strided'``. ``code``
    validates each modality by itself: as in testing, but on the first item only when T < N + L; and with
    ``mode='dense'`` on a *random* dense clip, as in training (``random`` counts as uniform there). A strided clip of
    ``code`` is random too.

    Args:
        rng: needed by ``policy='code'`` with ``mode='dense'`` or ``'strided'`` only; drawn from once per modality.
        counts, windows, num_segments, mode, dense_length, stride, policy: as for :func:`train_starts`.

    Returns:
        int64 [V=1, N] per modality.

    Raises:
        ValueError: an argument is out of range, or ``rng`` is missing.
    """
    _check(counts, windows, num_segments, dense_length, stride, policy, mode)
    if policy != "code":
        clips = {"uniform": 0, "strided": 1, "stride": stride} if mode == "strided" else {}
        return test_starts(counts, windows, num_segments=num_segments, policy=policy, **clips)
    if mode not in ("dense", "strided"):
        return {name: tsm_code.validation(count, windows[name], num_segments) for name, count in counts.items()}
    if rng is None:
        raise ValueError(f"policy='code' validates {mode} clips at random: pass rng, or use policy='fixed'")
    if mode == "strided":
        return {
            name: slowfast_code.train({name: n}, num_segments, stride, rng)[name][None] for name, n in counts.items()
        }
    return {name: tsm_code.dense_clip(n, num_segments, dense_length, rng)[None] for name, n in counts.items()}


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
    counts: Mapping[str, int],
    windows: Mapping[str, int],
    num_segments: int,
    dense_length: int,
    stride: int,
    policy: str,
    mode: str = "uniform",
    clips: int = 1,
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
    numbers = {"num_segments": num_segments, "dense_length": dense_length, "stride": stride, "clips": clips}
    for key, value in numbers.items():
        if value < 1:
            raise ValueError(f"{key} is {value}: it must be at least 1")
    if policy not in get_args(Policy):
        raise ValueError(f"unknown policy {policy!r}: use one of {', '.join(get_args(Policy))}")
    if mode not in get_args(Mode):
        raise ValueError(f"unknown mode {mode!r}: use one of {', '.join(get_args(Mode))}")


def _dense_stride(dense_length: int, num_segments: int) -> int:
    return max(1, dense_length // num_segments)


def _fitting(counts: Mapping[str, int], windows: Mapping[str, int]) -> dict[str, int]:
    """Number of starts at which the window of each modality fits; 1 where it never does."""
    return {name: max(1, count - windows[name] + 1) for name, count in counts.items()}
