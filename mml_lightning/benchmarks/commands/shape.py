"""What all measurements share: how one is declared, the arguments that several have, and where its tables go.

Nothing heavy is imported before one runs.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mml_lightning.benchmarks.commands.leaving import leaving
from mml_lightning.benchmarks.tables import BenchTable, made_by, writable, write_json
from mml_lightning.utils import terminal
from mml_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from mml_lightning.config.settings import Settings

Compose = Callable[[Sequence[str]], "Settings"]
USUAL = ("setup=ssv2", "data.root=nowhere", "data.batch_size=2", "optimizer.lr=0.001", "schedule=constant")
HALF = ("trainer.precision=bf16-mixed",)


@dataclass(frozen=True)
class Bench:
    """One measurement, a subcommand.

    Args:
        help: its line in `mml bench --help`; description: the head of its own.
        run: does it and raises UserError for a user's mistake; each table is told as it is whole, and before that
            whenever there is more of it, for calls that are cut. It gets the arguments
            and what makes a config of words; `args.device` is a torch.device, and `args.overrides` begins with `words`.
        declare: adds the arguments that it alone has; check: raises UserError for what is wrong with them, without
            importing anything heavy.
        words: what the words of a config come after; None: it takes none.
        rounds: how many by default; None: it has no rounds.
        devices: whether it can run elsewhere than on the CPU, and with several threads.
    """

    help: str
    description: str
    run: Callable[[argparse.Namespace, Compose], Iterator[BenchTable]]
    declare: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    check: Callable[[argparse.Namespace], None] = lambda args: None
    words: tuple[str, ...] | None = None
    rounds: int | None = 3
    devices: bool = True

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare all arguments."""
        parser.description = self.description
        parser.set_defaults(threads=1, device="cpu")
        if self.words is not None:
            parser.description += f" Overrides as for train.py, after: {' '.join(self.words)}."
            parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="the config, as for train.py")
        self.declare(parser)
        if self.rounds is not None:
            told = f"the best one counts (default: {self.rounds})"
            parser.add_argument("--rounds", "--repeats", type=int, default=self.rounds, metavar="N", help=told)
        if self.devices:
            parser.add_argument("--threads", type=int, metavar="N", help="of torch (default: 1)")
            parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cpu")
        parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")

    def __call__(self, args: argparse.Namespace, compose: Compose) -> None:
        """Measure, print and write.

        Raises:
            UserError: whatever the measurement finds wrong, or a file that can't be written.
        """
        self._prepare(args)
        from mml_lightning.benchmarks.timing import machine

        where, command = machine(args.device), without_json(args.typed)
        words = {} if self.words is None else {"overrides": args.overrides}
        tables: list[BenchTable] = []
        with leaving():
            try:
                for told in self._told(args, compose):
                    tables = [*(table for table in tables if table.whole), told]
                    content = [table.as_json() for table in tables]
                    write_json(args.json, {"command": command, "machine": where, **words, "tables": content})
                    if told.whole:
                        print_page(f"{told}\n\n")
            finally:
                if tables and not tables[-1].whole:
                    print_page(f"{tables[-1]}\n\n")
                if tables:  # the clock is not that of all benches here
                    print(
                        made_by(command, where | {k: v for k, v in tables[0].more.items() if k == "clock"}), flush=True
                    )

    def _told(self, args: argparse.Namespace, compose: Compose) -> Iterator[BenchTable]:
        from mml_lightning.engine import job

        try:
            yield from self.run(args, compose)
        except UserError:
            raise
        except Exception as error:  # libraries check settings in many ways
            if self.words is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            raise job.not_begun(error, args.overrides) from None

    def _prepare(self, args: argparse.Namespace) -> None:
        """Check what is shared; threads, quiet libraries and the device."""
        for name in ("rounds", "threads", "steps"):
            if getattr(args, name, 1) < 1:
                raise UserError(f"--{name} {getattr(args, name)} must be 1 or more")
        if args.json is not None:
            args.json = writable(args.json, "--json")
        self.check(args)
        import torch

        from mml_lightning.benchmarks.timing import device_of
        from mml_lightning.utils.process import quieten_libraries

        torch.set_num_threads(args.threads)
        quieten_libraries()
        args.device = device_of(args.device)
        if self.words is not None:
            args.overrides = [*self.words, *args.overrides]


def names(text: str) -> list[str]:
    """Of an argument that is a list: a,b."""
    return text.split(",")


def numbers(text: str) -> list[int]:
    """Of an argument that is a list of whole numbers: 1,2 or 1e3,1e4.

    Raises:
        argparse.ArgumentTypeError: there is something else in it.
    """
    found = [_number(part) for part in text.split(",")]
    for part, number in zip(text.split(","), found, strict=True):
        if not number.is_integer():
            raise argparse.ArgumentTypeError(f"{part!r} is not a whole number; give e.g. 1,2 or 1e3,1e4")
    return [int(number) for number in found]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def without_json(command: str) -> str:
    """A command line that measures the same and writes no file."""
    words, kept = iter(shlex.split(command)), []
    for word in words:
        option, equals, _ = word.partition("=")
        if len(option) > 2 and "--json".startswith(option):  # options may be shortened
            if not equals:
                next(words, None)
        else:
            kept.append(word)
    return shlex.join(kept)


def size(text: str) -> tuple[int, int]:
    """Of an argument WxH, in pixels."""
    width, height = (int(part) for part in text.lower().split("x"))
    return width, height


def say(what: str) -> None:
    """Progress."""
    print(what, file=sys.stderr, flush=True)


def print_page(markdown: str) -> None:
    """Drawn on a terminal; elsewhere as it is, to be kept."""
    if terminal.is_terminal(sys.stdout):
        terminal.show(markdown)
        print(flush=True)
    else:
        print(markdown, end="", flush=True)
