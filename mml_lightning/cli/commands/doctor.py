"""`mml doctor`: will this modality help, from the score dumps that runs leave."""

from __future__ import annotations

import argparse
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mml_lightning.cli.commands.ensemble import split_name
from mml_lightning.cli.commands.score import dump_file
from mml_lightning.utils import program, terminal
from mml_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from mml_lightning.report.doctor_runs import ScoredRun


def declare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Will this modality help? Compares networks of several modalities from their score dumps: accuracy, "
        "calibration, who is right where the other is wrong, the best ensemble (weights found on val, measured on "
        "test), and whether one network has room to learn from another; each network alone against the same inside a "
        "joint model. Runs that differ in nothing but the seed are seeds of one network."
    )
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="[NAME=]PATH[:PEER]; PATH is the directory of a run, of a sweep or pipeline, or a predictions/*.npz",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page, with reliability plots")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every number")
    parser.add_argument(
        "--record", type=Path, metavar="DIR", help="how often the rule was right: comparisons.csv and *.json of --json"
    )


def run(args: argparse.Namespace) -> None:
    """Raises:
    UserError: no runs, runs without scores or that can't be compared, or a file can't be written.
    """
    if args.record:
        _record(args)
        return
    if not args.runs:
        raise UserError("give the directories of two runs or more, such as one of rgb and one of flow")
    from mml_lightning.evaluation.diagnosis import diagnose, steps
    from mml_lightning.report import doctor_page
    from mml_lightning.report.doctor_runs import compared
    from mml_lightning.utils.files import write_atomically
    from mml_lightning.utils.progress import Progress
    from mml_lightning.utils.result_file import json_text

    chosen = compared([found for text in args.runs for found in _scored(text)])
    with Progress(steps(chosen.networks, chosen.joint), "comparing", "step") as progress:
        found = diagnose(chosen.networks, chosen.joint, progress.advance)
    found = replace(found, notes=[*chosen.notes, *found.notes])
    terminal.show(doctor_page.markdown(found))
    texts = {args.html: doctor_page.html, args.json: lambda one: json_text(doctor_page.as_json(one))}
    for file, text in texts.items():
        if file is None:
            continue
        try:
            with write_atomically(file) as handle:
                handle.write(text(found))
        except OSError as error:
            raise UserError(f"can't write {file}: {error.strerror or error}") from None
        print(f"wrote {file}")


def _scored(text: str) -> list[ScoredRun]:
    """The runs that an argument means, with their scores."""
    from mml_lightning.evaluation import predictions
    from mml_lightning.report.doctor_runs import ScoredRun

    label, place, peer = split_name(text)
    if not os.path.exists(place):  # nor where it is too long for a path
        raise UserError(f"there is no {place}; give the directory of a run")
    found = []
    for folder in _runs(place):
        val, test = _files(folder)
        dump = predictions.load(val)
        if peer and peer not in dump.logits:
            raise UserError(f"{val} has no peer {peer}; it has {', '.join(dump.logits)}")
        scores = predictions.load(test) if test else None
        home = folder if folder.is_dir() else folder.parent.parent
        found.append(ScoredRun(home, label, peer, dump, scores, val.stem.removeprefix("val").removeprefix("_")))
    return found


def _runs(place: Path) -> list[Path]:
    """The run of a directory or a file, or all completed runs of training below a directory that have scores."""
    from mml_lightning.report.collect import collect

    if not place.is_dir() or (place / "predictions").is_dir():
        return [place]
    told = [run for run in collect(place) if run["status"] == "completed" and run.get("stage") != "eval"]
    runs = [Path(run["path"]) for run in told]
    below = [run for run in runs if (run / "predictions").is_dir()]
    if not below and not (place / "result.json").is_file():
        raise UserError(
            f"{place} is no run, and has no completed run with scores below it; give the directory of a run"
        )
    return below or [place]


def _files(place: Path) -> tuple[Path, Path | None]:
    """Scores of val and, where there are some, of test."""
    if place.is_dir():
        if not any(place.glob("predictions/val*.npz")):
            have = ", ".join(file.stem for file in sorted(place.glob("predictions/*.npz"))) or "none"
            command = f"{program.command('eval')} ckpt={shlex.quote(str(place))} split=val"
            raise UserError(
                f"{place} has no scores of the validation split (found: {have}): {command} makes them; give its run"
            )
        test = any(place.glob("predictions/test*.npz"))
        return dump_file(place, "val"), dump_file(place, "test") if test else None
    split = next((name for name in ("val", "test") if place.stem == name or place.stem.startswith(f"{name}_")), None)
    if split is None:
        raise UserError(f"{place} is not named after its split; give predictions/val.npz of a run, or the run")
    of_val, of_test = (place.with_name(f"{name}{place.stem.removeprefix(split)}.npz") for name in ("val", "test"))
    return of_val, of_test if of_test.is_file() else None


def _record(args: argparse.Namespace) -> None:
    from mml_lightning.report.doctor_record import read_record

    if args.runs or args.html or args.json:
        raise UserError("--record goes without runs, --html and --json")
    terminal.show(read_record(args.record).markdown())
