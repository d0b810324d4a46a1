"""`mml bench eval`: evaluation of several views."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from mml_lightning.benchmarks.commands.shape import HALF, USUAL, Bench, Compose, say
from mml_lightning.benchmarks.tables import BenchTable
from mml_lightning.utils.errors import UserError


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--videos", type=int, default=8, metavar="N", help="default: 8")
    parser.add_argument("--views", type=int, default=2, metavar="N", help="of each video (default: 2)")


def _run(args: argparse.Namespace, compose: Compose) -> Iterator[BenchTable]:
    """Raises:
    UserError: the config or an argument is wrong.
    """
    from mml_lightning.benchmarks import evaluation as bench

    if args.videos < 1 or args.views < 1:
        raise UserError(f"--videos {args.videos} and --views {args.views} must be 1 or more")
    yield from bench.compare(compose, args.overrides, args.videos, args.views, args.rounds, args.device, say)


BENCH = Bench(
    help="evaluation of several views, video by video and across videos",
    description="Views per second of evaluation on random clips: one video per forward pass, and data.eval_batch_size "
    "views across videos.",
    run=_run,
    declare=_declare,
    words=(*USUAL, *HALF),
)
