"""`mml bench end_to_end` and `mml bench eval`: training from files, and evaluation of several views."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mml_lightning.bench_step import USUAL, declare_common, prepare, say

if TYPE_CHECKING:
    from omegaconf import DictConfig

END_TO_END = "training from files to updated networks, against the published program's"
EVAL = "evaluation of several views, video by video and across videos"
HALF = ("trainer.precision=bf16-mixed",)
PAIR = (*HALF, "stage=mml", "modality=[rgb,flow]", "data.workers=0")


def declare_end_to_end(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Clips per second from the files of synthetic videos to updated networks: the baseline opens loose JPEG files "
        "with Pillow and sends float32, ours is a run from a pack. Words as for train.py, after: "
        + " ".join((*USUAL, *PAIR))
        + "."
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="the config, as for train.py")
    parser.add_argument("--videos", type=int, default=4, metavar="N", help="synthetic ones, an epoch (default: 4)")
    declare_common(parser, rounds=2)


def end_to_end(args: argparse.Namespace, compose: Callable[[Sequence[str]], DictConfig]) -> None:
    """Raises:
    UserError: the config or an argument is wrong.
    """
    from mml_lightning.benchmarks import end_to_end as bench
    from mml_lightning.benchmarks.timing import machine, write_json

    device, overrides = prepare(args), [*USUAL, *PAIR, *args.overrides]
    place = device if device.type == "cuda" else None
    rows = bench.compare(compose, overrides, args.videos, args.rounds, place, say)
    trainer = compose([*overrides, "paths.output_dir=nowhere"])
    print(f"{bench.table(rows)}\n{bench.sentence(rows, trainer.trainer.precision, trainer.data.workers)}")
    write_json(args.json, {"machine": machine(device), "overrides": overrides, "rows": bench.as_json(rows)})


def declare_eval(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Views per second of evaluation on random clips: one video per forward pass, and data.eval_batch_size views "
        "across videos. Words as for train.py, after: " + " ".join((*USUAL, *HALF)) + "."
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="the config, as for train.py")
    parser.add_argument("--videos", type=int, default=8, metavar="N", help="default: 8")
    parser.add_argument("--views", type=int, default=2, metavar="N", help="of each video (default: 2)")
    declare_common(parser)


def evaluation(args: argparse.Namespace, compose: Callable[[Sequence[str]], DictConfig]) -> None:
    """Raises:
    UserError: the config or an argument is wrong.
    """
    from mml_lightning.benchmarks import evaluation as bench
    from mml_lightning.benchmarks.timing import machine, write_json
    from mml_lightning.errors import UserError

    device, overrides = prepare(args), [*USUAL, *HALF, *args.overrides]
    if args.videos < 1 or args.views < 1:
        raise UserError(f"--videos {args.videos} and --views {args.views} must be 1 or more")
    place = device if device.type == "cuda" else None
    rows = bench.compare(compose, overrides, args.videos, args.views, args.rounds, place, say)
    precision = compose([*overrides, "paths.output_dir=nowhere"]).trainer.precision
    print(f"{bench.table(rows)}\n{bench.sentence(rows, precision)}")
    write_json(args.json, {"machine": machine(device), "overrides": overrides, "rows": bench.as_json(rows)})
