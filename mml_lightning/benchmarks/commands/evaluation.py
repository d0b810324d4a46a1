"""`mml bench eval`: evaluation of several views."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mml_lightning.benchmarks.commands.shape import HALF, USUAL, Bench, Told, say
from mml_lightning.errors import UserError

if TYPE_CHECKING:
    from mml_lightning.benchmarks.commands.shape import Compose


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--videos", type=int, default=8, metavar="N", help="default: 8")
    parser.add_argument("--views", type=int, default=2, metavar="N", help="of each video (default: 2)")


def _run(args: argparse.Namespace, compose: Compose) -> Told:
    """Raises:
    UserError: the config or an argument is wrong.
    """
    from mml_lightning.benchmarks import evaluation as bench

    if args.videos < 1 or args.views < 1:
        raise UserError(f"--videos {args.videos} and --views {args.views} must be 1 or more")
    place = args.device if args.device.type == "cuda" else None
    rows = bench.compare(compose, args.overrides, args.videos, args.views, args.rounds, place, say)
    precision = compose([*args.overrides, "paths.output_dir=nowhere"]).trainer.precision
    return Told(f"{bench.table(rows)}\n{bench.sentence(rows, precision)}", {"rows": bench.as_json(rows)})


BENCH = Bench(
    help="evaluation of several views, video by video and across videos",
    description="Views per second of evaluation on random clips: one video per forward pass, and data.eval_batch_size "
    "views across videos.",
    run=_run,
    declare=_declare,
    words=(*USUAL, *HALF),
)
