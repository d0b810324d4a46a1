"""`mml bench growth`: what twice the frames, pixels, networks, workers or views cost."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from pathlib import Path

from mml_lightning.benchmarks.commands.shape import HALF, USUAL, Bench, Compose, names, numbers, say
from mml_lightning.benchmarks.tables import BenchTable, writable, write
from mml_lightning.utils.errors import UserError

VARIED = {
    "frames": "of a clip (default: 4,8,16,32)",
    "size": "side of a frame (default: 112,160,224,256)",
    "peers": "equal networks that teach each other (default: 1,2,3,4)",
    "workers": "of the loader (default: 0,1,2)",
    "views": "of a video in evaluation (default: 1,2,4,8)",
}


def _declare(parser: argparse.ArgumentParser) -> None:
    told = "default: those with values, else all of them"
    parser.add_argument("--axes", type=names, metavar="frames,size", help=told)
    for axis, of in VARIED.items():
        parser.add_argument(f"--{axis}", type=numbers, metavar="N,N", help=of)
    parser.add_argument(
        "--steps", type=int, default=1, metavar="N", help="per round (default: 1), 8 times with workers"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="also draw the curves there")


def _check(args: argparse.Namespace) -> None:
    """Raises:
    UserError: the plot can't be written.
    """
    if args.plot is not None:
        if args.plot.suffix != ".svg":
            raise UserError(f"--plot {args.plot} must be a file .svg")
        args.plot = writable(args.plot, "--plot")


def _run(args: argparse.Namespace, compose: Compose) -> Iterator[BenchTable]:
    """Raises:
    UserError: an argument or the config is wrong, or the plot can't be written.
    """
    axes = args.axes or [axis for axis in VARIED if getattr(args, axis)] or list(VARIED)
    unknown = [axis for axis in axes if axis not in VARIED]
    if unknown:
        raise UserError(f"--axes {unknown[0]} is unknown; use some of {', '.join(VARIED)}")

    from mml_lightning.benchmarks import scaling, scaling_plot
    from mml_lightning.benchmarks.training_step import seen
    from mml_lightning.config import backbones
    from mml_lightning.utils.device import device_name

    chosen = {axis: scaling.values_of(axis, getattr(args, axis)) for axis in axes}
    cfg = compose([*args.overrides, "paths.output_dir=nowhere"])
    curves = []
    for axis, values in chosen.items():
        curve = yield from scaling.measure(
            axis, compose, args.overrides, values, args.rounds, args.steps, args.device, say
        )
        curves.append(curve)
        yield scaling.told(curve, functools.partial(seen, cfg, args.device))
    if args.plot is not None:
        told = (backbones.label(cfg), cfg.trainer.precision, f"batch {cfg.data.batch_size}", device_name(args.device))
        title = ", ".join(map(str, told))
        write(args.plot, scaling_plot.draw(curves, title), "--plot")


BENCH = Bench(
    help="clips/s against frames, size, peers, workers and views",
    description="Clips per second as one quantity grows at a time: frames, size and equal peers of training steps on "
    "random clips; workers of training from packed videos (on the wall); views of evaluation.",
    run=_run,
    check=_check,
    declare=_declare,
    words=(*USUAL, *HALF),
)
