"""`mml bench records`: start-up and memory of loading against the number of records."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict

from mml_lightning.benchmarks.commands.shape import Bench, Compose, names, numbers, say
from mml_lightning.benchmarks.tables import BenchTable
from mml_lightning.utils.errors import UserError


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--records",
        type=numbers,
        default=[1_000, 10_000, 100_000],
        metavar="1e3,1e4",
        help="numbers of records (default: 1e3,1e4,1e5)",
    )
    told = "csv, pack, frame_lists, separated by commas (default: csv)"
    parser.add_argument("--kinds", type=names, default=["csv"], metavar="A,B", help=told)
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="of the loader (default: 2)")
    parser.add_argument("--samples", type=int, default=640, metavar="N", help="at most half an epoch (default: 640)")


def _run(args: argparse.Namespace, compose: Compose) -> Iterator[BenchTable]:
    """Raises:
    UserError: an argument is out of range.
    """
    from mml_lightning.benchmarks import record_lists, records
    from mml_lightning.utils.errors import check_choice

    for kind in args.kinds:
        check_choice("--kinds", kind, list(record_lists.KINDS))
    if min(args.records) < 100 or args.workers < 0:
        raise UserError("--records must be 100 or more each, and --workers 0 or more")
    rows: list[records.Row] = []
    for row in records.compare(compose, args.kinds, args.records, args.workers, args.samples, say):
        rows.append(row)
        whole = len(rows) == len(args.kinds) * len(args.records)
        told = records.sentence(rows) if whole else "stopped early: lists are missing"
        yield BenchTable([asdict(one) for one in rows], told, whole=whole)


BENCH = Bench(
    help="start-up and memory of loading against the number of records",
    description="Processor and clock seconds from the config to the first batch and memory of it with its workers, for "
    "CSV lists, packs and frame lists of small videos, each in a process of its own. With many --samples it shows "
    "whether memory stays flat.",
    run=_run,
    declare=_declare,
    rounds=None,
    devices=False,
)
