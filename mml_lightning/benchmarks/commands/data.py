"""`mml bench data`: what a training sample costs to read, from a pack, from loose images and from a video."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mml_lightning.benchmarks.commands.shape import Bench, Told, say

if TYPE_CHECKING:
    from mml_lightning.benchmarks.commands.shape import Compose


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--videos", type=int, default=16, metavar="N", help="synthetic videos (default: 16)")
    parser.add_argument("--frames", type=int, default=45, metavar="N", help="frames of a video (default: 45)")
    parser.add_argument(
        "--errors",
        nargs="*",
        type=Path,
        metavar="VIDEO",
        help="instead: error of flow stored as images, on the first 23 pairs of these videos (default: synthetic ones)",
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to make the videos (default: temporary)")


def _run(args: argparse.Namespace, compose: Compose) -> Told:
    """Raises:
    UserError: a number is out of range, or a video can't be read.
    """
    from mml_lightning.data import data_bench, flow_errors

    if args.errors is not None:
        found = flow_errors.compare(args.errors, say)
        return Told(flow_errors.table(found), {"errors": [asdict(one) for one in found]})
    settings = data_bench.Settings(args.videos, args.frames, args.rounds)
    rows = data_bench.compare(settings, args.folder)
    return Told(data_bench.table(rows), data_bench.as_json(settings, rows))


BENCH = Bench(
    help="clips per second from a pack, from loose JPEG files and from videos",
    description="Clips per second of one core, read from packs, from loose JPEG files (the layout of TSN) and from "
    "videos: 8 frames and 8 x 5 pairs of flow of synthetic videos of 427x240, the size of Something-Something V2. All "
    "ways run alternately, so that whatever else the machine does meets them alike: trust the ratios.",
    run=_run,
    declare=_declare,
    rounds=5,
    devices=False,
)
