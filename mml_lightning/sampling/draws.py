"""Random numbers from either kind of numpy generator.

Legacy ``RandomState`` reproduces published draws; ``Generator`` is what samples are keyed with.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rng = np.random.RandomState | np.random.Generator
Indices = npt.NDArray[np.int64]


def integers(rng: Rng, high: int, size: int | None = None) -> Indices:
    """Uniform int64 in [0, high), scalar or [size].

    Raises:
        ValueError: ``rng`` is no numpy generator.
    """
    if isinstance(rng, np.random.Generator):
        return np.asarray(rng.integers(high, size=size, dtype=np.int64))
    if isinstance(rng, np.random.RandomState):
        return np.asarray(rng.randint(high, size=size, dtype=np.int64))
    raise _no_generator(rng)


def shares(rng: Rng, size: int) -> npt.NDArray[np.float64]:
    """Uniform float64 [size] in [0, 1).

    Raises:
        ValueError: ``rng`` is no numpy generator.
    """
    if isinstance(rng, np.random.Generator | np.random.RandomState):
        return rng.random(size)
    raise _no_generator(rng)


def part(share: float, places: int) -> int:
    """floor(share * places), exact in integers: of one of :func:`shares`, a multiple of 2**-53, never ``places``."""
    return int(share * 2**53) * places >> 53


def _no_generator(rng: object) -> ValueError:
    kind = type(rng).__name__
    return ValueError(f"rng is a {kind}: pass np.random.default_rng(seed) or np.random.RandomState(seed)")
