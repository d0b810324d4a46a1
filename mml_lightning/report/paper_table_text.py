"""Filled tables as text: markdown in the layout of the paper, and csv with a line for every cell and metric."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from mml_lightning.report.markdown import DASH, pipes
from mml_lightning.report.measured import Measured
from mml_lightning.report.paper_table import Cell, PaperTable, fill_paper_table
from mml_lightning.utils.files import write_atomically

SHOWN = 8  # reasons of empty cells
CSV = ("table", "row", "column", "networks", "metric", "mean", "std", "ci95", "n", "seeds", "values", "paper")


def write(root: Path) -> list[PaperTable]:
    """Write <table>.md and .csv for each table of the pipeline in `root`; returns them."""
    measured = Measured.of(root)
    if measured is None:
        return []
    tables = [fill_paper_table(table, measured) for table in measured.layouts()]
    for table in tables:
        for ending, text in (("md", markdown(table)), ("csv", to_csv(table))):
            with write_atomically(root / f"{table.layout.name}.{ending}") as handle:
                handle.write(text)
    return tables


def markdown(table: PaperTable) -> str:
    """Heading, table, conclusions, notes."""
    rows = [
        [label, *(text(cell, table.metrics) for cell in line)]
        for label, line in zip(table.rows, table.cells, strict=True)
    ]
    parts = [f"# {title(table)}", pipes([["", *table.layout.columns], *rows]) if rows else "", caption(table)]
    if table.verdicts:
        told = [[verdict.claim.say, verdict.words] for verdict in table.verdicts]
        parts += [
            f"Conclusions of the paper against paired differences in {table.verdicts[0].metric} over equal seeds, "
            "with the 95 % interval of each alone:",
            pipes([["conclusion", f"setup {table.setup}"], *told]),
        ]
    if notes := [*table.notes, *missing(table)]:
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def title(table: PaperTable) -> str:
    number = table.layout.paper.get("table")
    paper = f"Table {number}. " if number else ""
    return f"{paper}{table.layout.title} (setup {table.setup})"


def caption(table: PaperTable) -> str:
    seeds = ", ".join(map(str, table.seeds))
    one = "" if len(table.seeds) > 1 else " One seed has no interval."
    metrics = " / ".join(table.metrics) or "no number yet"
    unit = "counted from 0" if "positions" in table.metrics else "in percent"
    paper = " ?: probably a misprint." if any(c.printed and c.printed.doubtful for r in table.cells for c in r) else ""
    return f"{metrics} {unit}, mean ± half width of the 95 % interval over seeds {seeds}.{one}{paper}"


def text(cell: Cell, metrics: Sequence[str]) -> str:
    """60.80 ± 0.31 / 86.70 ± 0.20 (paper 60.82 / 86.75)"""
    shown = [metric for metric in metrics if metric in cell.estimates]
    ours = " / ".join(_estimate(cell, metric) for metric in shown) or (DASH if cell.networks else "")
    if cell.missing and shown:
        ours += f" ({cell.estimates[shown[0]].n} of {cell.seeds} seeds)"
    if cell.printed is None:
        return ours
    paper = " / ".join(_number(value, metric) for metric, value in cell.printed.values.items())
    return f"{ours} (paper {paper}{'?' if cell.printed.doubtful else ''})".lstrip()


def _estimate(cell: Cell, metric: str) -> str:
    found = cell.estimates[metric]
    return _number(found.mean, metric) + ("" if found.ci95 is None else f" ± {_number(found.ci95, metric)}")


def _number(value: float, metric: str) -> str:
    return f"{value:.0f}" if metric == "positions" else f"{value:.2f}"


def missing(table: PaperTable) -> list[str]:
    """What would fill the cells that lack numbers."""
    reasons = list(dict.fromkeys(reason for line in table.cells for cell in line for reason in cell.missing))
    lines = [f"missing: {reason}" for reason in reasons[:SHOWN]]
    return lines + ([f"missing: {len(reasons) - SHOWN} more runs"] if len(reasons) > SHOWN else [])


def to_csv(table: PaperTable) -> str:
    """A line for every cell and metric, in full precision; values of the seeds in the order of `seeds`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV)
    for label, line in zip(table.rows, table.cells, strict=True):
        for column, cell in zip(table.layout.columns, line, strict=True):
            for metric in table.metrics if cell.networks else ():
                found, by_seed = cell.estimates.get(metric), cell.values.get(metric, {})
                numbers = (None, None, None, 0) if found is None else (found.mean, found.std, found.ci95, found.n)
                paper = cell.printed.values.get(metric) if cell.printed else None
                seeds, values = (";".join(map(str, items)) for items in (by_seed, by_seed.values()))
                writer.writerow(
                    [table.layout.name, label, column, cell.networks, metric, *numbers, seeds, values, paper]
                )
    return buffer.getvalue()
