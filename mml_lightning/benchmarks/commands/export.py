"""`mml bench export`: one network as torch computes it, and in the formats of `mml export`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from mml_lightning.benchmarks.commands.shape import USUAL, Bench, Compose, names, say
from mml_lightning.benchmarks.tables import BenchTable


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ways",
        type=names,
        metavar="eager,onnx",
        help="of eager, torch, onnx and int8 (default: all)",
    )


def _run(args: argparse.Namespace, compose: Compose) -> Iterator[BenchTable]:
    """Raises:
    UserError: the config or an argument is wrong, or a package is missing.
    """
    from mml_lightning.benchmarks import export

    yield from export.compare(compose, args.overrides, args.ways, args.rounds, say)


BENCH = Bench(
    help="one network eager, by torch.export, by onnxruntime and in 8 bits: time and size",
    description="Random clips one at a time through the network of a config, its weights random, several ways "
    "alternately on one thread: eager, as torch computes it here; torch, the .pt2 file; onnx, by onnxruntime; int8, "
    "the same in 8 bits, whose accuracy random weights don't tell: mml export --int8 measures it.",
    run=_run,
    declare=_declare,
    words=USUAL,
    rounds=7,
    devices=False,
)
