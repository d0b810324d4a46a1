"""`mml bench data`: what a training sample costs to read, from a pack, from loose images and from a video."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "clips per second from a pack, from loose JPEG files and from videos"


def declare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Clips per second of one core, read from packs, from loose JPEG files (the layout of TSN) and from videos: "
        "8 frames and 8 x 5 pairs of flow of synthetic videos of 427x240, the size of Something-Something V2. All ways "
        "run alternately, so that whatever else the machine does meets them alike: trust the ratios."
    )
    parser.add_argument("--videos", type=int, default=16, metavar="N", help="synthetic videos (default: 16)")
    parser.add_argument("--frames", type=int, default=45, metavar="N", help="frames of a video (default: 45)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds, of which the best counts")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to make the videos (default: temporary)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")


def run(args: argparse.Namespace) -> None:
    """Raises:
    UserError: a number is out of range, or a file can't be written.
    """
    from mml_lightning.data import data_bench
    from mml_lightning.errors import UserError

    settings = data_bench.Settings(args.videos, args.frames, args.repeats)
    rows = data_bench.compare(settings, args.folder)
    print(data_bench.table(rows))
    if args.json:
        try:
            args.json.write_text(json.dumps(data_bench.as_json(settings, rows), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"can't write {args.json} ({error.strerror})") from None
