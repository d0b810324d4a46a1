"""Building blocks of self-contained html pages: the document with its style and script, and sortable tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from mml_lightning.report.grid import Grid
from mml_lightning.report.table import Cell

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --faint: #8882; --ink: #1f6feb; --paper: #b7791f; --good: #2da44e;
  --bad: #cf222e; --back: #fff; --text: #1f2328; }
@media (prefers-color-scheme: dark) { :root { --ink: #58a6ff; --paper: #e3b341; --good: #3fb950; --bad: #f85149;
  --back: #0d1117; --text: #e6edf3; } }
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem; max-width: 110rem; background: var(--back);
  color: var(--text); }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; } h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
a { color: var(--ink); }
nav a { margin-right: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
td.number, th.number { text-align: right; }
tbody tr:hover { background: var(--faint); }
th[tabindex] { cursor: pointer; }
th { vertical-align: bottom; }
th small { display: block; font-weight: normal; opacity: .7; }
th[aria-sort=ascending]::after { content: " \\2191"; }
th[aria-sort=descending]::after { content: " \\2193"; }
p, li { max-width: 60rem; } .note { opacity: .8; }
svg { display: block; } svg text { fill: currentColor; }
.axis { stroke: var(--line); fill: none; } .ci { stroke: var(--ink); stroke-width: 2; } .mean { fill: var(--ink); }
.seed { fill: var(--ink); fill-opacity: .3; } .paper { stroke: var(--paper); stroke-width: 2; }
.bar { fill: var(--ink); fill-opacity: .35; } .whisker { stroke: var(--text); stroke-width: 1.4; fill: none; }
.dot { fill: var(--ink); }
.up { fill: var(--good); } .down { fill: var(--bad); }
.figures { display: flex; flex-wrap: wrap; gap: 1.2rem 2rem; } figure { margin: 0; } figcaption { opacity: .8; }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin: 0 .3rem 0 .9rem;
  vertical-align: -1px; }
.legend { white-space: nowrap; }
details { margin-top: 1rem; } summary { cursor: pointer; }
""".strip()

# Every table sorts by itself; cells without a value go last whichever way it is sorted.
_SCRIPT = """
document.querySelectorAll("table").forEach(table => table.querySelectorAll("th[tabindex]").forEach((head, column) => {
  const sort = () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0], text = row => row.cells[column].dataset.value;
    [...body.rows].sort((a, b) => {
      if (text(a) === "" || text(b) === "") return (text(a) === "") - (text(b) === "");
      const numbers = text(a) - text(b);
      return (isNaN(numbers) ? text(a).localeCompare(text(b)) : numbers) * (up ? 1 : -1);
    }).forEach(row => body.append(row));
  };
  head.addEventListener("click", sort);
  head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
}));
""".strip()


_RIGHT = ' class="number"'


@dataclass(frozen=True)
class Td:
    """A cell: what it sorts by, and its html."""

    value: Cell
    html: str

    @property
    def is_number(self) -> bool:
        """Numbers stand right; a picture of one does not."""
        return isinstance(self.value, int | float) and "<svg" not in self.html

    def text(self, right: bool) -> str:
        """The element; `right` in a column of numbers."""
        value = "" if self.value is None else escape(str(self.value))
        return f'<td{_RIGHT if right else ""} data-value="{value}">{self.html}</td>'


def document(title: str, body: str) -> str:
    """A page that needs nothing from outside."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(title)}</title><style>{_STYLE}</style></head>
<body><h1>{escape(title)}</h1>
{body}
<script>{_SCRIPT}</script></body></html>
"""


def sortable(heads: Sequence[str], rows: Sequence[Sequence[Td]]) -> str:
    """A table whose headers (html) sort it."""
    right = [any(row[column].is_number for row in rows) for column in range(len(heads))]
    kinds = [_RIGHT if number else "" for number in right]
    top = "".join(f'<th{kind} tabindex="0" scope="col">{head}</th>' for kind, head in zip(kinds, heads, strict=True))
    lines = ("".join(cell.text(number) for cell, number in zip(row, right, strict=True)) for row in rows)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def section(title: str, body: str, name: str = "") -> str:
    """A heading with what stands under it; `name` is the target of links to it."""
    return f'<section id="{escape(name or title)}"><h2>{escape(title)}</h2>\n{body}\n</section>'


def grid_table(grid: Grid) -> str:
    """A grid as a sortable table with its notes."""
    rows = [[Td(row.get(c), escape(grid.text(row, c))) for c in grid.columns] for row in grid.rows]
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in grid.notes)
    return sortable([escape(column) for column in grid.columns], rows) + notes
