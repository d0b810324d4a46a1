"""Tables in the layout of the paper as html."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from html import escape
from pathlib import Path

from mml_lightning.report.html import Td, sortable
from mml_lightning.report.measured import STATE, Measured
from mml_lightning.report.paper_table import Cell, PaperTable, fill_paper_table
from mml_lightning.report.paper_table_text import caption, missing, text, title

log = logging.getLogger(__name__)


def filled_tables(roots: Iterable[Path]) -> list[PaperTable]:
    """Those of every directory that a pipeline with tables has left its state in."""
    return [table for root in roots for table in _filled(root)]


def _filled(root: Path) -> list[PaperTable]:
    try:
        measured = Measured.of(root)
        return [] if measured is None else [fill_paper_table(table, measured) for table in measured.layouts()]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # a state of somebody else
        log.warning("%s is damaged (%s: %s); its tables are left out", root / STATE, type(error).__name__, error)
        return []


def filled_html(table: PaperTable) -> str:
    """Title, table, conclusions, notes; cells sort by the mean of the first metric and name their networks."""
    parts = [f"<h3>{escape(title(table))}</h3>"]
    if table.rows:
        rows = [
            [Td(label, escape(label)), *(_cell(cell, table) for cell in line)]
            for label, line in zip(table.rows, table.cells, strict=True)
        ]
        parts.append(sortable(["", *map(escape, table.layout.columns)], rows))
    parts.append(f'<p class="note">{escape(caption(table))}</p>')
    if table.verdicts:
        told = [[Td(v.claim.say, escape(v.claim.say)), Td(v.words, escape(v.words))] for v in table.verdicts]
        metric = escape(table.verdicts[0].metric)
        parts.append(f"<p>Conclusions of the paper, as paired differences in {metric} over equal seeds:</p>")
        parts.append(sortable(["conclusion", f"setup {escape(table.setup)}"], told))
    notes = "".join(f"<li>{escape(note)}</li>" for note in [*table.notes, *missing(table)])
    return "".join(parts) + (f'<ul class="note">{notes}</ul>' if notes else "")


def _cell(cell: Cell, table: PaperTable) -> Td:
    first = next((metric for metric in table.metrics if metric in cell.estimates), None)
    value = None if first is None else cell.estimates[first].mean
    seeds = "; ".join(
        f"{metric} {', '.join(f'seed {seed}: {number:g}' for seed, number in by_seed.items())}"
        for metric, by_seed in cell.values.items()
    )
    hint = ": ".join(filter(None, [cell.networks, seeds]))
    return Td(value, f'<span title="{escape(hint)}">{escape(text(cell, table.metrics))}</span>')
