"""`mml bench step`: a training step several ways, against what the published program does per step."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from omegaconf import DictConfig

HELP = "training step: formats, precisions, joint and alone, against the published program's"
USUAL = ("setup=ssv2", "data.root=nowhere", "data.batch_size=2", "optimizer.lr=0.001", "schedule=constant")


def declare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Training steps of a config on random clips, several ways alternately in one process: the baseline, what the "
        "published program does per step (float32, the usual memory format, a shift of slices), and ours as a run "
        "makes them. On one thread the time is the processor's: trust the ratios. Words as for train.py, after: "
        + " ".join(USUAL)
        + "."
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="the config, as for train.py")
    declare_common(parser)
    parser.add_argument(
        "--ways",
        type=lambda text: text.split(","),
        metavar="baseline,float32",
        help="of baseline, contiguous, float32, bfloat16, compiled, twice (default: baseline,float32,bfloat16)",
    )
    parser.add_argument("--steps", type=int, default=1, metavar="N", help="per round (default: 1)")
    parser.add_argument("--alone", action="store_true", help="also every modality in a run of its own, the last way")


def declare_common(parser: argparse.ArgumentParser, rounds: int = 3) -> None:
    """Arguments of every bench of networks."""
    parser.add_argument(
        "--rounds", type=int, default=rounds, metavar="N", help=f"the best one counts (default: {rounds})"
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch (default: 1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")


def run(args: argparse.Namespace, compose: Callable[[Sequence[str]], DictConfig]) -> None:
    """Raises:
    UserError: the config or an argument is wrong.
    """
    from mml_lightning.benchmarks import step
    from mml_lightning.benchmarks.timing import machine, write_json

    device = prepare(args)
    ways = args.ways or step.DEFAULT
    overrides = [*USUAL, *args.overrides]
    rows = step.compare(compose, overrides, ways, args.rounds, args.steps, args.alone, device, say)
    told = [step.table(rows)]
    ratio = step.joint_ratio(rows)
    if ratio is not None:
        told.append(f"a joint step takes {ratio:.3f} of the steps of its networks alone")
    print("\n".join([*told, step.sentence(rows)]))
    content = {"machine": machine(device), "overrides": overrides, "rows": step.as_json(rows), "joint": ratio}
    write_json(args.json, content)


def prepare(args: argparse.Namespace) -> torch.device:
    """Threads, quiet libraries and the device of a bench.

    Raises:
        UserError: a number is out of range, or there is no such device.
    """
    import torch

    from mml_lightning.benchmarks.timing import device_of
    from mml_lightning.errors import UserError
    from mml_lightning.process import quieten_libraries

    for name in ("rounds", "threads"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)} must be 1 or more")
    torch.set_num_threads(args.threads)
    quieten_libraries()
    return device_of(args.device)


def say(way: str) -> None:
    """Progress."""
    print(way, file=sys.stderr, flush=True)
