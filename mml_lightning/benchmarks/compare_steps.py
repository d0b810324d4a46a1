"""A training step of a config, several ways side by side, against what the published program does per step.

Ours is the whole step as a run makes it: the trainer, uint8 clips normalised on the device, the objective, clipping,
the optimiser. The baseline gets its clips normalised already. All ways start from the same weights and see the same
batches, so that their losses compare; dropout is off for that. Each has a process of its own: what one frees another
would find.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mml_lightning.benchmarks.subprocess_object import RemoteObject
from mml_lightning.benchmarks.tables import BenchTable, Row
from mml_lightning.benchmarks.timing import CPU, Timing, alternate, rates, unfinished
from mml_lightning.benchmarks.training_step import (
    COMPARED,
    BareSteps,
    CohortSteps,
    Compose,
    Facts,
    PlainSteps,
    run_words,
    seen,
)
from mml_lightning.config import data
from mml_lightning.config.settings import Settings
from mml_lightning.training import advice
from mml_lightning.utils.device import arithmetic_peak, precision_type
from mml_lightning.utils.errors import UserError

BASELINE, KEPT = PLAIN = ("baseline", "baseline_kept")  # the other one keeps the memory that it frees
BARE = "bare"
ALONE = " alone"
WAYS: dict[str, tuple[str, ...]] = {  # overrides of the config
    BASELINE: (),
    KEPT: (),
    "contiguous": ("trainer.precision=32-true", "step.memory_format=contiguous"),
    "float32": ("trainer.precision=32-true",),
    "bfloat16": ("trainer.precision=bf16-mixed",),
    BARE: ("trainer.precision=bf16-mixed",),
    "compiled": ("trainer.precision=bf16-mixed", "step.compile=true"),
    "twice": ("trainer.precision=bf16-mixed", "step.checkpointing=true"),
}
DEFAULT = (BASELINE, "float32", "bfloat16")
HALF = "trainer.precision=bf16-mixed"
CLOSE = 0.9  # of the bare loop's rate: a run that reaches less is limited by what it adds


def compare(
    compose: Compose,
    overrides: Sequence[str],
    ways: Sequence[str] = DEFAULT,
    rounds: int = 3,
    steps: int = 1,
    alone: bool = False,
    device: torch.device = CPU,
    advance: Callable[[str], object] = lambda way: None,
) -> Iterator[BenchTable]:
    """A row per way; before that, after each round of each, the rates so far.

    Args:
        ways: of :data:`WAYS`. alone: each modality in a run of its own, too, in the last of the ways.

    Raises:
        UserError: a way is unknown, or the config is wrong.
    """
    if alone and ways[-1] in (*PLAIN, BARE):
        raise UserError(f"--alone is for the way of a run, {ways[-1]} is none: name another one last in --ways")
    unknown = [way for way in ways if way not in WAYS]
    if unknown:
        raise UserError(f"--ways {unknown[0]} is unknown; use {', '.join(WAYS)}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        common = run_words(overrides, folder, device)
        modalities = data.modalities(compose(common))
        makers: dict[str, tuple[Any, ...]] = {}
        for way in ways:
            cfg = compose([*common, *WAYS[way]])
            makers[way] = (
                (PlainSteps, cfg, modalities, device, way == KEPT)
                if way in PLAIN
                else (BareSteps if way == BARE else CohortSteps, cfg, modalities, folder, device)
            )
        if alone:
            single = compose([*common, *WAYS[ways[-1]], "objective=cross_entropy"])
            makers |= {n + ALONE: (CohortSteps, single, {n: m}, folder, device) for n, m in modalities.items()}
        runners = {n: stack.enter_context(RemoteObject(n, *maker)) for n, maker in makers.items()}
        asked = {name: functools.partial(runner.ask, "round", steps) for name, runner in runners.items()}
        size = makers[ways[0]][1].data.batch_size
        for timings in alternate(asked, rounds, advance):
            yield unfinished(rates(timings, size), timings, rounds)
        facts = {name: runner.ask("facts") for name, runner in runners.items()}
        rows = _rows({name: maker[1] for name, maker in makers.items()}, timings, facts, device)
        mfu = {row["way"]: row["mfu"] for row in rows}
        joint, told = joint_ratio(rows), bottleneck(rows, lambda way: seen(makers[way][1], device, mfu[way]))
        if joint is not None:
            each = f"{joint * len(modalities):.2f} times the mean of one"
            told = f"a joint step takes {joint:.3f} of the steps of its networks alone, {each}; {told}"
        yield BenchTable(rows, told, more={"joint": joint})


def _rows(
    configs: Mapping[str, Settings],
    timings: Mapping[str, Timing],
    facts: Mapping[str, Facts],
    device: torch.device,
) -> list[Row]:
    """MFU is the share of the arithmetic of a matrix product; the losses' difference the largest relative one of the
    first :data:`COMPARED` steps to the baseline's."""
    base = facts.get(BASELINE)
    counted = next((told.operations for told in facts.values() if told.operations is not None), None)
    reach = functools.cache(functools.partial(arithmetic_peak, device))
    rows = rates(timings, next(iter(configs.values())).data.batch_size)
    for row in rows:
        name, cfg = row["way"], configs[row["way"]]
        told, apart = facts[name], None
        operations = told.operations or counted
        dtype = torch.float32 if name in PLAIN else precision_type(cfg.trainer.precision, device)
        if base is not None and not cfg.objective.edges and not name.endswith(ALONE):  # the baseline has no lessons
            pairs = list(zip(told.losses, base.losses, strict=True))[:COMPARED]
            apart = max(abs(a - b) / abs(b) for a, b in pairs)
        if name.endswith(ALONE):
            row["vs_first"] = None
        row["mfu"] = None if operations is None else row["clips_per_s"] * operations / reach(dtype)
        row |= {"kept_mb": told.kept / 1e6, "peak_mb": told.peak / 1e6, "loss_difference": apart}
    return rows


def bottleneck(rows: Sequence[Row], seen: Callable[[str], advice.Seen]) -> str:
    """What limits the fastest way of a run, and the switch that would move it.

    Args:
        seen: what was measured of a way.
    """
    by_name = {row["way"]: row for row in rows}
    rate = {way: row["clips_per_s"] for way, row in by_name.items()}
    ours = [way for way in rate if way in WAYS and way not in (*PLAIN, BARE)]
    if not ours:
        return "no run was measured; add float32 or bfloat16 to --ways"
    fastest = max(ours, key=lambda way: rate[way])
    noise = max(by_name[way].get("spread") or 0.0 for way in ours)
    half = [way for way in ours if HALF in WAYS[way]]
    if "float32" in ours and half:
        best = max(half, key=lambda way: rate[way])
        gain, words = rate[best] / rate["float32"], " ".join(WAYS[best])
        if gain > 1 + noise:
            return (
                f"arithmetic in float32 is the bottleneck of a default run: {words} makes a step {gain:.2f} times as "
                "fast"
            )
        if gain < 1 / (1 + noise):
            return f"float32 is the fastest here: {words} takes {1 / gain:.2g} times as long, leave {advice.FLOAT32}"
    if BARE in rate and "bfloat16" in ours and (share := rate["bfloat16"] / rate[BARE]) < CLOSE - noise:
        return (
            f"what a run adds to its networks is the bottleneck ({share:.0%} of a bare loop's rate): "
            "a larger data.batch_size, or nonfinite.policy=ignore"
        )
    return advice.bottleneck(seen(fastest))


def joint_ratio(rows: Sequence[Row]) -> float | None:
    """Time of a joint step over the sum of the steps of its networks alone; None where these were not measured."""
    alone = [row["clips_per_s"] for row in rows if row["way"].endswith(ALONE)]
    together = [row["clips_per_s"] for row in rows if row["way"] in WAYS]
    return (1 / together[-1]) / sum(1 / rate for rate in alone) if alone and together else None
