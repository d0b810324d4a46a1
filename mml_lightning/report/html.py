"""What the templates of the pages are filled with: sortable tables, and whole documents of a few of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mml_lightning.report.grid import Grid
from mml_lightning.report.table import Cell
from mml_lightning.utils.templates import render


@dataclass(frozen=True)
class Td:
    """A cell: what it sorts by, and what it shows; only `Markup` is html, every other text is text."""

    value: Cell
    text: str

    @property
    def key(self) -> str:
        """What the page sorts by; an empty one stands last."""
        return "" if self.value is None else str(self.value)

    @property
    def is_number(self) -> bool:
        """Numbers stand right; a picture of one does not."""
        picture = isinstance(self.text, Markup) and "<svg" in self.text
        return isinstance(self.value, int | float) and not picture


@dataclass(frozen=True)
class SortableTable:
    """A table whose headers sort it."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Td]]

    @property
    def right(self) -> list[bool]:
        """Per column, whether it holds numbers."""
        return [any(row[column].is_number for row in self.rows) for column in range(len(self.heads))]


def picture_page(title: str, picture: Markup) -> str:
    """A page of one picture, that needs nothing from outside."""
    return str(render("picture.html", title=title, picture=picture))


def tables_page(title: str, tables: Sequence[tuple[str, SortableTable, Sequence[str]]]) -> str:
    """A page of (title, table, notes), that needs nothing from outside."""
    return str(render("tables.html", title=title, tables=tables))


def grid_table(grid: Grid) -> tuple[str, SortableTable, Sequence[str]]:
    """A grid as a part of :func:`tables_page`."""
    rows = [[Td(row.get(column), grid.text(row, column)) for column in grid.columns] for row in grid.rows]
    return grid.title, SortableTable(grid.columns, rows), grid.notes
