"""`mml bench stream`: what a new frame costs with kept channels, and as a whole clip."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from mml_lightning.benchmarks.commands.shape import USUAL, Bench, Compose, names, say
from mml_lightning.benchmarks.tables import BenchTable

NETWORKS = "tsm_mobilenet_v2,tsm_efficientnet_lite0"


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", type=names, default=names(NETWORKS), metavar="A,B", help=f"default: {NETWORKS}")


def _run(args: argparse.Namespace, compose: Compose) -> Iterator[BenchTable]:
    """Raises:
    UserError: a network is unknown, or can't be had with the online shift.
    """
    from mml_lightning.benchmarks import stream

    yield from stream.measure(compose, args.overrides, args.networks, args.rounds, args.device, say)


BENCH = Bench(
    help="a new frame of a stream: kept channels, against a whole clip per frame",
    description="Networks of the online shift (random weights) on random frames, in turn: frame by frame with the "
    "channels of the frame before kept, and a whole clip for every new frame. Medians and the slowest twentieth, of "
    "the network alone. On one thread the time is the processor's: trust the ratios.",
    run=_run,
    declare=_declare,
    words=USUAL,
    rounds=5,
)
