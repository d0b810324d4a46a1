"""Fill a flow cache ahead of training, in parallel over videos, and say what lies in it.

Legend: P pairs, H height, W width.

A video is whole or absent, so that a killed call goes on where it was. Statistics are taken from a few pairs of each
video: they show flow that is nearly zero or cut off, and cost little beside the flow itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mml_lightning.data.flow import engines
from mml_lightning.data.flow.cache import FlowCache, dequantise
from mml_lightning.data.records.records import Dataset, Record
from mml_lightning.data.video.decode import DecodeError, NoSource
from mml_lightning.data.video.media import Media
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.threads import one_thread

LOOKED_AT = 8  # pairs per video, evenly spaced
NEARLY_ALL_ZERO, MANY_CLIPPED = 0.95, 0.05


@dataclass(frozen=True)
class Moments:
    """Sums over the vectors of some pairs.

    Args:
        pairs: of the videos; `looked_at`, those whose vectors are in the sums.
        length: sum of the vectors' lengths, pixels.
        clipped: vectors with a component at an end of the range: the bound, or beyond.
        zero: vectors of less than half a step.
    """

    pairs: int = 0
    looked_at: int = 0
    vectors: int = 0
    length: float = 0.0
    clipped: int = 0
    zero: int = 0

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def shares(self) -> dict[str, float | None]:
        """Mean length in pixels, and shares of vectors; None where there is none."""
        if not self.vectors:
            return dict.fromkeys(("mean_px", "clipped_share", "zero_share"))
        parts = (self.length, self.clipped, self.zero)
        names = ("mean_px", "clipped_share", "zero_share")
        return {name: round(part / self.vectors, 6) for name, part in zip(names, parts, strict=True)}


def moments(flow: np.ndarray, bound: float, most: int = LOOKED_AT) -> Moments:
    """Moments of at most `most` pairs of quantised flow uint8 [P, H, W, 2]."""
    chosen = np.unique(np.linspace(0, len(flow) - 1, min(most, len(flow))).round().astype(int))
    values = np.asarray(flow[chosen])
    # squares of the 256 values, so that nothing is made float but the sum; code 128 is zero motion, not half a step
    square = dequantise(np.arange(256), bound) ** 2
    square[128] = 0.0
    length = np.sqrt(square[values[..., 0]] + square[values[..., 1]])
    return Moments(
        pairs=len(flow),
        looked_at=len(chosen),
        vectors=length.size,
        length=float(length.sum(dtype=np.float64)),
        clipped=int(((values == 0) | (values == 255)).any(axis=-1).sum()),
        zero=int((values == 128).all(axis=-1).sum()),
    )


@dataclass(frozen=True)
class Outcome:
    """What became of one video: its moments, or why it has no flow; `single` if it has one frame."""

    moments: Moments | None
    reason: str = ""
    single: bool = False


def fill(
    cache: FlowCache, records: Sequence[Record], workers: int, advance: Callable[[], object] = lambda: None
) -> list[Outcome]:
    """Flow of every record, made where it is missing; one outcome per record, in order. Records of one file share it.

    Args:
        workers: processes; threads of this process where the flow is made on a GPU, which decode ahead of it and whose
            pairs it solves together.
        advance: called after each file.

    Raises:
        UserError: the cache can't be written, or a worker dies.
    """
    keys = [_key(record) for record in records]
    first = dict(zip(reversed(keys), reversed(records), strict=True))
    cache.describe()
    cache.clear_leftovers()
    done: dict[tuple[Media, str | None], Outcome] = {}
    with one_thread(), _pool(cache, workers) as pool:
        jobs = {pool.submit(_one, cache, first[key]): key for key in dict.fromkeys(keys)}
        try:
            for job in as_completed(jobs):
                done[jobs[job]] = job.result()
                advance()
        except BrokenProcessPool:
            raise UserError(
                "a worker died: out of memory (fewer --workers), or a file crashes its reader (mml check finds it)"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupt ends after the videos at hand, not after all
    cache.clear_leftovers()
    return [done[key] for key in keys]


def splits_of(dataset: Dataset, splits: Sequence[str]) -> dict[str, list[Record]]:
    """Records per split whose flow is computed: those that bring none of their own.

    Raises:
        UserError: a split is unknown or empty.
    """
    chosen = {}
    for split in splits:
        records = dataset.splits.get(split, ())
        if not records:
            have = ",".join(name for name, rows in dataset.splits.items() if rows)
            raise UserError(f"data={dataset.name} has no videos in split {split!r}; use --splits {have}")
        chosen[split] = [record for record in records if "flow" not in record.media]
    return chosen


def summary(outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, dict[str, Any]]:
    """Per split: videos, those without flow, pairs, and the shares of :class:`Moments`."""
    result = {}
    for split, rows in outcomes.items():
        whole = sum((row.moments for row in rows if row.moments), Moments())
        result[split] = {
            "videos": len(rows),
            "failed": sum(row.moments is None and not row.single for row in rows),
            "one_frame": sum(row.single for row in rows),
            "pairs": whole.pairs,
            "pairs_looked_at": whole.looked_at,
            **whole.shares(),
        }
    return result


def warnings(splits: Mapping[str, Mapping[str, Any]], bound: float) -> list[str]:
    """What looks wrong in a summary."""
    lines = []
    for split, row in splits.items():
        if (row["zero_share"] or 0) > NEARLY_ALL_ZERO:
            lines.append(
                f"{split}: {row['zero_share']:.1%} of the vectors are zero: is there motion, and do the frames "
                "differ? (mml check finds repeated frames)"
            )
        if (row["clipped_share"] or 0) > MANY_CLIPPED:
            lines.append(
                f"{split}: {row['clipped_share']:.1%} of the vectors reach the bound, {bound:g} px: raise flow.bound, "
                "or inspect the flow"
            )
    return lines


def _key(record: Record) -> tuple[Media, str | None]:
    return record.media["frames"], record.decoder


def _one(cache: FlowCache, record: Record) -> Outcome:
    try:
        return Outcome(moments(cache.load(record), cache.settings.bound))
    except NoSource as error:
        return Outcome(None, str(error), single=True)
    except DecodeError as error:
        return Outcome(None, str(error))


def _pool(cache: FlowCache, workers: int) -> Executor:
    if workers <= 1 or torch.device(cache.settings.device).type in engines.TOGETHER:
        return ThreadPoolExecutor(max(1, workers))
    # never a plain fork: libraries of this process may hold locks
    known = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in known else "spawn")
    if "forkserver" in known:
        context.set_forkserver_preload([__name__])
    return ProcessPoolExecutor(workers, context, _start_worker)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and lets the videos at hand end
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()  # a killed parent tells nobody
        os._exit(1)
