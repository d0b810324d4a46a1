"""The table of a collection of runs: a row per configuration, mean, spread and 95 % interval over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mml_lightning.report.collect import Run, keys, mapping, number, parts, value
from mml_lightning.report.rows import FIELDS, Group, group
from mml_lightning.report.statistics import estimate
from mml_lightning.utils.errors import UserError

SPLITS = ("test", "val", "both")
Cell = str | int | float | None

# Shown even if all runs agree; the other fields and overrides only where rows differ in them.
_ALWAYS = ("stage", "setup", "backbone", "modality", "init", "views")
_PRIMARY = ("top1", "map", "mAP")


@dataclass(frozen=True)
class Table:
    """`rows` map every name in `columns` to a cell. A measured quantity q ("rgb/top1", one of `measured`) has columns
    q (mean), q/std, q/ci95 (half width), q/n (seeds) and, where a run states what a paper printed, q/paper. `runs` are
    those behind each row, by seed: {"seed", "path", "values": {q: number}}."""

    columns: list[str]
    rows: list[dict[str, Cell]]
    measured: list[str]
    problems: list[dict[str, str]]  # path, status, error of each run that did not complete
    notes: list[str]
    runs: list[list[dict[str, Any]]] = field(default_factory=list)

    def described(self) -> list[str]:
        """The columns that hold no measured quantity: what a row is, and how many runs stand behind it."""
        told = {q + part for q in self.measured for part in ("", "/std", "/ci95", "/n", "/paper")}
        return [column for column in self.columns if column not in told]


def tabulate(runs: Sequence[Run], split: str = "test", metrics: Sequence[str] | None = None) -> Table:
    """Table of `runs` (from collect). Rows keep a fixed order whatever the order of the runs.

    `split`: "test" shows the test split, or val for a row that has no test numbers (the column `split` says which);
    "val" shows val; "both" makes a row of each. `metrics`: names such as "top1"; by default top1 and mean average
    precision, whichever the runs have. Raises UserError for an unknown split or metric, or if there is no run.
    """
    if split not in SPLITS:
        raise UserError(f"split={split} must be one of {', '.join(SPLITS)}")
    if not runs:
        raise UserError("no runs found: no result.json below the given directories")
    groups = group(runs)
    metrics = _choose_metrics(runs, metrics)
    lines = [(home, name) for home in groups for name in _splits_of(home, split, metrics)]
    measured = _measured(lines, metrics)
    extras = sorted({key for home in groups for key in home.overrides})
    shown = [key for key in FIELDS if key in _ALWAYS or len({home.fields[key] for home in groups}) > 1]
    if any(home.fields["limited"] for home in groups):  # even where all are: no number of these is a result
        shown = [*(key for key in shown if key != "limited"), "limited"]
    shown += [key for key in extras if len({home.overrides.get(key) for home in groups}) > 1]
    rows = [_row(home, name, shown, measured) for home, name in lines]
    columns = ["name", *shown, "split"]
    for quantity in measured:
        columns += [quantity, f"{quantity}/std", f"{quantity}/ci95", f"{quantity}/n"]
        if any(row[f"{quantity}/paper"] is not None for row in rows):
            columns.append(f"{quantity}/paper")
    columns += ["seeds", "failed"]
    if any(row["running"] for row in rows):
        columns.append("running")
    rows = [{column: row[column] for column in columns} for row in rows]
    behind = [_runs(home, name, measured) for home, name in lines]
    return Table(columns, rows, measured, _problems(runs), _notes(groups), behind)


def _choose_metrics(runs: Sequence[Run], metrics: Sequence[str] | None) -> list[str]:
    completed = [run for run in runs if run["status"] == "completed"]
    available = list(dict.fromkeys(parts(key)[2] for run in completed for key in keys(run)))
    if metrics is None:
        return [name for name in _PRIMARY if name in available] or available[:1] or list(_PRIMARY[:1])
    unknown = [name for name in metrics if name not in available]
    if unknown and completed:
        raise UserError(f"no run has the metric {unknown[0]}; there are: {', '.join(sorted(available)) or 'none'}")
    return list(metrics)


def _splits_of(home: Group, choice: str, metrics: Sequence[str]) -> list[str]:
    """Which splits a group gets a row for; "" where it has no number at all but must still be seen."""
    told_keys = [parts(key) for run in home.completed.values() for key in keys(run)]
    told = {split for split, _, metric in told_keys if metric in metrics}
    wanted = ["val"] if choice == "val" else ["test", "val"]
    found = [name for name in wanted if name in told] or [""]
    return found if choice == "both" else found[:1]


def _measured(lines: list[tuple[Group, str]], metrics: Sequence[str]) -> list[str]:
    """Quantities "peer/metric" in order of appearance, metric by metric, the ensemble behind the peers."""
    found = [
        key.split("/", 1)[1]
        for home, split in lines
        for seed in home.seeds
        for key in keys(home.completed[seed])
        if parts(key)[0] == split and parts(key)[2] in metrics
    ]
    rank = {quantity: i for i, quantity in reversed(list(enumerate(found)))}
    return sorted(rank, key=lambda q: (metrics.index(q.rsplit("/", 1)[1]), q.startswith("ensemble/"), rank[q]))


def _row(home: Group, split: str, shown: Sequence[str], measured: Sequence[str]) -> dict[str, Cell]:
    row: dict[str, Cell] = {"name": home.name, "split": split or None}
    for key in shown:
        row[key] = home.fields.get(key, home.overrides.get(key)) or None
    for quantity in measured:
        row |= _cells(home, split, quantity)
    row["seeds"] = ",".join(str(seed) if isinstance(seed, int) else "?" for seed in home.seeds) or None
    row["failed"] = len(home.unfinished("failed", "died", "no result", "unreadable"))
    row["running"] = len(home.unfinished("running", "preempted"))
    return row


def _cells(home: Group, split: str, quantity: str) -> dict[str, Cell]:
    runs = list(home.completed.values())
    numbers = [v for v in (value(run, f"{split}/{quantity}") for run in runs) if v is not None] if split else []
    papers = [mapping(run.get("expected")).get(quantity) for run in [*runs, *home.others]]
    cells: dict[str, Cell] = dict.fromkeys((quantity, f"{quantity}/std", f"{quantity}/ci95"))
    cells[f"{quantity}/n"] = len(numbers)
    cells[f"{quantity}/paper"] = next((p for p in map(number, papers) if p is not None), None)
    if numbers:
        found = estimate(numbers)
        cells |= {quantity: found.mean, f"{quantity}/std": found.std, f"{quantity}/ci95": found.ci95}
    return cells


def _runs(home: Group, split: str, measured: Sequence[str]) -> list[dict[str, Any]]:
    """What stands behind a row, seed by seed."""
    found = []
    for seed in home.seeds:
        run = home.completed[seed]
        numbers = {quantity: value(run, f"{split}/{quantity}") for quantity in measured}
        values = {quantity: number for quantity, number in numbers.items() if number is not None}
        found.append({"seed": seed if isinstance(seed, int) else None, "path": run["path"], "values": values})
    return found


def _problems(runs: Sequence[Run]) -> list[dict[str, str]]:
    """In the order of their paths, with the first line of each error: the rest is in the run's own log."""
    return [
        {"path": run["path"], "status": run["status"], "error": (str(run.get("error") or "").splitlines() or [""])[0]}
        for run in sorted(runs, key=lambda run: run["path"])
        if run["status"] != "completed"
    ]


def _notes(groups: Sequence[Group]) -> list[str]:
    """What a reader of the means should know: repeated seeds, numbers that are not finite, mixed code versions."""
    notes = []
    for home in groups:
        if home.repeated:
            notes.append(f"{home.name}: {len(home.repeated)} older run(s) of a repeated seed ignored")
        runs = home.completed.values()
        broken = sorted({key for run in runs for key in keys(run) if value(run, key) is None})
        if broken:
            notes.append(f"{home.name}: not finite in some run, excluded from the mean: {', '.join(broken)}")
        versions: list[Any] = sorted({str(run["git_sha"]) for run in runs if run.get("git_sha")})
        if len(versions) > 1:
            notes.append(f"{home.name}: its seeds ran with different code: {', '.join(versions)}")
    return notes
