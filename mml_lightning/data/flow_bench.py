"""Engines of optical flow side by side: time per pair and error on synthetic pairs whose motion is known.

    python -m mml_lightning.data.flow_bench tvl1-accurate tvl1_opencv-half dis-medium

Legend: H height, W width. All engines run alternately in one process with one thread, so that whatever else the machine
does meets them alike: trust the ratios more than the milliseconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mml_lightning.data.flow_engines import ALGORITHMS, Engine, make_engine
from mml_lightning.data.threads import one_thread
from mml_lightning.errors import UserError
from mml_lightning.motion import MOTIONS, Motion, Pair, synthetic_pair

ENGINES = tuple(f"{name}-{preset}" for name, presets in ALGORITHMS.items() if name != "mv" for preset in presets)
# The presets of our TV-L1 were chosen on seeds 1 and 2; these were not looked at.
SEEDS = (11, 12, 13)
WHITE = 0.5  # pixels of error that the maps show as white


@dataclass(frozen=True)
class Row:
    """One engine: milliseconds per pair, mean over the motions, and mean end-point error in pixels per motion."""

    engine: str
    milliseconds: float
    errors: Mapping[str, float]


def compare(
    engines: Sequence[str] = ENGINES,
    motions: Mapping[str, Motion] = MOTIONS,
    seeds: Sequence[int] = SEEDS,
    size: tuple[int, int] = (256, 340),
    repeats: int = 3,
    device: str = "cpu",
    advance: Callable[[str], object] = lambda engine: None,
) -> list[Row]:
    """Rows in the order of `engines`, each "algorithm-preset".

    Times are of the processor on the CPU and of the wall on a GPU, the least of `repeats` rounds per pair; a round runs
    every engine once on every pair.

    Args:
        size: (H, W) of the pairs.
        device: where tvl1 runs; the others know the CPU only.
        advance: called with an engine's name after each of its rounds.

    Raises:
        UserError: an engine is unknown, or it is `mv`, which needs files.
    """
    made = {name: _engine(name, device) for name in engines}
    pairs = {(name, seed): synthetic_pair(motion, *size, seed) for name, motion in motions.items() for seed in seeds}
    best = {(name, key): float("inf") for name in engines for key in pairs}
    errors: dict[tuple[str, tuple[str, int]], float] = {}
    with one_thread():
        for _ in range(repeats):
            for name, engine in made.items():
                for key, pair in pairs.items():
                    seconds, errors[name, key] = _once(engine, pair, device)
                    best[name, key] = min(best[name, key], seconds)
                advance(name)
    return [
        Row(
            name,
            1e3 * float(np.mean([best[name, key] for key in pairs])),
            {motion: float(np.mean([errors[name, (motion, seed)] for seed in seeds])) for motion in motions},
        )
        for name in engines
    ]


def table(rows: Sequence[Row], reference: str | None = None) -> str:
    """Markdown; with `reference`, an engine among the rows, also how many times faster than it each one is."""
    base = next((row.milliseconds for row in rows if row.engine == reference), None)
    heads = ["engine", "ms / pair", *([f"vs {reference}"] if base else []), *(rows[0].errors if rows else ())]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for row in rows:
        ratio = [f"{base / row.milliseconds:.2g}x"] if base else []
        errors = [f"{error:.3f}" for error in row.errors.values()]
        lines.append("| " + " | ".join([row.engine, f"{row.milliseconds:.3g}", *ratio, *errors]) + " |")
    return "\n".join(lines)


def error_maps(
    engines: Sequence[str], motions: Sequence[str] = ("rotation", "disc"), seed: int = SEEDS[0]
) -> np.ndarray:
    """Picture uint8 [h, w]: a row per motion; its first image, then the length of each engine's error, white at 0.5 px.

    Raises:
        UserError: an engine is unknown, or it is `mv`.
    """
    rows = []
    for motion in motions:
        pair = synthetic_pair(MOTIONS[motion], 128, 170, seed)
        tiles = [pair.first.numpy()]
        for name in engines:
            flow = torch.from_numpy(_flow(_engine(name, "cpu"), pair))
            length = (flow - pair.flow).norm(dim=-1)
            tiles.append((255 * (length / WHITE).clamp(0, 1)).to(torch.uint8).numpy())
        rows.append(np.hstack(tiles))
    return np.vstack(rows)


def _engine(name: str, device: str) -> Engine:
    algorithm, _, preset = name.partition("-")
    if algorithm == "mv":
        raise UserError("mv reads the vectors of files and can't be measured on synthetic pairs; leave it out")
    presets = ALGORITHMS.get(algorithm, ("",))
    return make_engine(algorithm, preset or presets[0], device=device if algorithm == "tvl1" else "cpu")


def _once(engine: Engine, pair: Pair, device: str) -> tuple[float, float]:
    """Seconds and error of one pair."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    flow = _flow(engine, pair)  # an array of numpy: whatever device made it has finished
    return clock() - start, pair.error(torch.from_numpy(flow))


def _flow(engine: Engine, pair: Pair) -> np.ndarray:
    """[H, W, 2]"""
    assert engine.fields is not None
    frames = [np.repeat(image.numpy()[..., None], 3, axis=-1) for image in (pair.first, pair.second)]
    return next(iter(engine.fields(frames)))


if __name__ == "__main__":
    try:
        found = compare(sys.argv[1:] or ENGINES, advance=lambda engine: print(engine, file=sys.stderr, flush=True))
    except UserError as error:
        sys.exit(str(error))
    print(table(found, "tvl1_opencv-half"))
