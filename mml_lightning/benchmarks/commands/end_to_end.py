"""`mml bench end_to_end`: training from files."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mml_lightning.benchmarks.commands.shape import HALF, USUAL, Bench, Told, say

if TYPE_CHECKING:
    from mml_lightning.benchmarks.commands.shape import Compose

PAIR = ("stage=mml", "modality=[rgb,flow]", "data.workers=0")


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--videos", type=int, default=4, metavar="N", help="synthetic ones, an epoch (default: 4)")


def _run(args: argparse.Namespace, compose: Compose) -> Told:
    """Raises:
    UserError: the config or an argument is wrong.
    """
    from mml_lightning.benchmarks import end_to_end as bench

    place = args.device if args.device.type == "cuda" else None
    rows = bench.compare(compose, args.overrides, args.videos, args.rounds, place, say)
    trainer = compose([*args.overrides, "paths.output_dir=nowhere"])
    told = bench.sentence(rows, trainer.trainer.precision, trainer.data.workers)
    return Told(f"{bench.table(rows)}\n{told}", {"rows": bench.as_json(rows)})


BENCH = Bench(
    help="training from files to updated networks, against the published program's",
    description="Clips per second from the files of synthetic videos to updated networks: the baseline opens loose "
    "JPEG files with Pillow and sends float32, ours is a run from a pack.",
    run=_run,
    declare=_declare,
    words=(*USUAL, *HALF, *PAIR),
    rounds=2,
)
