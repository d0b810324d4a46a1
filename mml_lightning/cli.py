"""The `mml` command. A subcommand imports what it needs when it runs, so that `mml --help` is instant."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mml_lightning import __version__, console
from mml_lightning.benchmarks import commands as bench
from mml_lightning.commands import ensemble, flow, graph, import_weights, pack, rerun, score
from mml_lightning.errors import UserError, exhausted
from mml_lightning.plain_text import VisibleStream, log_visibly

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mml_lightning.report import Table


@dataclass(frozen=True)
class Command:
    """One subcommand: `declare` adds its arguments, `run` does the work and raises UserError for a user's mistake."""

    help: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def _declare_report(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Table of every run below the directories: mean, spread and 95 %% interval over seeds. One directory gets "
        "table.md, .csv, .json and .html; several need --out for that. "
        "With --paired: compare two rows seed by seed instead."
    )
    parser.add_argument("dirs", nargs="+", type=Path, metavar="DIR", help="directory of a sweep, a pipeline or a run")
    parser.add_argument(
        "--split",
        default="test",
        choices=("test", "val", "both"),
        help="test falls back to val where a row has no test",
    )
    parser.add_argument(
        "--metric", help="for the table names such as top1,mean_class; for --paired a key (default: test/rgb/top1)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write the files (default: the only DIR)")
    parser.add_argument("--baseline", metavar="ROW", help="row that the page shows differences to (default: the first)")
    parser.add_argument("--paired", nargs=2, metavar=("A", "B"), help="two row names, as the column `name` shows them")
    parser.add_argument("--seeds", type=_seeds, metavar="0,1,2", help="with --paired: compare these seeds only")
    parser.add_argument(
        "--wandb",
        action="store_true",
        help="also log the table as a W&B run (offline if not logged in) and save a workspace and a report there",
    )


def _report(args: argparse.Namespace) -> None:
    from mml_lightning import report

    if args.paired:
        if args.wandb or args.out:
            raise UserError("--paired prints a comparison and writes no table; leave out --wandb and --out")
        a, b = args.paired
        print(report.paired(report.collect_all(args.dirs), a, b, args.metric or "test/rgb/top1", args.seeds))
        return
    if args.seeds:
        raise UserError("--seeds goes with --paired; a table shows all seeds")
    metrics = args.metric.split(",") if args.metric else None
    if metrics and any("/" in name for name in metrics):
        raise UserError(f"--metric {args.metric} is a key; the table takes its last part, such as top1")
    out = args.out or (args.dirs[0] if len(args.dirs) == 1 else None)
    runs = report.collect_all(args.dirs)
    table, papers = report.tabulate(runs, args.split, metrics), report.filled_tables(args.dirs)
    for paper in papers:
        print(report.filled_markdown(paper))
    print(report.markdown(table))
    if out is None:
        print("nothing written: several directories; name a place with --out DIR")
    else:
        print("wrote " + ", ".join(map(str, report.save(table, out, runs, args.baseline, papers))))
    if args.wandb:
        place = out or args.dirs[0]
        print(f"W&B run in {report.to_wandb(table, place, runs=runs, baseline=args.baseline)}")
        _save_views(table, place)


def _save_views(table: Table, directory: Path) -> None:
    """The saved workspace and report, where there is somebody to save them for; else why not."""
    from mml_lightning import report
    from mml_lightning.report import saved_views

    try:
        for address in saved_views.save_views(table, directory, report.Place()):
            print(f"saved {address}")
    except UserError as error:
        print(f"no saved views: {error}")


def _seeds(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _declare_check(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "One report on a dataset: missing, unreadable, short and identical videos, frame counts against lists, flow "
        "against frames, wrong frames of a decoder, near-identical videos in several splits, labels, classes per "
        "split, and how fast this machine loads it. Writes findings.csv, leaks.csv and report.html below "
        "<paths.root>/check/; later runs on the data take the right reader of each video from there and leave unusable "
        "training videos out (data.quarantine=ignore keeps them). An interrupted check continues where it was. "
        "Exit code 0 if the data are usable, 1 if something would stop or falsify a run, 2 for a wrong command."
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="the data, as for train.py: data=csv data.index=my_videos.csv"
    )
    parser.add_argument("--samples", type=int, default=4, metavar="N", help="frames read per video (default: 4)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="videos read at a time (default: cores)"
    )
    parser.add_argument("--no-timing", action="store_true", help="don't time how fast training samples load")


def _check(args: argparse.Namespace) -> None:
    from mml_lightning.commands import check

    logging.getLogger().setLevel(logging.INFO)  # progress without a terminal
    report, folder = check.run_check(_compose(args.overrides), args.samples, args.threads, not args.no_timing)
    print("\n".join(check.check_lines(report, folder)))
    if not report.usable:
        sys.exit(1)


def _compose(overrides: Sequence[str]) -> DictConfig:
    """The config that train.py composes from the same words."""
    from hydra import compose, initialize_config_dir

    from mml_lightning import arguments, config_guard, mistakes, resolvers

    conf = Path(__file__).resolve().parents[1] / "conf"
    if not conf.is_dir():
        raise UserError("no conf/ beside the package; install it from a clone: pip install -e <clone>")
    resolvers.register()
    config_guard.install()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            return compose("train", arguments.prepare(overrides, conf))
    except UserError:
        raise
    except Exception as error:
        if not mistakes.of_command_line(error):
            raise
        raise UserError(mistakes.one_line(error, conf)) from None


def _version(args: argparse.Namespace) -> None:
    print(__version__)


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    """`mml version` takes none."""


COMMANDS = {
    "bench": Command(
        "measure this machine: training steps, readers of clips, engines of optical flow",
        bench.declare,
        lambda args: bench.run(args, _compose),
    ),
    "check": Command("read every video of a dataset and say what is wrong with it", _declare_check, _check),
    "ensemble": Command(
        "which networks go well together: pairs, triples, sums of ranks", ensemble.declare, ensemble.run
    ),
    "flow": Command(
        "compute the flow of a dataset ahead of training, export it as images",
        flow.declare,
        lambda args: flow.run(args, _compose),
    ),
    "graph": Command(
        "draw who teaches whom in a stage",
        graph.declare,
        lambda args: graph.run(args, _compose),
    ),
    "import": Command(
        "weights of other projects (TSM, SlowFast, ..) to a zoo file",
        import_weights.declare,
        lambda args: import_weights.run(args, _compose),
    ),
    "pack": Command(
        "frames and flow of a dataset in a few files, for fast training",
        pack.declare,
        lambda args: pack.run(args, _compose),
    ),
    "report": Command("table of runs, or a paired comparison of two of its rows", _declare_report, _report),
    "rerun": Command("repeat a run from its directory and say whether the numbers are equal", rerun.declare, rerun.run),
    "score": Command("metrics of score dumps again, ensembles of runs, submission files", score.declare, score.run),
    "version": Command("print the version", _no_arguments, _version),
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands; the namespace it returns carries the chosen one's `run`."""
    parser = argparse.ArgumentParser(prog="mml", description="Tools around mml_lightning runs.")
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
    with console.guarded():
        return _run(parse(argv))


def _run(args: argparse.Namespace) -> int:
    log_visibly(logging.WARNING)
    try:
        with contextlib.redirect_stdout(VisibleStream(sys.stdout)):  # type: ignore[type-var]  # names come from files
            args.run(args)
    except UserError as error:
        print(f"mml: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mml: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if (spent := exhausted(error)) is None:
            raise
        print(f"mml: error: {spent}", file=sys.stderr)
        return 1
    return 0
