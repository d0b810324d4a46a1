"""A plain table of cells, for whatever is no table of runs: markdown, csv; `page` shows it, too."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mml_lightning.report.markdown import DASH, pipes
from mml_lightning.report.table import Cell


@dataclass(frozen=True)
class Grid:
    """A titled table.

    Args:
        title: a few words.
        columns: keys of the rows, in order; they are the headers.
        rows: cells; None and missing keys are empty.
        digits: of floats, by column; 2 where nothing is said.
        notes: lines under it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Mapping[str, Cell]]
    digits: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def text(self, row: Mapping[str, Cell], column: str) -> str:
        """What people read in a cell."""
        item = row.get(column)
        if item is None:
            return DASH
        return f"{item:.{self.digits.get(column, 2)}f}" if isinstance(item, float) else str(item)

    def markdown(self, top: int | None = None) -> str:
        """A heading, a pipe table of the first `top` rows, and the notes."""
        shown = self.rows if top is None else self.rows[:top]
        lines = [list(self.columns), *([self.text(row, column) for column in self.columns] for row in shown)]
        more = [f"first {len(shown)} of {len(self.rows)} rows"] if len(shown) < len(self.rows) else []
        notes = "".join(f"\n- {note}" for note in [*more, *self.notes])
        return f"## {self.title}\n\n{pipes(lines)}" + (f"{notes}\n" if notes else "")

    def csv(self) -> str:
        """One line a row, full precision, empty where there is nothing."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(self.columns), lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self.rows)
        return buffer.getvalue()
