"""`mml bench`: measurements of this machine. Each is a subcommand of its own: a file here and a line in BENCHES."""

from __future__ import annotations

import argparse

from mml_lightning.benchmarks.commands import (
    data,
    end_to_end,
    ensemble,
    evaluation,
    export,
    flow,
    growth,
    policy,
    records,
    step,
    stream,
)
from mml_lightning.benchmarks.commands.shape import Bench, Compose
from mml_lightning.benchmarks.commands.suite import Suite

BENCHES: dict[str, Bench | Suite] = {
    "data": data.BENCH,
    "ensemble": ensemble.BENCH,
    "end_to_end": end_to_end.BENCH,
    "eval": evaluation.BENCH,
    "export": export.BENCH,
    "flow": flow.BENCH,
    "growth": growth.BENCH,
    "policy": policy.BENCH,
    "records": records.BENCH,
    "step": step.BENCH,
    "stream": stream.BENCH,
    "suite": Suite(),
}


def declare(parser: argparse.ArgumentParser) -> None:
    parser.description = "Measure something on this machine."
    subparsers = parser.add_subparsers(required=True, metavar="WHAT")
    for name, bench in BENCHES.items():
        subparser = subparsers.add_parser(name, help=bench.help)
        bench.arguments(subparser)
        subparser.set_defaults(bench=bench)


def run(args: argparse.Namespace, compose: Compose) -> None:
    """Raises:
    UserError: whatever the measurement finds wrong.
    """
    args.bench(args, compose)
