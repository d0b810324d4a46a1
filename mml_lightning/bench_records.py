"""`mml bench records`: start-up and memory of loading against the number of records."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mml_lightning.bench_step import say
from mml_lightning.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

HELP = "start-up and memory of loading against the number of records"


def declare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Processor seconds from the config to the first batch and memory of it with its workers, for CSV lists "
        "of small videos, each in a process of its own. With many --samples it shows whether memory stays flat."
    )
    parser.add_argument(
        "--records",
        type=lambda text: [int(float(part)) for part in text.split(",")],
        default=[1_000, 10_000, 100_000],
        metavar="1e3,1e4",
        help="numbers of records (default: 1e3,1e4,1e5)",
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="of the loader (default: 2)")
    parser.add_argument("--samples", type=int, default=640, metavar="N", help="at most half an epoch (default: 640)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")


def run(args: argparse.Namespace, compose: Callable[[Sequence[str]], DictConfig]) -> None:
    """Raises:
    UserError: an argument is out of range.
    """
    import torch

    from mml_lightning.benchmarks import records
    from mml_lightning.benchmarks.timing import machine, write_json

    if min(args.records) < 100 or args.workers < 0:
        raise UserError("--records must be 100 or more each, and --workers 0 or more")
    rows = records.compare(compose, args.records, args.workers, args.samples, say)
    print(f"{records.table(rows)}\n{records.sentence(rows)}")
    write_json(args.json, {"machine": machine(torch.device("cpu")), "rows": records.as_json(rows)})
