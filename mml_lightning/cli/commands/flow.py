"""`mml flow`: the flow of a dataset ahead of training, statistics of it, and its export as images."""

from __future__ import annotations

import argparse
import csv
import io
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mml_lightning.utils import terminal
from mml_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from mml_lightning.config.settings import Settings
    from mml_lightning.data.flow.cache import FlowCache
    from mml_lightning.data.flow.fill import Outcome
    from mml_lightning.data.records.records import Dataset, Record

STATISTICS, FAILURES = "statistics.json", "failures.csv"


def declare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Computes the flow of a dataset into the cache that runs use, in parallel over videos. A stopped call resumes "
        "where it stopped. Writes statistics.json and, if videos failed, failures.csv beside the flow. "
        "With --export: also writes it as images, with lists that data=frame_lists reads. "
        "Exit code 0, 1 if a video has no flow, 2 for a wrong command."
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="data and flow, as for train.py: data=csv flow=tvl1_fast"
    )
    parser.add_argument("--splits", type=_names, metavar="train,val", help="which splits (default: all)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: cores)"
    )
    parser.add_argument("--export", type=Path, metavar="DIR", help="also write images and lists below DIR")
    parser.add_argument(
        "--layout",
        help="with --export: tsn (default, flow_x_00001), suffix (00001_x), charades, or packed (red, green)",
    )
    parser.add_argument("--images", help="with --export: jpg (default) or png (lossless)")
    parser.add_argument("--quality", type=int, metavar="N", help="with --export: of jpg, 1 to 100 (default: 95)")


def run(args: argparse.Namespace, compose: Callable[[Sequence[str]], Settings]) -> None:
    """Raises:
    UserError: a wrong option or config, or something can't be written.
    """
    from mml_lightning.config import data as config_data
    from mml_lightning.data.flow import fill

    form = _form(args)
    if args.workers < 1:
        raise UserError(f"--workers {args.workers} must be 1 or more")
    logging.getLogger().setLevel(logging.INFO)  # progress without a terminal
    cfg = compose(args.overrides)
    cache = config_data.flow_store(cfg)
    if cache.settings.on_the_fly:
        raise UserError("flow.on_the_fly=true has no cache to fill: remove it here or from the runs")
    data = config_data.checked_records(cfg, {"frames", "flow"})
    splits = fill.splits_of(data, args.splits or [split for split, rows in data.splits.items() if rows])
    if not any(splits.values()):
        print(f"all videos of {data.name} come with flow: nothing to compute")
        return
    outcomes = _fill(cache, data, splits, args.workers)
    masks = cfg.data.missing == "mask"
    failed = [
        (split, record.id, outcome.reason)
        for split in splits
        for record, outcome in zip(splits[split], outcomes[split], strict=True)
        if outcome.moments is None and not (outcome.single and masks)
    ]
    found = fill.summary(outcomes)
    _write(cache, data, found, failed)
    terminal.show("\n".join(_lines(cache, found, failed)))
    if form is not None:
        good = {
            split: [record for record, outcome in zip(splits[split], outcomes[split], strict=True) if outcome.moments]
            for split in splits
        }
        _export(args, cache, data, good, form)
    if failed:
        sys.exit(1)


def _form(args: argparse.Namespace) -> Any:
    """How to export; None without --export."""
    from mml_lightning.data.flow.export import Form

    given = {"layout": args.layout, "ending": args.images, "quality": args.quality}
    given = {name: value for name, value in given.items() if value is not None}
    if args.export is None and given:
        raise UserError("--layout, --images and --quality need --export DIR")
    return None if args.export is None else Form(**given)


def _fill(
    cache: FlowCache, data: Dataset, splits: Mapping[str, Sequence[Record]], workers: int
) -> dict[str, list[Outcome]]:
    from mml_lightning.data.flow import fill
    from mml_lightning.utils.progress import Progress

    records = [record for rows in splits.values() for record in rows]
    files = len({record.media["frames"] for record in records})
    print(f"{cache.settings.algorithm} flow of {files} videos of {data.name} in {cache.folder}", flush=True)
    with Progress(files, "flow") as progress:
        rest = iter(fill.fill(cache, records, workers, progress.advance))
    return {split: [next(rest) for _ in rows] for split, rows in splits.items()}


def _write(
    cache: FlowCache, data: Dataset, found: Mapping[str, Mapping[str, Any]], failed: Sequence[tuple[str, str, str]]
) -> None:
    import json

    settings = cache.settings
    made = {"data": data.name, "algorithm": settings.algorithm, "preset": settings.preset, "bound": settings.bound}
    cache.write(STATISTICS, json.dumps(made | {"splits": found}, indent=1) + "\n")
    if failed:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("split", "id", "reason"), *failed])
        cache.write(FAILURES, text.getvalue())
    else:
        (cache.folder / FAILURES).unlink(missing_ok=True)


def _lines(
    cache: FlowCache, found: Mapping[str, Mapping[str, Any]], failed: Sequence[tuple[str, str, str]]
) -> list[str]:
    from mml_lightning.data.flow import fill
    from mml_lightning.report.markdown import pipes

    heads = ("split", "videos", "pairs", "mean |f| px", "clipped %", "zero %", "failed", "one frame")
    rows = []
    for split, row in found.items():
        shares = [row["mean_px"], *(None if row[k] is None else 100 * row[k] for k in ("clipped_share", "zero_share"))]
        values = [split, row["videos"], row["pairs"], *("-" if value is None else f"{value:.3f}" for value in shares)]
        rows.append([*map(str, values), str(row["failed"]), str(row["one_frame"])])
    lines = [pipes([heads, *rows]).rstrip("\n")]
    lines += [f"warning: {line}" for line in fill.warnings(found, cache.settings.bound)]
    if failed:
        lines.append(f"{len(failed)} videos have no flow, first {failed[0][1]}: {failed[0][2]}; see {FAILURES}")
    return [*lines, f"wrote {cache.folder / STATISTICS}"]


def _export(
    args: argparse.Namespace, cache: FlowCache, data: Dataset, splits: Mapping[str, Sequence[Record]], form: Any
) -> None:
    from mml_lightning.data.flow import export
    from mml_lightning.utils.progress import Progress

    total = len({record.id for rows in splits.values() for record in rows})
    with Progress(total, "export") as progress:
        lists = export.export(cache, data, splits, args.export, form, args.workers, progress.advance)
    print(f"wrote {total} videos below {args.export / export.FLOW}" + "".join(f", {path.name}" for path in lists))
    if lists or form.layout == "charades":
        print(f"read them with: {export.reading(form, lists, args.export)}")


def _names(text: str) -> list[str]:
    return [part for part in text.split(",") if part]
