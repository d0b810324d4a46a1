"""Learning-rate schedules as pure functions: epoch -> factor on the base rate, for `LambdaLR`.

All share one signature, `(epoch, *, epochs, ..., warmup_epochs, warmup_start) -> float`. `epoch` is 0 at the start of
training and may be fractional, so the same function serves a schedule stepped per epoch or per batch.
Warm-up multiplies the curve by a ramp from `warmup_start` at epoch 0 to 1 at `warmup_epochs`. :func:`step` and
:func:`cosine` know another one too, `warmup_form="line"`: a straight line from `warmup_start` to what the curve is at
`warmup_epochs` (PySlowFast, PyTorchVideo). The two differ where the curve falls during the warm-up, as a cosine does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

WARMUP_FORMS = ("ramp", "line")


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


def _warmed(
    curve: Callable[[float], float], kind: str, epoch: float, warmup_epochs: float, warmup_start: float
) -> float:
    """The curve with its warm-up.

    Raises:
        ValueError: unknown kind, negative duration, or a start outside [0, 1].
    """
    if kind not in WARMUP_FORMS:
        raise ValueError(f"warmup_form={kind!r} is unknown; use one of {list(WARMUP_FORMS)}")
    ramp = warmup(epoch, warmup_epochs, warmup_start)
    if kind == "ramp" or epoch >= warmup_epochs:
        return curve(epoch) * ramp
    return warmup_start + (curve(warmup_epochs) - warmup_start) * epoch / warmup_epochs


def step(
    epoch: float,
    *,
    epochs: int,
    steps: Sequence[float],
    gamma: float = 0.1,
    warmup_epochs: float = 0.0,
    warmup_start: float = 0.1,
    warmup_form: str = "ramp",
) -> float:
    """gamma to the power of the number of `steps` (in epochs) reached; the form used by TSN, TSM and MML.

    `steps` beyond `epochs` never come, so a shorter run keeps the first rates of the long one.
    """
    return _warmed(lambda now: gamma ** sum(at <= now for at in steps), warmup_form, epoch, warmup_epochs, warmup_start)


def cosine(
    epoch: float,
    *,
    epochs: int,
    end: float = 0.0,
    warmup_epochs: float = 0.0,
    warmup_start: float = 0.1,
    warmup_form: str = "ramp",
) -> float:
    """Half a cosine wave from 1 at epoch 0 to `end` at `epochs`, and `end` after.

    Raises:
        ValueError: epochs < 1, or an end outside [0, 1].
    """
    if epochs < 1 or not 0 <= end <= 1:
        raise ValueError(f"epochs={epochs}, end={end}: the cosine schedule needs epochs >= 1 and end in [0, 1]")

    def curve(now: float) -> float:
        return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * min(now / epochs, 1.0)))

    return _warmed(curve, warmup_form, epoch, warmup_epochs, warmup_start)


def constant(epoch: float, *, epochs: int, warmup_epochs: float = 0.0, warmup_start: float = 0.1) -> float:
    """1 all along, after the warm-up."""
    return warmup(epoch, warmup_epochs, warmup_start)
