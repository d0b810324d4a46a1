"""The `mml` command. A subcommand imports what it needs when it runs, so that `mml --help` is instant."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mml_lightning import __version__
from mml_lightning.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig


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
    parser.add_argument("--paired", nargs=2, metavar=("A", "B"), help="two row names, as the column `name` shows them")
    parser.add_argument("--seeds", type=_seeds, metavar="0,1,2", help="with --paired: compare these seeds only")
    parser.add_argument(
        "--wandb", action="store_true", help="also log the table as a W&B run (offline if not logged in)"
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
    table = report.tabulate(report.collect_all(args.dirs), args.split, metrics)
    print(report.markdown(table))
    if out is None:
        print("nothing written: several directories; name a place with --out DIR")
    else:
        print("wrote " + ", ".join(map(str, report.save(table, out))))
    if args.wandb:
        place = out or args.dirs[0]
        print(f"W&B run in {report.to_wandb(table, place)}")


def _seeds(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _declare_check(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Reads every video with decord and PyAV and compares frames: finds unreadable and one-frame videos, wrong "
        "frames, identical videos in several splits, uneven classes. Writes <paths.root>/check/<data.name>.csv, from "
        "which later runs take the right reader of each video. Exit code 1 if a video is unreadable."
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="the data, as for train.py: data=csv data.index=my_videos.csv"
    )
    parser.add_argument("--samples", type=int, default=4, metavar="N", help="frames compared per video (default: 4)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="videos read at a time (default: cores)"
    )


def _check(args: argparse.Namespace) -> None:
    from mml_lightning import build_data, nodes
    from mml_lightning.data import check
    from mml_lightning.progress import Progress

    logging.basicConfig(format="%(message)s", level=logging.INFO)  # progress without a terminal
    cfg = _compose(args.overrides)
    nodes.plain(cfg.data)  # a required value is missed by its own name
    data = build_data.records(cfg)
    file = Path(cfg.paths.root) / "check" / f"{cfg.data.name}.csv"
    with ExitStack() as stack:

        def begin(videos: int) -> Callable[[], object]:
            print(f"checking {videos} videos of {data.name} with {args.threads} threads", flush=True)
            return stack.enter_context(Progress(videos, "check")).advance

        findings = check.check(data, file, args.samples, args.threads, begin)
    print("\n".join([*check.report(data, findings), f"wrote {file}"]))
    if any(finding.decoder == check.UNREADABLE for finding in findings):
        sys.exit(1)


def _compose(overrides: Sequence[str]) -> DictConfig:
    """The config that train.py composes from the same words."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    from mml_lightning import arguments, resolvers

    conf = Path(__file__).resolve().parents[1] / "conf"
    if not conf.is_dir():
        raise UserError("no conf/ beside the package; install it from a clone: pip install -e <clone>")
    resolvers.register()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            return compose("train", arguments.prepare(overrides, conf))
    except HydraException as error:
        raise UserError(" ".join(str(error).split())) from None


def _version(args: argparse.Namespace) -> None:
    print(__version__)


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    """`mml version` takes none."""


COMMANDS = {
    "check": Command("read every video of a dataset and say what is wrong with it", _declare_check, _check),
    "report": Command("table of runs, or a paired comparison of two of its rows", _declare_report, _report),
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; exit code 0, or 2 with one line on stderr for a user's mistake, 130 if interrupted."""
    args = build_parser().parse_args(argv)
    try:
        args.run(args)
    except UserError as error:
        print(f"mml: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mml: interrupted", file=sys.stderr)
        return 130
    return 0
