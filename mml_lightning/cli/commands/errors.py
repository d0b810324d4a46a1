"""`mml errors`: what a run gets wrong, as a page with pictures."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mml_lightning.cli.arguments import add_settings
from mml_lightning.cli.commands.score import SHOWN, dump_file
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.plain_text import some_videos
from mml_lightning.utils.program import command

if TYPE_CHECKING:
    from mml_lightning.engine.thumbnails import Thumbnails
    from mml_lightning.evaluation.errors import Comparison
    from mml_lightning.evaluation.predictions import Predictions
    from mml_lightning.report.errors import Findings

WORST = 20
MEGABYTES = 8.0


def declare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "What a run gets wrong, from its score dump: confusion matrix, classes, the most confident mistakes with the "
        "frames and the flow that the networks saw, labels that may be wrong, what one network gets right and another "
        "wrong, changes against a second run. One page that needs nothing else, and csv files of all beside it."
    )
    parser.add_argument("target", type=Path, metavar="RUN", help="a run directory, or its predictions/<split>.npz")
    parser.add_argument("--peer", help="rgb, flow, .., fused or ensemble (default: fused, else the ensemble)")
    parser.add_argument("--worst", type=int, default=WORST, metavar="N", help=f"cases in each list (default: {WORST})")
    parser.add_argument(
        "--confusion", action="store_true", help="all classes in the matrix (default: the 40 with the most mistakes)"
    )
    parser.add_argument("--against", type=Path, metavar="RUN", help="a second run, to show what has changed since")
    parser.add_argument("--split", default="test", help="split to look at (default: test)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the page goes (default: RUN/errors)")
    parser.add_argument(
        "--pictures-mb",
        type=float,
        default=MEGABYTES,
        metavar="MB",
        help=f"limit for all pictures of the page; 0: none, and no video is read (default: {MEGABYTES:g})",
    )
    add_settings(parser, "data.root=...")


def run(args: argparse.Namespace) -> None:
    """Raises:
    UserError: a wrong option, no scores, or the page can't be written.
    """
    _check(args)
    from mml_lightning.engine.thumbnails import Thumbnails
    from mml_lightning.evaluation import predictions
    from mml_lightning.report.errors import Findings

    logging.getLogger().setLevel(logging.INFO)  # progress without a terminal
    file = _scores(args.target, args.split)
    dump, folder = predictions.load(file), _folder(args, file)
    name = args.peer or _main(dump, file)
    against, notes = _against(args, dump, name, file) if args.against else (None, [])
    found = Findings(dump, name, args.worst, against, notes)
    _ = found.judged  # an unknown peer is told before videos are read
    pictures = _pictures(args, found, file) if args.pictures_mb else Thumbnails()
    _write(folder, file.stem, _texts(args, found, pictures, file))
    for line in [*_summary(found), *pictures.notes, *notes]:
        print(line)
    print(f"wrote {folder / f'{file.stem}.html'}, and csv files of all videos, classes and confusions beside it")


def _check(args: argparse.Namespace) -> None:
    if args.worst < 1:
        raise UserError(f"--worst {args.worst} must be 1 or more")
    if not 0 <= args.pictures_mb < float("inf"):
        raise UserError(f"--pictures-mb {args.pictures_mb:g} must be a number from 0 on")


def _scores(path: Path, split: str) -> Path:
    """The score dump of a run.

    Raises:
        UserError: there is none; the message has the command that makes it.
    """
    if not path.exists():
        raise UserError(f"there is no {path}; give a run directory, or its predictions/<split>.npz")
    if steps := sorted(step.parent.name for step in path.glob("[0-9]*_*/predictions")):
        raise UserError(f"{path} holds several runs; give one of them: {', '.join(steps)}")
    try:
        return dump_file(path, split)
    except UserError as error:
        if list(path.glob(f"predictions/{split}_*.npz")):
            raise
        place = shlex.quote(str(path))
        if list(path.glob("peers/*.pt")):
            make = f"{command('eval')} ckpt={place} split={split}"
            raise UserError(f"{error}; to measure it: {make}, and give the directory that this writes") from None
        if (path / "checkpoints").is_dir():
            raise UserError(f"{error}; the run did not finish: {command()} resume={place}") from None
        raise


def _main(dump: Predictions, file: Path) -> str:
    from mml_lightning.engine.prediction import main_output

    if not dump.pooled:
        raise UserError(f"{file} has the scores of no network")
    return main_output(list(dump.pooled))


def _against(args: argparse.Namespace, dump: Predictions, name: str, file: Path) -> tuple[Comparison, list[str]]:
    """The other run compared with this one, and what a reader should know of that.

    Raises:
        UserError: other classes, other labels, or no video in common.
    """
    from mml_lightning.evaluation import errors, predictions

    other_file = _scores(args.against, args.split)
    other = predictions.load(other_file)
    there = name if name in other.pooled else _main(other, other_file)
    notes = [] if there == name else [f"{other_file} has no output {name}: {there} is compared"]
    names = {str(other_file): other, str(file): dump}
    if len(names) < 2:
        raise UserError(f"--against {args.against} is the run itself; give another one")
    (before, now), alone = errors.on_common(names)
    notes += [f"{some_videos(ids, SHOWN)} of {place} only: not compared" for place, ids in alone.items()]
    called = (f"{there} of {_run(other_file).name}", f"{name} of {_run(file).name}")
    return errors.compare(errors.judge(before, there), errors.judge(now, name), called, args.worst), notes


def _run(file: Path) -> Path:
    """The directory of the run whose score dump it is."""
    return file.resolve().parent.parent


def _pictures(args: argparse.Namespace, found: Findings, file: Path) -> Thumbnails:
    from mml_lightning.engine.thumbnails import thumbnails
    from mml_lightning.utils.progress import Progress

    def watched(ids: Sequence[str]) -> Iterator[str]:
        with Progress(len(ids), "pictures") as progress:
            for video in ids:
                yield video
                progress.advance()

    videos = found.videos()
    return thumbnails(_run(file), found.dump.split, videos, int(args.pictures_mb * 1e6), args.set, watched)


def _texts(args: argparse.Namespace, found: Findings, pictures: Thumbnails, file: Path) -> dict[str, str]:
    """The files, by what follows the name of the split."""
    from mml_lightning.report import errors as report
    from mml_lightning.report.errors_page import ErrorsPage

    told = [*_summary(found), *found.dump.notes(), *pictures.notes]
    if lost := sorted(found.dump.unreadable):
        told.append(f"without scores in the run: {some_videos(lost, SHOWN)}")
    if pictures.strips:
        told.append(f"{pictures.size / 1e6:.1f} MB of pictures, of at most {args.pictures_mb:g} (--pictures-mb)")
    page = ErrorsPage(found, pictures.strips, args.confusion)
    return {
        ".html": page.html(f"Errors of {_run(file).name}", told),
        ".csv": report.to_csv(report.video_rows(found, _changes(found.against))),
        "_classes.csv": report.to_csv(report.class_rows(found)),
        "_confusion.csv": report.to_csv(report.confusion_rows(found)),
    }


def _changes(against: Comparison | None) -> Mapping[str, str] | None:
    if against is None:
        return None
    return dict.fromkeys(against.worse, "worse") | dict.fromkeys(against.better, "better")


def _summary(found: Findings) -> list[str]:
    judged, dump = found.judged, found.dump
    what = "with a missed label" if judged.several else "wrong"
    suspect = len({case.video for case in found.suspects})
    videos = f"{judged.wrong} of {len(judged.ids)} videos of {dump.split}"
    return [f"{found.name}: {videos} {what}, {suspect} with a suspect label"]


def _folder(args: argparse.Namespace, file: Path) -> Path:
    """Where the page goes.

    Raises:
        UserError: nothing can be written there; told before videos are read.
    """
    folder: Path = args.out or (file.parent.parent if file.parent.name == "predictions" else file.parent) / "errors"
    if args.out is None and folder.is_symlink():  # of a run of others it may lead anywhere
        raise UserError(f"{folder} is a link to another place; say with --out where the page goes")
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(
            f"can't write the errors to {folder}: {nearest} is not a folder to write to; give another --out"
        )
    return folder


def _write(folder: Path, stem: str, texts: Mapping[str, str]) -> None:
    """All files or, where there is no room for one, none."""
    from mml_lightning.utils.files import write_atomically

    new = not folder.exists()
    try:
        with contextlib.ExitStack() as stack:
            for ending, text in texts.items():
                handle = stack.enter_context(write_atomically(folder / f"{stem}{ending}", newline=""))
                handle.write(text)
                handle.flush()  # a full disk is told here, where no file has got its name yet
    except OSError as error:
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise UserError(f"can't write the errors to {folder}: {error.strerror or error}; give another --out") from None
