"""`mml check`: its options, and what they start."""

from __future__ import annotations

import argparse
import logging
import os
import sys

from mml_lightning.cli.compose import compose_config


def declare(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> None:
    from mml_lightning.engine import check_data

    logging.getLogger().setLevel(logging.INFO)  # progress without a terminal
    report, folder = check_data.run_check(
        compose_config(args.overrides), args.samples, args.threads, not args.no_timing
    )
    print("\n".join(check_data.check_lines(report, folder)))
    if not report.usable:
        sys.exit(1)
