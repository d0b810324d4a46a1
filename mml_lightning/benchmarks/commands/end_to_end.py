"""`mml bench end_to_end`: training from files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from mml_lightning.benchmarks.commands.shape import HALF, USUAL, Bench, Compose, say
from mml_lightning.benchmarks.tables import BenchTable
from mml_lightning.utils.errors import UserError

PAIR = ("stage=mml", "modality=[rgb,flow]", "data.workers=0")


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--videos", type=int, default=4, metavar="N", help="synthetic ones (default: 4)")
    parser.add_argument("--clips", type=int, metavar="N", help="of a pass over them (default: one of each video)")
    parser.add_argument("--without-baseline", action="store_true", help="ours alone; needs no Pillow")


def _run(args: argparse.Namespace, compose: Compose) -> Iterator[BenchTable]:
    """Raises:
    UserError: the config or an argument is wrong.
    """
    from mml_lightning.benchmarks import end_to_end as bench

    if args.videos < 1:
        raise UserError(f"--videos {args.videos} must be 1 or more")
    counts, baseline = (args.videos, args.clips), not args.without_baseline
    yield from bench.compare(compose, args.overrides, *counts, baseline, args.rounds, args.device, say)


BENCH = Bench(
    help="training from files to updated networks, against the published program's",
    description="Clips per second from the files of synthetic videos to updated networks: the baseline opens loose "
    "JPEG files with Pillow and sends float32, ours is a run from a pack.",
    run=_run,
    declare=_declare,
    words=(*USUAL, *HALF, *PAIR),
    rounds=2,
)
