"""`mml report`: its options, and what they start."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mml_lightning.utils import terminal
from mml_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from mml_lightning.report import Table


def declare(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument("--baseline", metavar="ROW", help="row that the page compares with (default: the first)")
    parser.add_argument("--paired", nargs=2, metavar=("A", "B"), help="two row names, as the column `name` shows them")
    parser.add_argument("--seeds", type=_seeds, metavar="0,1,2", help="with --paired: compare these seeds only")
    parser.add_argument(
        "--wandb",
        action="store_true",
        help="also log the table as a W&B run (offline if not logged in) and save a workspace and a report there",
    )


def run(args: argparse.Namespace) -> None:
    from mml_lightning import report as report_module

    if args.paired:
        if args.wandb or args.out:
            raise UserError("--paired writes no table; remove --wandb and --out")
        a, b = args.paired
        print(
            report_module.paired(report_module.collect_all(args.dirs), a, b, args.metric or "test/rgb/top1", args.seeds)
        )
        return
    if args.seeds:
        raise UserError("--seeds needs --paired; a table shows all seeds")
    metrics = args.metric.split(",") if args.metric else None
    if metrics and any("/" in name for name in metrics):
        raise UserError(f"--metric {args.metric} is a key; the table takes its last part, such as top1")
    out = args.out or (args.dirs[0] if len(args.dirs) == 1 else None)
    runs = report_module.collect_all(args.dirs)
    table, papers = report_module.tabulate(runs, args.split, metrics), report_module.filled_tables(args.dirs)
    for paper in papers:
        terminal.show(report_module.filled_markdown(paper))
        print()
    terminal.show(report_module.markdown(table))
    print()
    if out is None:
        print("nothing written: several directories need --out DIR")
    else:
        print("wrote " + ", ".join(map(str, report_module.save(table, out, runs, args.baseline, papers))))
    if args.wandb:
        place = out or args.dirs[0]
        print(f"W&B run in {report_module.to_wandb(table, place, runs=runs, baseline=args.baseline)}")
        _save_views(table, place)


def _save_views(table: Table, directory: Path) -> None:
    """The saved workspace and report, where there is somebody to save them for; else why not."""
    from mml_lightning import report as report_module
    from mml_lightning.report import wandb_workspace

    try:
        for address in wandb_workspace.save_views(table, directory, report_module.Place()):
            print(f"saved {address}")
    except UserError as error:
        print(f"no saved views: {error}")


def _seeds(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
