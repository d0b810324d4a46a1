"""Short calls of the samplers for their tests; published tables count frames from 1."""

from __future__ import annotations

from typing import Any

import numpy as np

from mml_lightning import sampling

WINDOWS = {"RGB": 1, "Flow": 5, "RGBDiff": 6}


def one_based(starts: np.ndarray) -> Any:
    assert starts.dtype == np.int64
    return (starts + 1).tolist()


def train(
    counts: dict[str, int], n: int, mode: Any = "uniform", *, seed: int = 0, windows: Any = WINDOWS, **options: Any
) -> dict[str, np.ndarray]:
    """One training clip from a modern generator."""
    rng = np.random.default_rng(seed)
    return sampling.train_starts(counts, windows, num_segments=n, mode=mode, rng=rng, **options)


def support(
    counts: dict[str, int], n: int, mode: Any, policy: Any, draws: int = 1500, **options: Any
) -> dict[str, np.ndarray]:
    """Many training clips, [draws, N] per modality."""
    rng = np.random.default_rng(1)
    fixed = {"num_segments": n, "mode": mode, "policy": policy, "rng": rng, **options}
    rows = [sampling.train_starts(counts, WINDOWS, **fixed) for _ in range(draws)]
    return {name: np.stack([row[name] for row in rows]) for name in counts}


def clips(count: int, n: int = 8, modality: str = "RGB", **options: Any) -> Any:
    """Test clips of one modality, counted from 1."""
    return one_based(sampling.test_starts({modality: count}, WINDOWS, num_segments=n, **options)[modality])
