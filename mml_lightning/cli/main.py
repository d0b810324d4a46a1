"""The `mml` command. A subcommand imports what it needs when it runs, so that `mml --help` is instant."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import runpy
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mml_lightning import __version__
from mml_lightning.benchmarks import commands as bench
from mml_lightning.cli.commands import (
    check,
    doctor,
    ensemble,
    errors,
    export,
    flow,
    graph,
    import_weights,
    pack,
    predict,
    report,
    rerun,
    score,
    serve,
    stream,
)
from mml_lightning.cli.compose import compose_config
from mml_lightning.utils import console, program
from mml_lightning.utils.errors import UserError, exhausted
from mml_lightning.utils.exit_codes import FAILURE
from mml_lightning.utils.plain_text import VisibleStream
from mml_lightning.utils.terminal import log_visibly, say_error
from mml_lightning.utils.threads import wait_briefly


@dataclass(frozen=True)
class Command:
    """One subcommand: `declare` adds its arguments, `run` does the work and raises UserError for a user's mistake."""

    help: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def _version(args: argparse.Namespace) -> None:
    print(__version__)


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    """`mml version` takes none."""


def _program(name: str, words: Sequence[str]) -> None:
    """Run train.py or eval.py as this process, so that what it starts (ranks, jobs) starts that file again."""
    sys.argv[1:] = words
    runpy.run_path(str(program.PROGRAMS / f"{name}.py"), run_name="__main__")


COMMANDS = {
    "train": Command("train a stage, a pipeline or a sweep", _no_arguments, lambda args: _program("train", [])),
    "eval": Command("evaluate what was trained", _no_arguments, lambda args: _program("eval", [])),
    "bench": Command(
        "benchmark this machine: training steps, clip readers, optical flow engines",
        bench.declare,
        lambda args: bench.run(args, compose_config),
    ),
    "check": Command("read every video of a dataset and report problems", check.declare, check.run),
    "doctor": Command("will this modality help? compare networks by their scores", doctor.declare, doctor.run),
    "ensemble": Command("find good ensembles: pairs, triples, rank sums", ensemble.declare, ensemble.run),
    "errors": Command("show what a run gets wrong: a page with pictures, csv files", errors.declare, errors.run),
    "export": Command(
        "export one network as a folder for onnxruntime or torch, with infer.py", export.declare, export.run
    ),
    "flow": Command(
        "precompute the optical flow of a dataset, export it as images",
        flow.declare,
        lambda args: flow.run(args, compose_config),
    ),
    "graph": Command(
        "draw who teaches whom in a stage",
        graph.declare,
        lambda args: graph.run(args, compose_config),
    ),
    "import": Command(
        "convert weights of other projects (TSM, SlowFast, ..) to a zoo file",
        import_weights.declare,
        lambda args: import_weights.run(args, compose_config),
    ),
    "pack": Command(
        "pack frames and flow of a dataset into a few files, for fast training",
        pack.declare,
        lambda args: pack.run(args, compose_config),
    ),
    "predict": Command("classify videos with trained networks", predict.declare, predict.run),
    "report": Command("make the table of runs, or compare two of its rows", report.declare, report.run),
    "rerun": Command("repeat a run and compare every number", rerun.declare, rerun.run),
    "score": Command("recompute metrics from score dumps, ensembles, submission files", score.declare, score.run),
    "serve": Command("a local page for the networks of a run: drop a video, see its scores", serve.declare, serve.run),
    "stream": Command("classes of a video or a camera, frame by frame", stream.declare, stream.run),
    "version": Command("print the version", _no_arguments, _version),
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands; the namespace it returns carries the chosen one's `run`."""
    parser = argparse.ArgumentParser(prog="mml", description="Mutual Modality Learning on video.")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.help)
        command.declare(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of one subcommand; words of a config may stand before, between and after options."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    args.typed = shlex.join(["mml", *(sys.argv[1:] if argv is None else argv)])
    unknown = [word for word in rest if word.startswith("-") or "=" not in word or not hasattr(args, "overrides")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; exit code 0, or 2 with one line on stderr for a user's mistake, 1 where the machine has too
    little of something, 130 if interrupted."""
    wait_briefly()
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        module = Path(sys.argv[0]).name == "__main__.py"
        os.environ[program.STARTED] = "python -m mml_lightning" if module else "mml"
    if words and words[0] in program.NAMES:  # Hydra reads what follows
        _program(words[0], words[1:])
        return 0
    with console.guarded():
        try:
            return _run(argv)
        except MemoryError as error:  # there was too little to say what went wrong
            console.release_reserve()
            say_error(f"mml: error: {exhausted(error)}")
            return FAILURE


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = parse(argv)
        log_visibly(logging.WARNING)
        with contextlib.redirect_stdout(VisibleStream(sys.stdout)):  # type: ignore[type-var]  # names come from files
            args.run(args)
    except UserError as error:
        say_error(f"mml: error: {error}")
        return 2
    except KeyboardInterrupt:
        print("mml: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if (spent := exhausted(error)) is None:
            raise
        say_error(f"mml: error: {spent}")
        return FAILURE
    return 0
