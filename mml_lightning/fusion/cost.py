"""What a video costs where peers are skipped: multiply-adds of convolutions per segment, and the published formula.

    GFLOPs per video = S * [sum over peers (main * rate + policy) + lstm] / 1e9

Source: Panda et al., "AdaMML", ICCV 2021, its released constants and tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

PUBLISHED_MAIN = {"rgb": 14_135_984_128, "flow": 16_338_911_232, "audio": 381_739_008}
"""Multiply-adds per segment: ResNet-50 on 8 frames of 224 px, pooled along time; MobileNetV2 on 256 x 256."""

PUBLISHED_POLICY = {"rgb": 375_446_400, "audio": 381_739_008, "rgbdiff": 909_283_200, "flow": 909_283_200}
"""Of the policy, as charged: that of `rgbdiff` is of 224 px although 160 are used, and `flow` is charged the same."""

TRUE_POLICY = {**PUBLISHED_POLICY, "rgbdiff": 463_920_000}
PUBLISHED_LSTM = 2_359_296


def gflops(
    segments: int,
    rates: Mapping[str, float],
    main: Mapping[str, float],
    policy: Mapping[str, float] | None = None,
    lstm: float = 0.0,
) -> float:
    """Multiply-adds of a video, in 1e9.

    Args:
        segments: S.
        rates: {peer: share of the segments in which it is used}.
        main: {peer: multiply-adds of a segment}.
        policy: {modality that the policy looks at: multiply-adds of a segment}; None without a policy.
        lstm: of whatever stands behind the policy's networks, per segment.
    """
    used = sum(main[peer] * rate for peer, rate in rates.items())
    decided = sum(policy.values()) + lstm if policy else 0.0
    return segments * (used + decided) / 1e9


def published_gflops(segments: int, rates: Mapping[str, float], looks_at: Mapping[str, str] | None = None) -> float:
    """The same with the published constants.

    Args:
        looks_at: {peer: modality that the policy sees of it}; None without a policy.

    Raises:
        ValueError: nothing is published of a modality.
    """
    unknown = [m for m in rates if m not in PUBLISHED_MAIN]
    unknown += [m for m in (looks_at or {}).values() if m not in PUBLISHED_POLICY]
    if unknown:
        raise ValueError(f"no cost of {unknown[0]} is published: use the measured one")
    policy = {peer: PUBLISHED_POLICY[m] for peer, m in looks_at.items()} if looks_at else None
    return gflops(segments, rates, PUBLISHED_MAIN, policy, PUBLISHED_LSTM)


def stft_operations(n_fft: int, columns: int, mels: int = 0) -> int:
    """Multiply-adds of a log-power spectrogram, by formula: a real transform of n points per column, n/2 * log2(n), two
    per bin for the power, and the bank where there is one.

    Args:
        n_fft: n. columns: T. mels: rows of the bank; 0: none.
    """
    bins = n_fft // 2 + 1
    return round(columns * (n_fft / 2 * math.log2(n_fft) + 2 * bins + mels * bins))
