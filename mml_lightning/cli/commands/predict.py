"""`mml predict`: what trained networks say of videos that need no label and no run."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mml_lightning.cli.arguments import add_networks
from mml_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from mml_lightning.engine.journal import Batch, Journal
    from mml_lightning.engine.predict import Predictor
    from mml_lightning.engine.predict_files import Part
    from mml_lightning.engine.prediction import Prediction

SHOWN = 5  # videos named in a message


def declare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Scores of videos by the networks of a run, a checkpoint, a zoo file or an alias: clips are drawn, cropped and "
        "pooled as eval.py does, with the same scores; flow is computed on the way. With --csv, --json or --npz a "
        "second start resumes where the first stopped. Exit code 0, 1 if a video has no scores, 2 for a wrong command."
    )
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="a video, a folder, a pattern ('*.mp4'), a CSV with a column of paths, or - for a list on standard input",
    )
    add_networks(parser)
    parser.add_argument("--peer", type=_names, metavar="rgb,flow", help="which networks (default: all)")
    parser.add_argument("--topk", type=int, default=5, metavar="N", help="classes that are named (default: 5)")
    parser.add_argument("--window", type=float, metavar="SECONDS", help="scores of every so many seconds of a video")
    parser.add_argument("--stride", type=float, metavar="SECONDS", help="from one window to the next (default: half)")
    parser.add_argument("--split", help="of a CSV: only lines of this split")
    parser.add_argument("--root", help="folder that paths in a CSV are relative to (default: its own)")
    into = parser.add_mutually_exclusive_group()
    into.add_argument("--csv", type=Path, metavar="FILE", help="a row per video, or window, and output")
    into.add_argument("--json", type=Path, metavar="FILE", help="a JSON object per line and video, or window")
    into.add_argument(
        "--npz", type=Path, metavar="FILE", help="all logits by view: a score dump, as mml score reads it"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def run(args: argparse.Namespace) -> None:
    """Raises:
    UserError: a wrong option, nothing to load, nothing to predict, or the result can't be written.
    """
    _check(args)
    from mml_lightning.data.records.readers.named import read_named
    from mml_lightning.engine.predict import load_predictor
    from mml_lightning.engine.process import set_up_process

    logging.getLogger().setLevel(logging.INFO)  # progress without a terminal
    lines = sys.stdin if "-" in args.sources else ()
    predictor = load_predictor(args.ckpt, args.peer, args.views, args.set)
    set_up_process(predictor.cfg)
    first = int(predictor.cfg.get("data.first_frame", 0))
    named = read_named(args.sources, lines, args.split, args.root, first)
    predictor, parts = _parts(predictor, named.records, args)
    out = args.csv or args.json or args.npz
    if args.npz and len(predictor.heads) > 1:
        raise UserError(f"--npz holds one head, the networks have {', '.join(predictor.heads)}: use --json")
    _say(predictor, parts, named.told, args)
    failed = _into_file(predictor, parts, out, args) if out else _shown(predictor, parts, args)
    if failed:
        sys.exit(1)


def _check(args: argparse.Namespace) -> None:
    if args.topk < 1:
        raise UserError(f"--topk {args.topk} must be 1 or more")
    if args.stride is not None and args.window is None:
        raise UserError("--stride goes with --window")
    if "-" in args.sources and len([one for one in args.sources if one == "-"]) > 1:
        raise UserError("standard input (-) can be read once")


def _parts(predictor: Predictor, records: Sequence[Any], args: argparse.Namespace) -> tuple[Predictor, list[Part]]:
    from mml_lightning.engine import predict_files
    from mml_lightning.utils.progress import Progress

    if args.window is None:
        return predictor, predict_files.whole(records)
    stride = args.window / 2 if args.stride is None else args.stride
    with Progress(len(records), "looking for windows") as progress:
        return predict_files.windowed(predictor, records, args.window, stride, progress.advance)


def _say(predictor: Predictor, parts: Sequence[Part], told: Sequence[str], args: argparse.Namespace) -> None:
    """What will be done, on standard error: what is on standard output are scores."""
    cfg = predictor.cfg
    unit = "video" if args.window is None else "window"
    text = (
        f"{', '.join(predictor.networks)} of {args.ckpt}: {len(parts)} {unit}{'' if len(parts) == 1 else 's'}, "
        f"views {cfg.views.name}, {cfg.sampling.num_segments} segments"
    )
    for line in [*told, text]:
        print(line, file=sys.stderr)


def _shown(predictor: Predictor, parts: Sequence[Part], args: argparse.Namespace) -> dict[str, str]:
    """Scores as lines of the terminal, as they come; returns what has none, with reasons."""
    from mml_lightning.engine import prediction_tables as tables

    kept: list[Batch] = []
    failed: dict[str, str] = {}
    all_found: list[Prediction] = []
    for batch, found, own in _measured(predictor, parts, 0, args):
        kept.append(batch)
        all_found += found
        failed |= {one.video: one.error for one in found if one.error}
        for part, one in zip(own, found, strict=True):
            print("\n".join(tables.lines(part, one, args.topk)), flush=True)
    if args.window is not None:
        print("\n".join(tables.timelines(parts, all_found)))
    _say_failed(failed)
    return failed


def _measured(predictor: Predictor, parts: Sequence[Part], done: int, args: argparse.Namespace) -> Any:
    """(batch, its predictions, its parts) of what is not done, with progress."""
    from mml_lightning.engine import predict_files
    from mml_lightning.utils.progress import Progress

    first = done
    with Progress(len(parts) - done, "predict", "video" if args.window is None else "window") as progress:
        for batch in predict_files.batches(predictor, parts, done):
            own = parts[first : first + batch.videos]
            first += batch.videos
            yield batch, predict_files.predictions(predictor, own, [batch]), own
            for _ in own:
                progress.advance()


def _into_file(predictor: Predictor, parts: Sequence[Part], out: Path, args: argparse.Namespace) -> Mapping[str, str]:
    """Scores in a file; returns what has none, with reasons."""
    from mml_lightning.engine import predict_files, prediction_tables
    from mml_lightning.engine.journal import Journal

    form = "csv" if args.csv else "json" if args.json else "npz"
    more = {"form": form, "topk": None if form == "npz" else args.topk, "window": [args.window, args.stride]}
    journal = Journal(out, predict_files.identity(predictor, parts, **more))
    told = journal.finished(args.overwrite)
    if told is not None:
        failed = dict(told.get("failed") or {})
        _say_failed(failed)
        print(f"{out} already exists, with the same videos and settings; --overwrite makes it again")
        return failed
    with journal.open(args.overwrite):
        if journal.done:
            print(f"continuing after {journal.done} of {len(parts)}, which are in {journal.path}", file=sys.stderr)
        try:
            for batch, *_ in _measured(predictor, parts, journal.done, args) if journal.done < len(parts) else ():
                journal.append(batch)
        except KeyboardInterrupt:
            print(f"{journal.done} of {len(parts)} are in {journal.path}: the same command continues", file=sys.stderr)
            raise
        found = predict_files.predictions(predictor, parts, journal.batches)
        failed = {one.video: one.error for one in found if one.error}
        _write(predictor, parts, found, journal, form, args.topk)
        journal.finish({"failed": failed})
    if args.window is not None:
        print("\n".join(prediction_tables.timelines(parts, found)))
    _say_failed(failed)
    outputs = ", ".join(prediction_tables.outputs(found)) or "none"
    print(f"wrote {out}: {len(parts) - len(failed)} of {len(parts)} with scores, outputs {outputs}")
    return failed


def _write(
    predictor: Predictor, parts: Sequence[Part], found: Sequence[Prediction], journal: Journal, form: str, count: int
) -> None:
    from mml_lightning.engine import predict_files, prediction_tables
    from mml_lightning.utils.files import write_atomically

    try:
        if form == "npz":
            made = predict_files.dumps(predictor, journal.batches)
            if not made:
                raise UserError(f"no video has scores, {journal.result} would be empty; see {journal.path}")
            next(iter(made.values())).save(journal.result)
            return
        if form == "csv":
            text = prediction_tables.to_csv(parts, found, count, len(predictor.heads) > 1)
        else:
            text = prediction_tables.to_json_lines(parts, found, count)
        with write_atomically(journal.result, newline="") as handle:
            handle.write(text)
    except OSError as error:
        raise UserError(
            f"can't write {journal.result}: {error.strerror}; free some space and run it again to continue from here"
        ) from None


def _say_failed(failed: Mapping[str, str]) -> None:
    for video, why in list(failed.items())[:SHOWN]:
        print(f"no scores: {why if video in why else f'{video}: {why}'}", file=sys.stderr)
    if len(failed) > SHOWN:
        print(f"no scores: {len(failed) - SHOWN} more", file=sys.stderr)


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
