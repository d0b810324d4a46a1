"""`mml bench ensemble`: how long Table 13 takes, every choice of one network per modality, at the size of SSv2."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from mml_lightning.benchmarks.commands.shape import Bench, Compose, numbers
from mml_lightning.benchmarks.tables import BenchTable
from mml_lightning.utils.errors import UserError


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--groups", type=numbers, default=[13, 11, 6], metavar="N,N", help="networks (13,11,6)")
    parser.add_argument("--videos", type=int, default=24_777, metavar="N", help="videos (default: 24777)")
    parser.add_argument("--classes", type=int, default=174, metavar="N", help="classes (default: 174)")
    parser.add_argument(
        "--plain", type=int, default=5, metavar="N", help="ensembles made one by one, to compare (default: 5)"
    )


def _run(args: argparse.Namespace, compose: Compose) -> Iterator[BenchTable]:
    """Raises:
    UserError: a number is out of range.
    """
    from mml_lightning.benchmarks import ensemble

    if min(*args.groups, args.videos, args.plain) < 1 or args.classes < 2:
        raise UserError("--groups, --videos and --plain start at 1, --classes at 2")
    yield ensemble.told(ensemble.measure(args.groups, args.videos, args.classes, args.plain))


BENCH = Bench(
    help="all ensembles of one network per modality, synthetic scores of the size of SSv2",
    description="Time and memory of enumerating every ensemble of one network per group, on random scores, with one "
    "thread; for comparison, a few of them one by one, as `mml score` does. Trust the ratio.",
    run=_run,
    declare=_declare,
    rounds=None,
    devices=False,
)
