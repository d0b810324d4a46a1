"""Learning-rate schedules as pure functions: epoch -> factor on the base rate, for `LambdaLR`.

All share one signature, `(epoch, *, epochs, ..., warmup_epochs, warmup_start) -> float`. `epoch` is 0 at the start of
training and may be fractional, so the same function serves a schedule stepped per epoch or per batch.
Warm-up multiplies the curve by a ramp from `warmup_start` at epoch 0 to 1 at `warmup_epochs`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def warmup(epoch: float, warmup_epochs: float, warmup_start: float = 0.1) -> float:
    """Linear ramp from `warmup_start` to 1, and 1 from `warmup_epochs` on.

    Raises:
        ValueError: negative duration, or a start outside [0, 1].
    """
    if warmup_epochs < 0 or not 0 <= warmup_start <= 1:
        raise ValueError(f"warmup_epochs={warmup_epochs}, warmup_start={warmup_start}: use >= 0 and a start in [0, 1]")
    if epoch >= warmup_epochs:
        return 1.0
    return warmup_start + (1 - warmup_start) * epoch / warmup_epochs


def step(
    epoch: float,
    *,
    epochs: int,
    steps: Sequence[float],
    gamma: float = 0.1,
    warmup_epochs: float = 0.0,
    warmup_start: float = 0.1,
) -> float:
    """gamma to the power of the number of `steps` (in epochs) reached; the form used by TSN, TSM and MML.

    `steps` beyond `epochs` never come, so a shorter run keeps the first rates of the long one.
    """
    return gamma ** sum(at <= epoch for at in steps) * warmup(epoch, warmup_epochs, warmup_start)


def cosine(epoch: float, *, epochs: int, warmup_epochs: float = 0.0, warmup_start: float = 0.1) -> float:
    """Half a cosine wave from 1 at epoch 0 to 0 at `epochs`, and 0 after.

    Raises:
        ValueError: epochs < 1.
    """
    if epochs < 1:
        raise ValueError(f"epochs={epochs}: the cosine schedule needs 1 or more")
    curve = 0.5 * (1 + math.cos(math.pi * min(epoch / epochs, 1.0)))
    return curve * warmup(epoch, warmup_epochs, warmup_start)


def constant(epoch: float, *, epochs: int, warmup_epochs: float = 0.0, warmup_start: float = 0.1) -> float:
    """1 all along, after the warm-up."""
    return warmup(epoch, warmup_epochs, warmup_start)
