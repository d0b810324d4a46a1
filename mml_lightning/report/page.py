"""A table as one self-contained html page: it sorts by its headers and shows every seed with mean and interval. Below
it stands what is behind the numbers: differences to a row, per class too, curves, lesson graphs, links to runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from mml_lightning.report import details, plots
from mml_lightning.report.collect import Run
from mml_lightning.report.html import SortableTable, Td
from mml_lightning.report.markdown import Column, caption, decimal, display, layout
from mml_lightning.report.paper_table import PaperTable
from mml_lightning.report.paper_table_html import filled_html
from mml_lightning.report.statistics import Estimate, estimate
from mml_lightning.report.table import Cell, Table
from mml_lightning.utils.templates import render

SHOWN = 8  # classes at each end of the differences per class
NOTES = 3  # that are not folded away
FRONT = 6  # comparisons per class that are not folded away
LINES = 8  # rows in one chart
SMALL = Markup("<small>{} … {}</small>")  # ends of the axis of a column


def page(
    table: Table,
    title: str,
    runs: Sequence[Run] = (),
    directory: Path | None = None,
    baseline: str | None = None,
    papers: Sequence[PaperTable] = (),
) -> str:
    """The page.

    Args:
        table: rows in their order; cells that hold nothing sort last.
        title: of the page.
        runs: those behind the table: without them the page is the table alone.
        directory: where the page will lie; links lead from there.
        baseline: name of the row that differences are taken to; default: the first that has the quantity.
        papers: tables in the layout of the paper.
    """
    by_path = {run["path"]: run for run in runs}
    parts = {  # a part of this name is filled into page/<name>.html
        "Paper": list(map(filled_html, papers)),
        "Table": _table(table, bool(runs), directory),
        "Bars": _bars(table),
        "Differences": _differences(table, baseline),
        "Classes": _classes(table, baseline) if runs else None,
        "Training": _training(table) if runs else None,
        "Runs": _rows(table, by_path, directory) if runs else None,
    }
    return str(render("page.html", title=title, parts={name: part for name, part in parts.items() if part}))


def baseline_row(table: Table, name: str | None, quantity: str) -> int:
    """The place of a row; without a name the first that has the quantity.

    Raises:
        ValueError: no row is called so.
    """
    if name is None:
        return next((place for place, row in enumerate(table.rows) if row[quantity] is not None), 0)
    names = [str(row["name"]) for row in table.rows]
    if name not in names:
        raise ValueError(f"no row is called {name!r}; the rows are: {'; '.join(names)}")
    return names.index(name)


# The table --------------------------------------------------------------------------------------------------------


def _table(table: Table, linked: bool, directory: Path | None) -> dict[str, Any]:
    columns = [c for column in layout(table) for c in _with_plot(column)]
    axes = {quantity: _axis(table, quantity) for quantity in table.measured}
    heads = [_head(column, axes) for column in columns]
    rows = [[_data(table, place, column, axes, linked) for column in columns] for place in range(len(table.rows))]
    first, *notes = caption(table)
    problems = [(_link(p["path"], directory), p["status"], p["error"]) for p in table.problems]
    shown = SortableTable(heads, rows)
    return {"table": shown, "caption": first, "notes": notes, "open": NOTES, "problems": problems}


def _with_plot(column: Column) -> list[Column]:
    return [column, Column("", "plot", column.key)] if column.kind == "value" else [column]


def _axis(table: Table, quantity: str) -> tuple[float, float]:
    """Ends of the common axis of a column, so that rows compare at a glance."""
    ends: list[Cell] = []
    for row, runs in zip(table.rows, table.runs, strict=True):
        mean, half = row[quantity], row[f"{quantity}/ci95"]
        if isinstance(mean, int | float):
            reach = half if isinstance(half, int | float) else 0.0
            ends += [mean - reach, mean + reach]
        ends += [row.get(f"{quantity}/paper"), *_seeds(runs, quantity)]
    return plots.span([float(end) for end in ends if isinstance(end, int | float)])


def _head(column: Column, axes: dict[str, tuple[float, float]]) -> str:
    if column.kind != "plot":
        return column.header
    low, high = (decimal(end, column.key) for end in axes[column.key])
    return SMALL.format(low, high)


def _data(table: Table, place: int, column: Column, axes: dict[str, tuple[float, float]], linked: bool) -> Td:
    row = table.rows[place]
    keys = {"text": column.key, "value": column.key, "plot": column.key}
    item = row[keys.get(column.kind, f"{column.key}/{column.kind}")]
    if column.kind == "plot":
        return Td(item, _plot(row, column.key, axes[column.key], _seeds(table.runs[place], column.key)))
    text = display(row, column)
    if column.key == "name" and linked:
        return Td(item, Markup('<a href="#row{}">{}</a>').format(place, text))
    return Td(item, text)


def _seeds(runs: Sequence[dict[str, Any]], quantity: str) -> list[float]:
    return [run["values"][quantity] for run in runs if quantity in run["values"]]


def _plot(row: dict[str, Cell], quantity: str, axis: tuple[float, float], seeds: Sequence[float]) -> Markup:
    mean, half, paper = row[quantity], row[f"{quantity}/ci95"], row.get(f"{quantity}/paper")
    if not isinstance(mean, int | float):
        return Markup()
    label = f"{quantity}: {display(row, Column('', 'value', quantity))}"
    reach = half if isinstance(half, int | float) else None
    printed = paper if isinstance(paper, int | float) else None
    return plots.interval(mean, reach, axis, seeds if len(seeds) > 1 else (), printed, label)


def _link(path: str, directory: Path | None) -> Markup:
    if directory is None:
        return Markup("<code>{}</code>").format(path)
    short = os.path.relpath(path, directory)
    return Markup('<a href="{}/"><code>{}</code></a>').format(quote(Path(short).as_posix()), short)


def bar_rows(table: Table, quantity: str) -> list[tuple[str, float, float | None, list[float]]]:
    """(row, mean, half width of its interval, seeds) of the rows that have a quantity; two splits are told apart."""
    both = len({row["split"] for row in table.rows} - {None}) > 1
    found = []
    for row, runs in zip(table.rows, table.runs, strict=True):
        mean, half = row[quantity], row[f"{quantity}/ci95"]
        if isinstance(mean, int | float):
            name = f"{row['name']} ({row['split']})" if both else str(row["name"])
            found.append((name, float(mean), half if isinstance(half, float) else None, _seeds(runs, quantity)))
    return found


def _bars(table: Table) -> list[tuple[str, Markup]]:
    """(quantity, picture) of each that several rows have."""
    found = {quantity: bar_rows(table, quantity) for quantity in table.measured}
    return [(q.replace("/", " "), plots.bars(rows, q)) for q, rows in found.items() if len(rows) > 1]


# Differences to one row -------------------------------------------------------------------------------------------


def all_differences(table: Table, baseline: str | None) -> list[tuple[int, int, str, list[float]]]:
    """(row, base row, quantity, row minus base for every seed that both have), where there is such a seed."""
    found = []
    for quantity in table.measured:
        base = baseline_row(table, baseline, quantity)
        for place in range(len(table.rows)):
            pairs = paired_values(table, place, base, quantity) if place != base else []
            if pairs:
                found.append((place, base, quantity, pairs))
    return found


def _differences(table: Table, baseline: str | None) -> SortableTable | None:
    found = all_differences(table, baseline)
    if not found:
        return None
    axis = plots.span([0.0, *(end for *_, pairs in found for end in _ends(pairs))])
    rows = []
    for place, base, quantity, pairs in found:
        told = estimate(pairs)
        half = "" if told.ci95 is None else f" ± {told.ci95:.2f}"
        names = [str(table.rows[place]["name"]), str(table.rows[base]["name"])]
        verdict = "one seed" if told.ci95 is None else _words(told)
        cells = [*(Td(name, name) for name in names), Td(quantity, quantity.replace("/", " "))]
        cells += [Td(told.mean, f"{told.mean:+.2f}{half} ({told.n})")]
        cells += [Td(told.mean, plots.interval(told.mean, told.ci95, axis, pairs if len(pairs) > 1 else ()))]
        rows.append([*cells, Td(verdict, verdict)])
    ends = SMALL.format(*(f"{end:+.2f}" for end in axis))
    return SortableTable(["row", "less", "quantity", "difference", ends, "so"], rows)


def _words(told: Estimate) -> str:
    if not told.excludes_zero:
        return "no difference found"
    return "higher" if told.mean > 0 else "lower"


def paired_values(table: Table, row: int, base: int, quantity: str) -> list[float]:
    """Row less base of every seed that both have."""
    one, other = (
        {run["seed"]: run["values"][quantity] for run in table.runs[place] if quantity in run["values"]}
        for place in (row, base)
    )
    return [value - other[seed] for seed, value in one.items() if seed is not None and seed in other]


def _ends(pairs: Sequence[float]) -> list[float]:
    told = estimate(pairs)
    half = told.ci95 or 0.0
    return [told.mean - half, told.mean + half, *pairs]


def class_deltas(table: Table, baseline: str | None) -> list[tuple[int, int, str, list[tuple[str, float]]]]:
    """(row, base row, peer, [(class, mean over seeds less that of the base row)]), best first, where both tell them."""
    found = []
    for peer in dict.fromkeys(quantity.rpartition("/")[0] for quantity in table.measured):
        quantity = next(quantity for quantity in table.measured if quantity.rpartition("/")[0] == peer)
        base = baseline_row(table, baseline, quantity)
        split = str(table.rows[base]["split"])
        reference = details.mean_per_class(_paths(table, base), split, peer)
        for place, row in enumerate(table.rows):
            if place != base and reference and row["split"] == split:
                gained = details.deltas(details.mean_per_class(_paths(table, place), split, peer), reference)
                if gained:
                    found.append((place, base, peer, gained))
    return found


def _paths(table: Table, place: int) -> list[Path]:
    return [Path(run["path"]) for run in table.runs[place]]


def _classes(table: Table, baseline: str | None) -> dict[str, Any] | None:
    found = class_deltas(table, baseline)
    if not found:
        return None
    most = max(abs(value) for *_, gained in found for _, value in gained)
    figures = []
    for place, base, peer, gained in found:
        shown = gained if len(gained) <= 2 * SHOWN else [*gained[:SHOWN], *gained[-SHOWN:]]
        some = "" if len(shown) == len(gained) else f"; the {SHOWN} best and worst of {len(gained)} classes"
        name, less = (str(table.rows[number]["name"]) for number in (place, base))
        told = Markup("{}: <b>{}</b> minus {}{}").format(peer, name, less, some)
        figures.append((told, plots.difference_bars(shown, most)))
    return {"front": figures[:FRONT], "behind": figures[FRONT:]}


# Training ---------------------------------------------------------------------------------------------------------


def _training(table: Table) -> dict[str, Any] | None:
    """A chart per logged quantity with a line per row; the losses of training folded away."""
    read = [[details.curves(path) for path in _paths(table, place)] for place in range(len(table.rows))]
    keys = list(dict.fromkeys(key for curves in read for found in curves for key in found))
    metrics = dict.fromkeys(quantity.rpartition("/")[2] for quantity in table.measured)
    front = [key for key in keys if key.startswith("val/") and key.rpartition("/")[2] in metrics]
    behind = [key for key in keys if key.startswith("train/") and key not in front]
    names = [str(row["name"]) for row in table.rows]
    first = [place for place, curves in enumerate(read) if any(curves)][:LINES]
    if not front and not behind:
        return None
    colours = plots.palette([names[place] for place in first])

    def charts(keys: Sequence[str]) -> list[tuple[str, Markup]]:
        drawn = []
        for key in keys:
            lines = []
            for place in first:
                members = [found[key] for found in read[place] if key in found]
                if members:
                    faint = members if len(members) > 1 else ()
                    lines.append(plots.Line(names[place], details.mean_curve(members), faint))
            drawn.append((key, plots.chart(lines, colours, key)))
        return [(key, picture) for key, picture in drawn if picture]

    more = f" (the first {LINES} rows)" if sum(map(any, read)) > LINES else ""
    return {"colours": colours, "more": more, "front": charts(front), "behind": charts(behind)}


# Runs -------------------------------------------------------------------------------------------------------------


def _rows(table: Table, by_path: dict[str, Run], directory: Path | None) -> list[dict[str, Any]]:
    """Per row: its graph, its command, its runs."""
    found = []
    heads = ["seed", *(quantity.replace("/", " ") for quantity in table.measured), "run"]
    for place, row in enumerate(table.rows):
        if any(str(other["name"]) == str(row["name"]) for other in table.rows[:place]):
            continue  # the other split of the same runs
        behind = table.runs[place]
        first = by_path.get(behind[0]["path"]) if behind else None
        cells = []
        for run in behind:
            line = [Td(run["seed"], "" if run["seed"] is None else str(run["seed"]))]
            for quantity in table.measured:
                value = run["values"].get(quantity)
                line.append(Td(value, "" if value is None else decimal(value, quantity)))
            cells.append([*line, Td(run["path"], _link(run["path"], directory))])
        found.append(
            {
                "place": place,
                "name": str(row["name"]),
                "graph": Markup(details.graph(first) if first else ""),  # escaped where it is drawn
                "command": str(first.get("command") or "") if first else "",
                "table": SortableTable(heads, cells),
            }
        )
    return found
