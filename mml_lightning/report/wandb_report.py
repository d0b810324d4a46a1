"""A finished table as one W&B run: the table, every seed, bars with intervals, differences per class, the page."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mml_lightning.report import plots
from mml_lightning.report.collect import Run, collect
from mml_lightning.report.html import picture_page
from mml_lightning.report.page import all_differences, bar_rows, class_deltas, page
from mml_lightning.report.paper_table_html import filled_tables
from mml_lightning.report.statistics import estimate
from mml_lightning.report.table import Table, tabulate
from mml_lightning.runs.tracking import wandb_mode
from mml_lightning.utils.errors import UserError

log = logging.getLogger(__name__)

PROJECT = "mml_lightning"
JOB_TYPE = "report"


@dataclass(frozen=True)
class Place:
    """Where in W&B something goes; None is W&B's own default, with WANDB_PROJECT obeyed."""

    project: str | None = None
    entity: str | None = None
    mode: str = "auto"

    @property
    def named_project(self) -> str:
        return self.project or os.environ.get("WANDB_PROJECT") or PROJECT


def to_wandb(
    table: Table, directory: Path, place: Place | None = None, runs: Sequence[Run] = (), baseline: str | None = None
) -> Path:
    """Log a table as one W&B run of job_type "report", in the group named after `directory`.

    It holds `table`; `seeds`, a line for every number behind it; `bars/<quantity>`, means with intervals; `differences`
    and `classes`, to the row `baseline` (default: the first that has the quantity); and the page.

    Returns the folder of the run, below `directory` unless WANDB_DIR says otherwise. The run is its own even inside a
    process that has another one open.

    Raises:
        UserError: W&B refuses.
    """
    import wandb

    place, name = place or Place(), directory.resolve().name
    try:
        run = wandb.init(
            project=place.named_project,
            entity=place.entity,
            group=name,
            name=f"report_{name}",
            job_type=JOB_TYPE,
            tags=[JOB_TYPE],
            config={"baseline": baseline, "rows": [str(row["name"]) for row in table.rows]},
            mode=wandb_mode(place.mode),  # type: ignore[arg-type]
            dir=os.environ.get("WANDB_DIR") or str(directory),
            reinit="create_new",
        )
    except wandb.errors.Error as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"W&B refused the report: {reason}; WANDB_MODE=offline keeps it on disk") from error
    try:
        tables = {"table": [[row[column] for column in table.columns] for row in table.rows]}
        columns: dict[str, list[str | int]] = {"table": [*table.columns], **HEADS}
        tables |= {
            "seeds": _seeds(table),
            "differences": _differences(table, baseline),
            "classes": _classes(table, baseline),
        }
        logged: dict[str, Any] = {
            key: wandb.Table(columns=columns[key], data=rows, allow_mixed_types=True)
            for key, rows in tables.items()
            if rows
        }
        for quantity in table.measured:
            logged |= _bars(table, quantity)
        whole = page(table, name, runs, directory, baseline, filled_tables([directory]))
        logged["page"] = wandb.Html(whole, inject=False)
        run.log(logged)
        run.summary.update(_summary(table))
        return Path(run.dir).parent
    finally:
        run.finish()


def log_finished(directory: Path, place: Place) -> None:
    """Log the table of a sweep or pipeline that has ended. It is on disk already, so that whatever W&B refuses is said
    and fails nothing."""
    try:
        runs = collect(directory)
        to_wandb(tabulate(runs), directory, place, runs)
    except Exception:
        log.exception("could not log the table to W&B; try: mml report %s --wandb", directory)


HEADS: dict[str, list[str | int]] = {
    "seeds": ["row", "split", "quantity", "seed", "value", "path"],
    "differences": ["row", "baseline", "quantity", "mean", "ci95", "n", "excludes zero"],
    "classes": ["row", "baseline", "peer", "class", "difference"],
}
BARS: list[str | int] = ["row", "mean", "low", "high", "n"]


def _seeds(table: Table) -> list[list[Any]]:
    return [
        [row["name"], row["split"], quantity, run["seed"], value, run["path"]]
        for row, runs in zip(table.rows, table.runs, strict=True)
        for run in runs
        for quantity, value in run["values"].items()
    ]


def _differences(table: Table, baseline: str | None) -> list[list[Any]]:
    found: list[list[Any]] = []
    for place, base, quantity, pairs in all_differences(table, baseline):
        told, names = estimate(pairs), [table.rows[number]["name"] for number in (place, base)]
        found.append([*names, quantity, told.mean, told.ci95, told.n, told.excludes_zero])
    return found


def _classes(table: Table, baseline: str | None) -> list[list[Any]]:
    return [
        [table.rows[place]["name"], table.rows[base]["name"], peer, label, value]
        for place, base, peer, gained in class_deltas(table, baseline)
        for label, value in gained
    ]


def _bars(table: Table, quantity: str) -> dict[str, Any]:
    """A bar chart of W&B's own, and one with whiskers and seeds."""
    import wandb

    rows = bar_rows(table, quantity)
    if not rows:
        return {}
    key = quantity.replace("/", " ")
    cells = [[name, mean, mean - (half or 0.0), mean + (half or 0.0), len(seeds)] for name, mean, half, seeds in rows]
    chart = wandb.plot.bar(wandb.Table(columns=BARS, data=cells), "row", "mean", title=key)
    drawn = picture_page(key, plots.bars(rows, quantity))
    return {f"bars/{key}": chart, f"intervals/{key}": wandb.Html(drawn, inject=False)}


def _summary(table: Table) -> dict[str, Any]:
    found = {}
    for row in table.rows:
        for quantity in table.measured:
            key = f"{row['name']}/{row['split']}/{quantity}"
            for part in ("", "/ci95"):
                if row[f"{quantity}{part}"] is not None:
                    found[key + part] = row[f"{quantity}{part}"]
    return found
