"""A table as one self-contained html page: click a header to sort; a dot and whisker shows each mean with its CI."""

from __future__ import annotations

from html import escape

from mml_lightning.report.render import Column, caption, decimal, display, layout
from mml_lightning.report.table import Cell, Table

_WIDTH, _HEIGHT, _MARGIN = 170, 18, 8

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --ink: #1f6feb; --paper: #d29922; }
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th { cursor: pointer; vertical-align: bottom; }
th small { display: block; font-weight: normal; opacity: .7; }
th[aria-sort=ascending]::after { content: " \\2191"; }
th[aria-sort=descending]::after { content: " \\2193"; }
svg { display: block; }
.axis { stroke: var(--line); } .ci { stroke: var(--ink); stroke-width: 2; } .mean { fill: var(--ink); }
.paper { stroke: var(--paper); stroke-width: 2; }
""".strip()

_SCRIPT = """
document.querySelectorAll("th").forEach((head, column) => {
  const sort = () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    document.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = document.querySelector("tbody");
    const text = row => row.cells[column].dataset.value;
    [...body.rows].sort((a, b) => {
      if (text(a) === "" || text(b) === "") return (text(a) === "") - (text(b) === "");
      const numbers = text(a) - text(b);
      return (isNaN(numbers) ? text(a).localeCompare(text(b)) : numbers) * (up ? 1 : -1);
    }).forEach(row => body.append(row));
  };
  head.addEventListener("click", sort);
  head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
});
""".strip()


def page(table: Table, title: str) -> str:
    """The page; rows in table order, cells that hold nothing sort last."""
    columns = [c for column in layout(table) for c in _with_plot(column)]
    axes = {quantity: _axis(table, quantity) for quantity in table.measured}
    heads = "".join(_head(column, axes) for column in columns)
    rows = "\n".join("<tr>" + "".join(_data(row, column, axes) for column in columns) + "</tr>" for row in table.rows)
    notes = "".join(f"<p>{escape(line)}</p>" for line in caption(table))
    problems = "".join(
        f"<li><code>{escape(p['path'])}</code>: {escape(p['status'])} {escape(p['error'])}</li>" for p in table.problems
    )
    trouble = f"<h2>Runs that did not complete</h2><ul>{problems}</ul>" if problems else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(title)}</title><style>{_STYLE}</style></head>
<body><h1>{escape(title)}</h1>
<div class="wide"><table><thead><tr>{heads}</tr></thead>
<tbody>
{rows}
</tbody></table></div>
{notes}{trouble}
<script>{_SCRIPT}</script></body></html>
"""


def _with_plot(column: Column) -> list[Column]:
    return [column, Column("", "plot", column.key)] if column.kind == "value" else [column]


def _axis(table: Table, quantity: str) -> tuple[float, float]:
    """Ends of the common axis of a column, so that rows compare at a glance. Not from zero: it has dots, not bars."""
    ends = [end for row in table.rows for end in (*_interval(row, quantity), row.get(f"{quantity}/paper"))]
    numbers = [float(end) for end in ends if isinstance(end, int | float)]
    if not numbers:
        return 0.0, 1.0
    low, high = min(numbers), max(numbers)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _interval(row: dict[str, Cell], quantity: str) -> list[float]:
    mean, ci95 = row[quantity], row[f"{quantity}/ci95"]
    if not isinstance(mean, int | float):
        return []
    half = ci95 if isinstance(ci95, int | float) else 0.0
    return [mean - half, mean, mean + half]


def _head(column: Column, axes: dict[str, tuple[float, float]]) -> str:
    text = escape(column.header)
    if column.kind == "plot":
        low, high = (decimal(end, column.key) for end in axes[column.key])
        text = f"<small>{low} … {high}</small>"
    return f'<th tabindex="0" scope="col">{text}</th>'


def _data(row: dict[str, Cell], column: Column, axes: dict[str, tuple[float, float]]) -> str:
    keys = {"text": column.key, "value": column.key, "plot": column.key}
    item = row[keys.get(column.kind, f"{column.key}/{column.kind}")]
    value = "" if item is None else escape(str(item))
    body = _plot(row, column.key, axes[column.key]) if column.kind == "plot" else escape(display(row, column))
    return f'<td data-value="{value}">{body}</td>'


def _plot(row: dict[str, Cell], quantity: str, axis: tuple[float, float]) -> str:
    ends = _interval(row, quantity)
    if not ends:
        return ""

    def x(number: float) -> str:
        return f"{_MARGIN + (number - axis[0]) / (axis[1] - axis[0]) * (_WIDTH - 2 * _MARGIN):.1f}"

    low, mean, high = map(x, ends)
    middle = _HEIGHT // 2
    marks = f'<line class="axis" x1="{_MARGIN}" x2="{_WIDTH - _MARGIN}" y1="{middle}" y2="{middle}"/>'
    if low != high:
        marks += f'<path class="ci" fill="none" d="M{low} 4V14M{low} {middle}H{high}M{high} 4V14"/>'
    marks += f'<circle class="mean" cx="{mean}" cy="{middle}" r="4"/>'
    paper = row.get(f"{quantity}/paper")
    if isinstance(paper, int | float):
        marks += f'<line class="paper" x1="{x(paper)}" x2="{x(paper)}" y1="1" y2="17"><title>paper</title></line>'
    label = escape(f"{quantity}: {display(row, Column('', 'value', quantity))}")
    return f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{label}">{marks}</svg>'
