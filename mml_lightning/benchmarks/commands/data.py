"""`mml bench data`: what a training sample costs to read, from a pack, from loose images and from a video."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mml_lightning.benchmarks.commands.shape import Bench, Compose, names, say, size
from mml_lightning.benchmarks.tables import BenchTable

if TYPE_CHECKING:
    from mml_lightning.benchmarks.data import Row, Settings
    from mml_lightning.benchmarks.exact_frames import Row as Exact
    from mml_lightning.benchmarks.flow_errors import Errors

HALF_OF_IT = 0.5
MADE = {  # what makes the files of a way
    "pack": "mml pack",
    "pack, pictures decoded whole": "mml pack",
    "pack, flow at full size": "mml pack --flow-short-side 0",
    "pack, flow as PNG": "mml pack --flow-quality png",
    "pack, short side 128": "mml pack --short-side 128, whose frames are smaller",
}


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--videos", type=int, default=16, metavar="N", help="synthetic videos (default: 16)")
    parser.add_argument("--frames", type=int, default=45, metavar="N", help="frames of a video (default: 45)")
    told = "of the videos (default: 427x240, the size of Something-Something V2)"
    parser.add_argument("--size", type=size, default=(427, 240), metavar="WxH", help=told)
    told = "what is read: frames, flow or both (default: frames,flow)"
    parser.add_argument("--sources", type=names, default=["frames", "flow"], metavar="A,B", help=told)
    parser.add_argument(
        "--errors",
        nargs="*",
        type=Path,
        metavar="VIDEO",
        help="instead: error of flow stored as images, on the first 23 pairs of these videos (default: synthetic ones)",
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        help="instead: milliseconds of 8 sparse frames by codec and container, and the cost of analysing a file once",
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to make the videos (default: temporary)")


def _run(args: argparse.Namespace, compose: Compose) -> Iterator[BenchTable]:
    """Raises:
    UserError: a number is out of range, or a video can't be read.
    """
    from mml_lightning.benchmarks import data, exact_frames, flow_errors

    if args.exact:
        yield _exact(exact_frames.compare(exact_frames.Settings(args.frames, args.size, args.rounds), say))
        return
    if args.errors is not None:
        yield _errors(flow_errors.compare(args.errors, say))
        return
    settings = data.Settings(args.videos, args.frames, args.rounds, args.size, tuple(args.sources))
    for done, found in data.compare(settings, args.folder):
        yield _table(found, settings, done)


def _table(found: Sequence[Row], settings: Settings, done: int) -> BenchTable:
    """Of `done` rounds."""
    first, whole = found[0], done == settings.repeats
    rows = [
        {
            **{"way": way.way, "read_per_s": way.read, "samples_per_s": way.sample},
            **{"read_vs_first": way.read / first.read, "vs_first": way.sample / first.sample},
            **{"files": way.files, "kb": way.bytes / 1e3, "level_difference": way.levels},
        }
        for way in found
    ]
    told = _fastest(found) if whole else f"stopped early: {done} of {settings.repeats} rounds are complete"
    return BenchTable(rows, told, more={"settings": asdict(settings)}, whole=whole)


def _fastest(found: Sequence[Row]) -> str:
    """What limits the fastest way, and how its files are made."""
    fastest = max(found, key=lambda way: way.sample)
    share = fastest.sample / fastest.read  # of a sample's time
    if share < HALF_OF_IT:
        limit = "cropping and resizing are the bottleneck: a smaller transforms.output"
    else:
        limit = "decoding is the bottleneck" + (f": {MADE[fastest.way]}" if fastest.way in MADE else "")
    return f"{fastest.way}, the fastest, spends {share:.0%} of the time of a sample reading; {limit}"


def _exact(found: Sequence[Exact]) -> BenchTable:
    rows = [
        {
            **{"file": one.kind, "read_by": one.used, "sample_ms": one.sample, "pyav_ms": one.pyav},
            **{
                "alone_ms": one.alone,
                "wrong_alone": one.wrong,
                "vs_alone": one.alone and one.alone / one.sample,
            },
            **{"judge_ms": one.first, "decode_all_ms": one.whole},
        }
        for one in found
    ]
    safe = [one.alone / one.sample for one in found if one.used == "decord" and one.alone]
    told = "decord is not installed, or reads none of these files"
    if safe:
        told = f"where decord is exact, samples are read at {min(safe):.2f} to {max(safe):.2f} times its own speed"
    return BenchTable(rows, told, more={"rows": [asdict(one) for one in found]})


def _errors(found: Sequence[Errors]) -> BenchTable:
    rows = [
        {
            "flow stored as": coding,
            "added": {one.engine: one.added[coding] for one in found},
            "pair_kb": sum(one.bytes[coding] for one in found) / len(found) / 1e3,
        }
        for coding in found[0].added
    ]
    told = (f"{one.engine}: mean motion {one.motion:.2f} px, rounding to 8 bits {one.rounding:.3f}" for one in found)
    return BenchTable(rows, "; ".join(told), more={"errors": [asdict(one) for one in found]})


BENCH = Bench(
    help="clips per second from a pack, from loose JPEG files and from videos",
    description="Clips per second of one core, read from packs, from loose JPEG files (the layout of TSN) and from "
    "videos: 8 frames and 8 x 5 pairs of flow of synthetic videos; and by how many of 256 levels frames differ from "
    "those that OpenCV decodes whole. All variants alternate, so that other load affects them alike: trust the "
    "ratios.",
    run=_run,
    declare=_declare,
    rounds=5,
    devices=False,
)
