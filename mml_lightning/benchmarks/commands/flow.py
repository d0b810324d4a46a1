"""`mml bench flow`: engines of optical flow, time per pair and error; pairs per second of large batches."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mml_lightning.benchmarks.commands.shape import Bench, Compose, names, say, size
from mml_lightning.benchmarks.tables import BenchTable
from mml_lightning.data.flow.engine_names import ENGINES, check_engine
from mml_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from mml_lightning.benchmarks.flow import Row

LEAST = 16  # pixels of a side: DIS takes none below 12
SATURATED = 0.5  # share of a copy's bandwidth: a device that reaches more is limited by it


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engines", type=names, metavar="dis-medium,tvl1-fast", help="algorithm-preset each (default: all)"
    )
    parser.add_argument("--size", type=size, default=(340, 256), metavar="WxH", help="of the pairs (default: 340x256)")
    parser.add_argument("--reference", metavar="ENGINE", help="show how many times faster than it each one is")
    parser.add_argument(
        "--batch", type=int, metavar="N", help="instead: pairs/s and bandwidth of tvl1 engines, N pairs at once"
    )


def _check(args: argparse.Namespace) -> None:
    """Before seconds are spent on imports.

    Raises:
        UserError: an engine is unknown, or does not suit the other arguments.
    """
    for name in args.engines or ():
        check_engine(name)
    if min(args.size) < LEAST:
        raise UserError(f"--size {args.size[0]}x{args.size[1]} must be {LEAST}x{LEAST} or more")
    if args.batch is not None:
        if args.batch < 1 or any(not name.startswith("tvl1-") for name in args.engines or ()):
            known = "--engines tvl1-fast,tvl1-accurate"
            raise UserError(f"--batch N is for 1 pair or more of tvl1 engines; name them: {known}")
    elif args.reference and args.reference not in (args.engines or ENGINES):
        engines = list(args.engines or ENGINES)
        raise UserError(f"--reference {args.reference} is not among the engines; use one of {engines}")


def _run(args: argparse.Namespace, compose: Compose) -> Iterator[BenchTable]:
    """Raises:
    UserError: the device is not there, or the size is odd and motion vectors are asked for.
    """
    from mml_lightning.benchmarks import flow

    engines = args.engines or ENGINES
    settings = {"size": args.size, "repeats": args.rounds, "device": args.device.type}
    if args.batch is not None:
        yield from _batched(engines, args, settings)
        return
    size = (args.size[1], args.size[0])
    for done, found in flow.compare(engines, size=size, repeats=args.rounds, device=args.device.type, advance=say):
        yield _table(found, args, settings, done)


def _table(found: Sequence[Row], args: argparse.Namespace, settings: dict[str, object], done: int) -> BenchTable:
    """Of `done` rounds."""
    base = next((one.milliseconds for one in found if one.engine == args.reference), None)
    rows = [
        {
            **{"engine": one.engine, "milliseconds": one.milliseconds},
            **{"vs_reference": base and base / one.milliseconds, "errors": dict(one.errors)},
        }
        for one in found
    ]
    whole = done == args.rounds
    told = _choice(found) if whole else f"stopped early: {done} of {args.rounds} rounds are complete"
    return BenchTable(rows, told, more=settings, whole=whole)


def _choice(found: Sequence[Row]) -> str:
    """What a pair costs, and the switch that would move it."""
    errors = {one.engine: sum(one.errors.values()) / len(one.errors) for one in found}
    engines = [one for one in found if one.engine != "still"] or found
    cheapest, best = min(engines, key=lambda one: one.milliseconds), min(engines, key=lambda one: errors[one.engine])
    algorithm, _, preset = cheapest.engine.partition("-")
    switch = f"flow={algorithm} flow.preset={preset}" if preset and algorithm != "mv" else f"flow={algorithm}"
    told = f"the engine is the bottleneck: {switch} takes {cheapest.milliseconds:.3g} ms a pair"
    if len(engines) == 1:
        return f"{told} with an error of {errors[best.engine]:.3f} px"
    if best is cheapest:
        return f"{told} with the lowest error of these ({errors[best.engine]:.3f} px)"
    ratio = best.milliseconds / cheapest.milliseconds
    return (
        f"{told} with an error of {errors[cheapest.engine]:.3f} px, {best.engine} takes {ratio:.2g} times as long "
        f"with {errors[best.engine]:.3f}"
    )


def _batched(engines: Sequence[str], args: argparse.Namespace, settings: dict[str, object]) -> Iterator[BenchTable]:
    """One table, with a row more each time."""
    from mml_lightning.benchmarks.flow_throughput import throughput
    from mml_lightning.data.flow.engines import make_engine

    presets = [name.removeprefix("tvl1-") for name in engines if name.startswith("tvl1-")]  # of all, if none is named
    rows = []
    for preset in presets:
        make_engine("tvl1", preset, device=args.device.type)  # says what is wrong
        found = throughput(preset, args.batch, args.size[::-1], args.device.type, args.rounds)
        rows.append({"engine": f"tvl1-{preset}", **dataclasses.asdict(found), "bandwidth": found.bandwidth})
        say(f"tvl1-{preset}")
        yield BenchTable(rows, f"stopped early: {len(rows)} of {len(presets)} engines", more=settings, whole=False)
    limit = "memory bandwidth is the bottleneck: flow=tvl1_fast"
    if max(row["bandwidth"] for row in rows) < SATURATED:
        limit = "starting operations is the bottleneck: a larger --batch"
    yield BenchTable(
        rows, f"{args.batch} pairs at once on {args.device}; {limit}", more={**settings, "batch": args.batch}
    )


BENCH = Bench(
    help="engines of optical flow: time per pair and error",
    description="Time per pair and error of the engines of optical flow, on synthetic pairs whose motion is known. All "
    "run alternately in one process with one thread: trust ratios, not milliseconds. --device is where tvl1 runs.",
    run=_run,
    check=_check,
    declare=_declare,
)
