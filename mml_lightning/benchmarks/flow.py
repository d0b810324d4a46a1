"""Engines of optical flow side by side: time per pair and error on synthetic pairs whose motion is known.

Legend: H height, W width. All engines run alternately in one process with one thread, so that whatever else the machine
does meets them alike: trust the ratios more than the milliseconds.

Motion vectors are measured on files: each pair is encoded as a video of two frames at the encoder's usual settings, and
their time is that of decoding it. `still` says that nothing moves: its error is the mean motion.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mml_lightning.benchmarks.data_files import write_video
from mml_lightning.data.flow.engine_names import ALGORITHMS, ENCODERS, ENGINES, check_engine
from mml_lightning.data.flow.engines import make_engine
from mml_lightning.data.flow.motion_vectors import motion_vectors
from mml_lightning.optical_flow import MOTIONS, Motion, Pair, synthetic_pair
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.threads import one_thread

# The presets of our TV-L1 were chosen on seeds 1 and 2; these were not looked at.
SEEDS = (11, 12, 13)
WHITE = 0.5  # pixels of error that the maps show as white


@dataclass(frozen=True)
class Way:
    """An engine as it is measured: `prepare` is not timed; `flow` makes [H, W, 2] of what it gives."""

    prepare: Callable[[Pair], Any]
    flow: Callable[[Any], np.ndarray]


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
) -> Iterator[tuple[int, list[Row]]]:
    """Rows in the order of `engines`, each "algorithm-preset", "mv-<codec>" or "still"; after each round, with the
    number of these.

    Times are of the processor on the CPU and of the wall on a GPU, the least of `repeats` rounds per pair; a round runs
    every engine once on every pair.

    Args:
        size: (H, W) of the pairs.
        device: where tvl1 runs; the others know the CPU only.
        advance: called with an engine's name after each of its rounds.

    Raises:
        UserError: an engine is unknown, or the size is odd and motion vectors are asked for.
    """
    errors: dict[tuple[str, tuple[str, int]], float] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made = {name: _way(name, device, folder) for name in engines}  # says what is wrong
        pairs = {(name, seed): synthetic_pair(one, *size, seed) for name, one in motions.items() for seed in seeds}
        best = {(name, key): float("inf") for name in engines for key in pairs}
        stack.enter_context(one_thread())
        given = {(name, key): way.prepare(pair) for name, way in made.items() for key, pair in pairs.items()}
        for number in range(repeats):
            for name, way in made.items():
                for key, pair in pairs.items():
                    seconds, errors[name, key] = _once(way, given[name, key], pair, device)
                    best[name, key] = min(best[name, key], seconds)
                advance(name)
            yield (
                number + 1,
                [
                    Row(
                        name,
                        1e3 * float(np.mean([best[name, key] for key in pairs])),
                        {
                            motion: float(np.mean([errors[name, (motion, seed)] for seed in seeds]))
                            for motion in motions
                        },
                    )
                    for name in engines
                ],
            )


def error_maps(
    engines: Sequence[str], motions: Sequence[str] = ("rotation", "disc"), seed: int = SEEDS[0]
) -> np.ndarray:
    """Picture uint8 [h, w]: a row per motion; its first image, then the length of each engine's error, white at 0.5 px.

    Raises:
        UserError: an engine is unknown.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        ways = [_way(name, "cpu", Path(folder)) for name in engines]
        for motion in motions:
            pair = synthetic_pair(MOTIONS[motion], 128, 170, seed)
            fields = [torch.from_numpy(way.flow(way.prepare(pair))) for way in ways]
            lengths = [(field - pair.flow).norm(dim=-1) for field in fields]
            maps = [(255 * (length / WHITE).clamp(0, 1)).to(torch.uint8).numpy() for length in lengths]
            rows.append(np.hstack([pair.first.numpy(), *maps]))
    return np.vstack(rows)


def _way(name: str, device: str, folder: Path) -> Way:
    """Raises:
    UserError: there is no such engine.
    """
    check_engine(name)
    if name == "still":
        return Way(lambda pair: pair.flow.numpy(), np.zeros_like)
    if name in ENCODERS:
        prepare = functools.partial(_encoded, ENCODERS[name], folder)
        return Way(prepare, lambda path: next(iter(motion_vectors(path))))
    algorithm, _, preset = name.partition("-")
    engine = make_engine(algorithm, preset or ALGORITHMS[algorithm][0], device=device if algorithm == "tvl1" else "cpu")
    assert engine.fields is not None
    fields = engine.fields
    return Way(_frames, lambda frames: next(iter(fields(frames))))


def _frames(pair: Pair) -> list[np.ndarray]:
    """RGB, uint8 [H, W, 3]."""
    return [np.repeat(image.numpy()[..., None], 3, axis=-1) for image in (pair.first, pair.second)]


def _encoded(encoder: str, folder: Path, pair: Pair) -> Path:
    """A new video file of the two frames."""
    if any(side % 2 for side in pair.first.shape):
        raise UserError("videos of motion vectors have even sides; choose another --size, or leave mv out of --engines")
    path = folder / f"{encoder}-{len(list(folder.iterdir()))}.mp4"
    write_video(path, _frames(pair), encoder, 25)
    return path


def _once(way: Way, given: Any, pair: Pair, device: str) -> tuple[float, float]:
    """Seconds and error of one pair."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    flow = way.flow(given)  # an array of numpy: whatever device made it has finished
    return clock() - start, pair.error(torch.from_numpy(flow))
