"""Tables in the layout of the paper as html."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mml_lightning.report.html import SortableTable, Td
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
        log.warning("%s is damaged (%s: %s); its tables are skipped", root / STATE, type(error).__name__, error)
        return []


def filled_html(table: PaperTable) -> dict[str, Any]:
    """Title, table, conclusions, notes for page/paper.html; cells sort by the mean of the first metric and name their
    networks."""
    rows = [
        [Td(label, label), *(_cell(cell, table) for cell in line)]
        for label, line in zip(table.rows, table.cells, strict=True)
    ]
    told = [[Td(verdict.claim.say, verdict.claim.say), Td(verdict.words, verdict.words)] for verdict in table.verdicts]
    return {
        "title": title(table),
        "table": SortableTable(["", *table.layout.columns], rows) if rows else None,
        "caption": caption(table),
        "metric": table.verdicts[0].metric if told else "",
        "verdicts": SortableTable(["conclusion", f"setup {table.setup}"], told) if told else None,
        "notes": [*table.notes, *missing(table)],
    }


def _cell(cell: Cell, table: PaperTable) -> Td:
    first = next((metric for metric in table.metrics if metric in cell.estimates), None)
    value = None if first is None else cell.estimates[first].mean
    seeds = "; ".join(
        f"{metric} {', '.join(f'seed {seed}: {number:g}' for seed, number in by_seed.items())}"
        for metric, by_seed in cell.values.items()
    )
    hint = ": ".join(filter(None, [cell.networks, seeds]))
    return Td(value, Markup('<span title="{}">{}</span>').format(hint, text(cell, table.metrics)))
