"""`mml bench step`: a training step several ways, against what the published program does per step."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from mml_lightning.benchmarks.commands.shape import USUAL, Bench, Compose, names, say
from mml_lightning.benchmarks.tables import BenchTable


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ways",
        type=names,
        metavar="baseline,float32",
        help="of baseline, baseline_kept, contiguous, float32, bfloat16, bare, compiled, twice "
        "(default: baseline,float32,bfloat16)",
    )
    parser.add_argument("--steps", type=int, default=1, metavar="N", help="per round (default: 1)")
    parser.add_argument("--alone", action="store_true", help="also every modality in a run of its own, the last way")


def _run(args: argparse.Namespace, compose: Compose) -> Iterator[BenchTable]:
    """Raises:
    UserError: the config or an argument is wrong.
    """
    from mml_lightning.benchmarks import compare_steps

    ways = args.ways or compare_steps.DEFAULT
    yield from compare_steps.compare(
        compose, args.overrides, ways, args.rounds, args.steps, args.alone, args.device, say
    )


BENCH = Bench(
    help="training step: formats, precisions, joint and alone, against the published program's",
    description="Training steps of a config on random clips, several ways alternately, a process each: the baseline, "
    "what the published program does per step (float32, the usual memory format, a shift of slices), and ours as a run "
    "makes them. On one thread the time is the processor's: trust the ratios.",
    run=_run,
    declare=_declare,
    words=USUAL,
)
