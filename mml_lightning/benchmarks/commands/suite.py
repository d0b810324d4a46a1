"""`mml bench suite`: one measurement after another within a budget of time, for a machine that is there for minutes.

What matters most comes first, and whatever is measured is on the disk at once.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mml_lightning.benchmarks.commands.leaving import leaving
from mml_lightning.benchmarks.commands.shape import USUAL, Compose, print_page, say
from mml_lightning.benchmarks.tables import writable
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import Busy, locked

PAGE = "page.md"
LEFT = ("json", "md", "log")  # endings of the files of a part
SHORTEST = 10.0  # seconds that a part is begun for
ENDING = 10.0  # seconds that a part may take to end


@dataclass(frozen=True)
class Part:
    """One of the measurements.

    Args:
        name: of its files; title: of its tables; words: after `mml bench`.
    """

    name: str
    title: str
    words: str

    def command(self, overrides: Sequence[str], device: str) -> list[str]:
        """Of `mml`; engines of flow take no words of a config."""
        configured = () if self.words.startswith("flow ") else overrides
        return ["bench", *self.words.split(), *configured, "--device", device]


@dataclass(frozen=True)
class Sizes:
    """How much a kind of device is given: batches of a network alone and of two, steps of a round, workers of a loader
    and the clips that they read, views of an evaluation, pairs of flow at once."""

    batch: int
    half: int
    steps: int
    workers: Sequence[int]
    clips: int
    views: Sequence[int]
    pairs: int


SIZES = {
    "cpu": Sizes(batch=2, half=2, steps=1, workers=(0, 1), clips=8, views=(1, 2), pairs=4),
    "cuda": Sizes(
        batch=64, half=32, steps=20, workers=(0, 1, 2, 4, 8, 16), clips=4096, views=(1, 2, 4, 10, 30), pairs=256
    ),
}
AXES = "frames,size,peers,views,workers"
WAYS = "baseline,contiguous,float32,bfloat16,twice"


def parts(device: str, cores: float = math.inf) -> list[Part]:
    """In the order of what matters, on a machine with so many cores."""
    n = SIZES[device]
    one, two, few = (
        f"data.batch_size={n.batch} --steps {n.steps}",
        f"data.batch_size={n.half} --steps {n.steps}",
        f"data.batch_size={n.half} --steps {max(1, n.steps // 4)}",
    )
    workers = [number for number in n.workers if number <= cores]  # more would measure how they wait for each other
    files = f"data.workers={workers[-1]} --videos 4 --clips {n.clips} --without-baseline"
    values = f"--axes {AXES} --workers {_list(workers)} --views {_list(n.views)}"
    both = "stage=mml modality=[rgb,flow]"
    made = [
        Part("step", "A run against a bare loop", f"step {one} --ways bare,bfloat16"),
        Part("joint", "Two networks together and alone", f"step {two} {both} --ways bfloat16 --alone"),
        Part("end_to_end", "From packs, two networks", f"end_to_end data.batch_size={n.half} {files}"),
        Part(
            "end_to_end_rgb", "From packs, RGB", f"end_to_end data.batch_size={n.batch} stage=ce modality=[rgb] {files}"
        ),
        Part("flow_made", "Flow made on the device", f"step {few} modality=[liveflow] --ways bfloat16"),
        Part("flow_read", "Flow that was read", f"step {few} modality=[flow] --ways bfloat16"),
        Part("flow_engines", "TV-L1 in large batches", f"flow --engines tvl1-fast,tvl1-accurate --batch {n.pairs}"),
        Part("growth", "Growth", f"growth {few} {values} --rounds 2"),
        Part("ways", "Ways of a step", f"step {few} --ways {WAYS}"),
        Part("eval", "Evaluation", f"eval --videos {n.half} --views 10 data.eval_batch_size={n.batch}"),
        # the last one: where no compiler is installed the others are to be whole
        Part("compiled", "A compiled step", f"step {few} --ways bfloat16,compiled"),
    ]
    return made


def _list(values: Sequence[int]) -> str:
    return ",".join(map(str, values))


class Suite:
    """As a :class:`Bench`, of several of them."""

    help = "training, reading, flow and growth within a time budget, the most important first"

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        names = [part.name for part in parts("cpu")]
        parser.description = (
            f"One measurement after another ({', '.join(names)}), each in its own process, until the time is up. "
            f"Each leaves NAME.json, NAME.md and NAME.log; {PAGE} has all tables and is printed. Overrides of train.py "
            "are appended to those of each measurement."
        )
        parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="the config, as for train.py")
        parser.add_argument("--minutes", type=float, default=10.0, metavar="M", help="in all (default: 10)")
        parser.add_argument("--parts", metavar="A,B", help="some of these parts (default: all)")
        parser.add_argument("--device", choices=tuple(SIZES), help="default: cuda where there is a GPU")
        parser.add_argument(
            "--out", type=Path, default=Path("multirun/bench"), metavar="DIR", help="default: multirun/bench"
        )

    def __call__(self, args: argparse.Namespace, compose: Compose) -> None:
        """Measure, print and write.

        Raises:
            UserError: an argument is wrong, or a measurement failed.
        """
        if not 60 * args.minutes >= SHORTEST:  # NaN is not
            least = f"{SHORTEST / 60:.2g}, a part is begun for {SHORTEST:g} seconds at least"
            raise UserError(f"--minutes {args.minutes:g} must be a number above {least}")
        import torch

        from mml_lightning.benchmarks.timing import device_of
        from mml_lightning.utils.threads import cores

        device = device_of(args.device or ("cuda" if torch.cuda.is_available() else "cpu")).type
        chosen = {part.name: part for part in parts(device, cores())}
        names = args.parts.split(",") if args.parts else list(chosen)
        for name in names:
            if name not in chosen:
                raise UserError(f"--parts {name} is unknown; use some of {', '.join(chosen)}")
        compose([*USUAL, *args.overrides, "paths.output_dir=nowhere"])  # says what is wrong before minutes are spent
        try:
            args.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"can't write {args.out} ({error.strerror}); name another --out") from None
        for file in (PAGE, *(f"{name}.{ending}" for name in names for ending in LEFT)):
            writable(args.out / file, "--out")
        try:
            with locked(args.out), leaving():  # a part, a session of its own, hears nothing of it
                self._measure_all([chosen[name] for name in names], device, args)
        except Busy:
            raise UserError(f"another process measures into {args.out}; name another --out") from None

    def _measure_all(self, chosen: Sequence[Part], device: str, args: argparse.Namespace) -> None:
        (args.out / PAGE).unlink(missing_ok=True)
        until, failed = time.monotonic() + 60 * args.minutes, []
        for part in chosen:
            ended = _measure(part, device, args.overrides, args.out, until)
            with (args.out / PAGE).open("a", encoding="utf-8") as page:
                page.write(told := _section(part, args.out, ended))
            print_page(told)
            failed += [part.name] if ended.startswith("failed") else []
        if failed:
            raise UserError(f"{', '.join(failed)} failed; see {args.out}/{failed[0]}.log")


def _measure(part: Part, device: str, overrides: Sequence[str], folder: Path, until: float) -> str:
    """How it ended: "" or why there is not all of it."""
    begun = time.monotonic()
    for ending in LEFT:
        (folder / f"{part.name}.{ending}").unlink(missing_ok=True)
    if until - begun < SHORTEST:
        return "not started: out of time"
    words = part.command(overrides, device)
    say(f"{part.name}: mml {shlex.join(words)}")
    with (folder / f"{part.name}.md").open("wb") as out, (folder / f"{part.name}.log").open("wb") as log:
        command = [sys.executable, "-m", "mml_lightning", *words, "--json", str(folder / f"{part.name}.json")]
        process = subprocess.Popen(command, stdout=out, stderr=log, start_new_session=True)
        try:
            code = process.wait(until - begun)
        except subprocess.TimeoutExpired:
            return f"out of time before the end of `mml {shlex.join(words)}`"
        finally:
            _end(process)
    say(f"{part.name}: {time.monotonic() - begun:.0f} s")
    if code == 0:
        return ""
    lines = (folder / f"{part.name}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"failed: {lines[-1] if lines else f'exit code {code}'}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process and those that it started: the device is to be free for the next."""
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(ENDING)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _section(part: Part, folder: Path, ended: str) -> str:
    file = folder / f"{part.name}.md"
    tables = file.read_text(encoding="utf-8").strip() if file.exists() else ""
    return "\n\n".join(filter(None, [f"## {part.title}", tables, ended])) + "\n\n"
