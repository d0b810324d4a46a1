"""`mml score`: every number of a run again from its score dump, ensembles of several runs, submission files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mml_lightning.cli.arguments import add_scoring
from mml_lightning.utils import terminal
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.plain_text import some_videos

if TYPE_CHECKING:
    from mml_lightning.evaluation.predictions import Predictions

SHOWN = 5  # ids named in a message


def declare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Recomputes metrics from score dumps, without networks or videos, under any protocol. Several "
        "dumps are joined by video id and make an ensemble. Options that are left out are those of the (first) run."
    )
    parser.add_argument(
        "dumps", nargs="+", type=Path, metavar="DUMP", help="predictions/<split>.npz, or a run directory"
    )
    add_scoring(parser)
    parser.add_argument("--ap", help="average precision: grouped, or sequential (the official Charades rule)")
    parser.add_argument("--empty-class", help="classes without videos: drop, nan or zero")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the metrics, as result.json holds them")
    parser.add_argument("--per-class", type=Path, metavar="FILE", help="also write a CSV with a line per class")
    parser.add_argument(
        "--submission", metavar="FORMAT", help="with --out: charades (id and scores) or ssv2 (best five)"
    )
    parser.add_argument("--peer", help="whose scores are submitted (default: the ensemble, or the only peer)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the submission file")


def run(args: argparse.Namespace) -> None:
    """Raises:
    UserError: no dump, dumps that don't fit together, or an unknown choice.
    """
    from mml_lightning.evaluation import predictions
    from mml_lightning.runs.result import nested_metrics
    from mml_lightning.utils.result_file import write_json

    if (args.submission is None) != (args.out is None):
        raise UserError("--submission FORMAT and --out FILE need each other")
    files = [dump_file(path, args.split) for path in args.dumps]
    dump, alone = predictions.join([predictions.load(file) for file in files], [str(file) for file in files])
    dump = _configured(dump, args)
    measured = dump.metrics()
    metrics = nested_metrics(_flat(measured, dump.split))
    # in the order of the run: result.json sorts
    rows = {p: {key: metrics[dump.split][p][key] for key in values} for p, values in measured.items()}
    print("\n".join([*_header(dump), *_left_out(dump, alone)]))
    terminal.show(_table(rows))
    if args.json:
        write_json(args.json, metrics)
        print(f"wrote {args.json}")
    if args.per_class:
        dump.save_by_class(args.per_class)
        print(f"wrote {args.per_class}")
    if args.submission:
        _submit(dump, args.submission, args.peer, args.out)


def dump_file(path: Path, split: str) -> Path:
    """The dump that `path` is or, as a run directory, holds."""
    if not path.is_dir():
        return path
    found = sorted(path.glob(f"predictions/{split}.npz")) or sorted(path.glob(f"predictions/{split}_*.npz"))
    if len(found) > 1:
        raise UserError(f"{path} has several heads; give one file: {', '.join(map(str, found))}")
    if not found:
        have = ", ".join(file.stem for file in sorted(path.glob("predictions/*.npz"))) or "none"
        raise UserError(f"{path} has no scores of the split {split} (found: {have}); give another --split or a file")
    return found[0]


def _configured(dump: Predictions, args: argparse.Namespace) -> Predictions:
    choices = {"pooling": args.pooling, "ensemble": args.ensemble, "ap": args.ap, "empty_class": args.empty_class}
    try:
        scoring = replace(dump.scoring, **{key: value for key, value in choices.items() if value is not None})
        chosen = replace(dump, scoring=scoring, weights=args.weights or {})
        _ = chosen.pooled  # a wrong weight is said before anything is written
    except ValueError as error:
        raise UserError(str(error)) from None
    return chosen


def _flat(measured: Mapping[str, Mapping[str, float]], split: str) -> dict[str, Any]:
    """The metrics under the keys of a run, in its float32."""
    import torch

    return {
        f"{split}/{peer}/{key}": torch.tensor(value, dtype=torch.float32)
        for peer, values in measured.items()
        for key, value in values.items()
    }


def _header(dump: Predictions) -> list[str]:
    views = ", ".join(f"{peer} {value.shape[1]}" for peer, value in dump.logits.items())
    scoring = dump.scoring
    rule = f", ap {scoring.ap}, empty classes {scoring.empty_class}" if dump.multi_label else ""
    lines = [f"{dump.split}: {len(dump.ids)} videos, {len(dump.classes)} classes; views {views}"]
    ensemble = f", ensemble of {scoring.ensemble}" if len(dump.logits) > 1 else ""
    weights = "".join(f", {peer} x {weight:g}" for peer, weight in dump.weights.items())
    return [*lines, f"views pooled by {scoring.pooling}{ensemble}{weights}{rule}"]


def _left_out(dump: Predictions, alone: Mapping[str, Sequence[str]]) -> list[str]:
    """What the numbers do not cover."""
    lines = [f"not in every dump, left out: {some_videos(ids, SHOWN)} of {name}" for name, ids in alone.items()]
    if dump.unreadable:
        lines.append(f"without scores in the run: {some_videos(sorted(dump.unreadable), SHOWN)}")
    return [*lines, *dump.notes()]


def _table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    from mml_lightning.report.markdown import pipes

    names = list(next(iter(metrics.values()), {}))
    return pipes([["", *names], *([peer, *(f"{m[name]:.4f}" for name in names)] for peer, m in metrics.items())])


def _submit(dump: Predictions, form: str, peer: str | None, out: Path) -> None:
    from mml_lightning.evaluation import submissions
    from mml_lightning.evaluation.metrics import ENSEMBLE

    chosen = peer or (ENSEMBLE if ENSEMBLE in dump.pooled else next(iter(dump.pooled)))
    if chosen not in dump.pooled:
        raise UserError(f"--peer {chosen} is not in the dump; it has {', '.join(dump.pooled)}")
    if dump.skipped:
        raise UserError(f"{dump.skipped} of {dump.videos} videos have no scores; evaluate all with eval.py first")
    count = submissions.write(form, out, dump.ids, dump.pooled[chosen])
    absent = len(dump.ids) - count + len(set(dump.unreadable) - set(dump.ids))
    print(f"wrote {out}: {count} videos, scores of {chosen}" + (f"; without scores: {absent}" if absent else ""))
