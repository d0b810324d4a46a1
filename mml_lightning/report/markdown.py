"""A table as text: markdown, csv and json. All write the same rows; csv and json hold full precision."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mml_lightning.report.table import Cell, Table
from mml_lightning.utils.plain_text import visible

DASH = "–"
_CAPTION = (
    "Mean ± sample standard deviation over seeds, (number of seeds); CI95: half width of the 95 % interval of the "
    "mean (Student's t). – : not available; one seed has no interval."
)


@dataclass(frozen=True)
class Column:
    """One displayed column. `kind`: text, value (mean ± std (n)), ci95 or paper; `key` is a column of the table."""

    header: str
    kind: str
    key: str


def layout(table: Table) -> list[Column]:
    """The columns people see: the measured ones of a quantity share a cell, empty ones are dropped."""
    described = [c for c in table.described() if any(row[c] is not None for row in table.rows)]
    behind = [c for c in described if c in ("seeds", "failed", "running")]
    columns = [Column(c, "text", c) for c in described if c not in behind]
    for quantity in table.measured:
        title = quantity.replace("/", " ")
        columns += [Column(title, "value", quantity), Column(f"{title} CI95", "ci95", quantity)]
        if f"{quantity}/paper" in table.columns:
            columns.append(Column(f"{title} paper", "paper", quantity))
    return columns + [Column(c, "text", c) for c in behind]


def display(row: dict[str, Cell], column: Column) -> str:
    """The text of one cell."""
    if column.kind == "text":
        item = row[column.key]
        return DASH if item is None else str(item)
    if column.kind == "value":
        mean, std = row[column.key], row[f"{column.key}/std"]
        if mean is None:
            return DASH
        spread = "" if std is None else f" ± {decimal(std, column.key)}"
        return f"{decimal(mean, column.key)}{spread} ({row[f'{column.key}/n']})"
    number = row[f"{column.key}/{column.kind}"]
    if number is None:
        return DASH
    return ("±" if column.kind == "ci95" else "") + decimal(number, column.key)


def decimal(number: Cell, quantity: str) -> str:
    """Percentages to two decimals; losses are no percentages and get four."""
    return f"{number:.4f}" if quantity.rsplit("/", 1)[-1] in ("loss", "ce", "kl", "ece") else f"{number:.2f}"


def caption(table: Table) -> list[str]:
    """The lines under a table: what its numbers are, then what a reader should know about these."""
    return [_CAPTION, *table.notes]


def markdown(table: Table) -> str:
    """The table, its notes, and the runs that did not complete."""
    columns = layout(table)
    text = pipes([[c.header for c in columns], *([display(row, c) for c in columns] for row in table.rows)])
    text += "\n" + "\n".join(f"- {_cell(line)}" for line in caption(table)) + "\n"
    if table.problems:
        text += "\nRuns that did not complete:\n\n"
        text += "".join(
            f"- `{p['path']}`: {_cell(': '.join(filter(None, (p['status'], p['error']))))}\n" for p in table.problems
        )
    return text


def pipes(lines: Sequence[Sequence[str]]) -> str:
    """A pipe table of its head and its rows, padded so that it reads well in a terminal too."""
    cells = [[_cell(text) for text in line] for line in lines]
    widths = [max(3, *map(len, texts)) for texts in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return "".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |\n"
        for line in cells
    )


def _cell(text: str) -> str:
    return visible(text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " "))


def to_csv(table: Table) -> str:
    """One line a row, an empty field for a missing cell; floats in full precision."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, table.columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.rows)
    return buffer.getvalue()


def to_json(table: Table) -> str:
    """The whole table, problems and notes included."""
    return json.dumps({"schema": 1, **asdict(table)}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
