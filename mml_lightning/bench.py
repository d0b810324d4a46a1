"""`mml bench`: measurements of this machine. Each is a subcommand of its own: an entry in BENCHES."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mml_lightning import bench_data, bench_ensemble, bench_records, bench_runs, bench_step
from mml_lightning.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    Compose = Callable[[Sequence[str]], DictConfig]


@dataclass(frozen=True)
class Bench:
    """One measurement: `declare` adds its arguments, `run` does it and raises UserError for a user's mistake; it gets
    what makes a config of words, too."""

    help: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Compose], None]


def _declare_flow(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Time per pair and error of the engines of optical flow, on synthetic pairs whose motion is known. All run "
        "alternately in one process with one thread: trust ratios, not milliseconds."
    )
    parser.add_argument(
        "--engines",
        type=lambda text: text.split(","),
        metavar="dis-medium,tvl1-fast",
        help="algorithm-preset each (default: all)",
    )
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="rounds; the least time counts (default: 3)"
    )
    parser.add_argument("--size", type=_size, default=(340, 256), metavar="WxH", help="of the pairs (default: 340x256)")
    parser.add_argument("--device", default="cpu", help="where tvl1 runs: cpu (default) or cuda")
    parser.add_argument("--reference", metavar="ENGINE", help="show how many times faster than it each one is")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows")
    parser.add_argument(
        "--batch", type=int, metavar="N", help="instead: pairs/s and bandwidth of tvl1 engines, N pairs at once"
    )


def _batched(engines: Sequence[str], args: argparse.Namespace) -> None:
    from mml_lightning.data.flow_engines import make_engine
    from mml_lightning.data.flow_throughput import throughput

    chosen = [name.partition("-") for name in engines]
    if args.engines is None:
        chosen = [one for one in chosen if one[0] == "tvl1"]
    if args.batch < 1 or any(algorithm != "tvl1" for algorithm, _, _ in chosen):
        raise UserError("--batch N is for 1 pair or more of tvl1 engines; name them: --engines tvl1-fast,tvl1-accurate")
    for algorithm, _, preset in chosen:
        make_engine(algorithm, preset, device=args.device)  # says what is wrong
        found = throughput(preset, args.batch, args.size[::-1], args.device, args.repeats)
        print(f"tvl1-{preset}, {args.batch} pairs at once on {args.device}: {found}", flush=True)


def _flow(args: argparse.Namespace) -> None:
    from mml_lightning.data import flow_bench

    engines = args.engines or flow_bench.ENGINES
    if args.repeats < 1:
        raise UserError(f"--repeats {args.repeats} must be 1 or more")
    if args.batch is not None:
        return _batched(engines, args)
    if args.reference and args.reference not in engines:
        raise UserError(f"--reference {args.reference} is not among the engines; use one of {list(engines)}")
    rows = flow_bench.compare(
        engines,
        size=(args.size[1], args.size[0]),
        repeats=args.repeats,
        device=args.device,
        advance=lambda engine: print(engine, file=sys.stderr, flush=True),
    )
    print(flow_bench.table(rows, args.reference))
    if args.json:
        content = {"size": args.size, "repeats": args.repeats, "device": args.device}
        content["rows"] = [dataclasses.asdict(row) for row in rows]
        try:
            args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"can't write {args.json} ({error.strerror}); name another --json") from None


def _size(text: str) -> tuple[int, int]:
    width, height = (int(part) for part in text.lower().split("x"))
    return width, height


BENCHES = {
    "data": Bench(bench_data.HELP, bench_data.declare, lambda args, _: bench_data.run(args)),
    "ensemble": Bench(bench_ensemble.HELP, bench_ensemble.declare, lambda args, _: bench_ensemble.run(args)),
    "end_to_end": Bench(bench_runs.END_TO_END, bench_runs.declare_end_to_end, bench_runs.end_to_end),
    "eval": Bench(bench_runs.EVAL, bench_runs.declare_eval, bench_runs.evaluation),
    "flow": Bench("engines of optical flow: time per pair and error", _declare_flow, lambda args, _: _flow(args)),
    "records": Bench(bench_records.HELP, bench_records.declare, bench_records.run),
    "step": Bench(bench_step.HELP, bench_step.declare, bench_step.run),
}


def declare(parser: argparse.ArgumentParser) -> None:
    parser.description = "Measure something on this machine."
    subparsers = parser.add_subparsers(required=True, metavar="WHAT")
    for name, bench in BENCHES.items():
        subparser = subparsers.add_parser(name, help=bench.help)
        bench.declare(subparser)
        subparser.set_defaults(bench=bench.run)


def run(args: argparse.Namespace, compose: Compose) -> None:
    """Raises:
    UserError: whatever the measurement finds wrong.
    """
    args.bench(args, compose)
