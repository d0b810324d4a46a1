"""A table as one self-contained html page: it sorts by its headers and shows every seed with mean and interval. Below
it stands what is behind the numbers: differences to a row, per class too, curves, lesson graphs, links to runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mml_lightning.report import details, plots
from mml_lightning.report.collect import Run
from mml_lightning.report.html import Td, document, section, sortable
from mml_lightning.report.markdown import Column, caption, decimal, display, layout
from mml_lightning.report.paper_table import PaperTable
from mml_lightning.report.paper_table_html import filled_html
from mml_lightning.report.statistics import Estimate, estimate
from mml_lightning.report.table import Cell, Table

SHOWN = 8  # classes at each end of the differences per class
NOTES = 3  # that are not folded away
FRONT = 6  # comparisons per class that are not folded away
LINES = 8  # rows in one chart


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
    parts = [
        ("Paper", "".join(map(filled_html, papers))),
        ("Table", _table(table, linked=bool(runs)) + _problems(table, directory)),
        ("Bars", _bars(table)),
        ("Differences", _differences(table, baseline)),
        ("Classes", _classes(table, baseline) if runs else ""),
        ("Training", _training(table) if runs else ""),
        ("Runs", _rows(table, by_path, directory) if runs else ""),
    ]
    shown = [(name, body) for name, body in parts if body]
    links = "".join(f'<a href="#{name}">{name}</a>' for name, _ in shown)
    nav = f"<nav>{links}</nav>" if len(shown) > 1 else ""
    return document(title, nav + "".join(section(name, body) for name, body in shown))


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


def _table(table: Table, linked: bool) -> str:
    columns = [c for column in layout(table) for c in _with_plot(column)]
    axes = {quantity: _axis(table, quantity) for quantity in table.measured}
    heads = [_head(column, axes) for column in columns]
    rows = [[_data(table, place, column, axes, linked) for column in columns] for place in range(len(table.rows))]
    first, *notes = caption(table)
    return sortable(heads, rows) + f'<p class="note">{escape(first)}</p>' + _notes(notes)


def _notes(lines: Sequence[str]) -> str:
    """A list, folded away where it is long."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    if len(lines) > NOTES:
        return f'<details><summary>{len(lines)} notes</summary><ul class="note">{items}</ul></details>'
    return f'<ul class="note">{items}</ul>' if items else ""


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
        return escape(column.header)
    low, high = (decimal(end, column.key) for end in axes[column.key])
    return f"<small>{low} … {high}</small>"


def _data(table: Table, place: int, column: Column, axes: dict[str, tuple[float, float]], linked: bool) -> Td:
    row = table.rows[place]
    keys = {"text": column.key, "value": column.key, "plot": column.key}
    item = row[keys.get(column.kind, f"{column.key}/{column.kind}")]
    if column.kind == "plot":
        return Td(item, _plot(row, column.key, axes[column.key], _seeds(table.runs[place], column.key)))
    text = escape(display(row, column))
    if column.key == "name" and linked:
        return Td(item, f'<a href="#row{place}">{text}</a>')
    return Td(item, text)


def _seeds(runs: Sequence[dict[str, Any]], quantity: str) -> list[float]:
    return [run["values"][quantity] for run in runs if quantity in run["values"]]


def _plot(row: dict[str, Cell], quantity: str, axis: tuple[float, float], seeds: Sequence[float]) -> str:
    mean, half, paper = row[quantity], row[f"{quantity}/ci95"], row.get(f"{quantity}/paper")
    if not isinstance(mean, int | float):
        return ""
    label = f"{quantity}: {display(row, Column('', 'value', quantity))}"
    reach = half if isinstance(half, int | float) else None
    printed = paper if isinstance(paper, int | float) else None
    return plots.interval(mean, reach, axis, seeds if len(seeds) > 1 else (), printed, label)


def _problems(table: Table, directory: Path | None) -> str:
    listed = "".join(
        f"<li>{_link(p['path'], directory)}: {escape(p['status'])} {escape(p['error'])}</li>" for p in table.problems
    )
    return f"<h3>Runs that did not complete</h3><ul>{listed}</ul>" if listed else ""


def _link(path: str, directory: Path | None) -> str:
    if directory is None:
        return f"<code>{escape(path)}</code>"
    short = os.path.relpath(path, directory)
    return f'<a href="{escape(quote(Path(short).as_posix()))}/"><code>{escape(short)}</code></a>'


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


def _bars(table: Table) -> str:
    figures = []
    for quantity in table.measured:
        rows = bar_rows(table, quantity)
        if len(rows) > 1:
            drawn = plots.bars(rows, quantity)
            figures.append(f"<figure><figcaption>{escape(quantity.replace('/', ' '))}</figcaption>{drawn}</figure>")
    return f'<div class="figures">{"".join(figures)}</div>' if figures else ""


# Differences to one row -------------------------------------------------------------------------------------------


def all_differences(table: Table, baseline: str | None) -> list[tuple[int, int, str, list[float]]]:
    """(row, base row, quantity, row less base of every seed that both have), where there is such a seed."""
    found = []
    for quantity in table.measured:
        base = baseline_row(table, baseline, quantity)
        for place in range(len(table.rows)):
            pairs = paired_values(table, place, base, quantity) if place != base else []
            if pairs:
                found.append((place, base, quantity, pairs))
    return found


def _differences(table: Table, baseline: str | None) -> str:
    found = all_differences(table, baseline)
    if not found:
        return ""
    axis = plots.span([0.0, *(end for *_, pairs in found for end in _ends(pairs))])
    rows = []
    for place, base, quantity, pairs in found:
        told = estimate(pairs)
        half = "" if told.ci95 is None else f" ± {told.ci95:.2f}"
        names = [str(table.rows[place]["name"]), str(table.rows[base]["name"])]
        verdict = "one seed" if told.ci95 is None else _words(told)
        cells = [*(Td(name, escape(name)) for name in names), Td(quantity, escape(quantity.replace("/", " ")))]
        cells += [Td(told.mean, f"{told.mean:+.2f}{half} ({told.n})")]
        cells += [Td(told.mean, plots.interval(told.mean, told.ci95, axis, pairs if len(pairs) > 1 else ()))]
        rows.append([*cells, Td(verdict, verdict)])
    heads = ["row", "less", "quantity", "difference", f"<small>{axis[0]:+.2f} … {axis[1]:+.2f}</small>", "so"]
    note = "Differences over equal seeds (their number), with the 95 % interval of the mean difference of each alone."
    return f"<p>{note}</p>{sortable(heads, rows)}"


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


def _classes(table: Table, baseline: str | None) -> str:
    found = class_deltas(table, baseline)
    if not found:
        return ""
    most = max(abs(value) for *_, gained in found for _, value in gained)
    figures = []
    for place, base, peer, gained in found:
        shown = gained if len(gained) <= 2 * SHOWN else [*gained[:SHOWN], *gained[-SHOWN:]]
        some = "" if len(shown) == len(gained) else f"; the {SHOWN} best and worst of {len(gained)} classes"
        name, less = (escape(str(table.rows[number]["name"])) for number in (place, base))
        figures.append(
            f"<figure><figcaption>{escape(peer)}: <b>{name}</b> less {less}{some}</figcaption>"
            f"{plots.difference_bars(shown, most)}</figure>"
        )
    note = "Accuracy or average precision of each class, mean over seeds; points."
    front, behind = (f'<div class="figures">{"".join(part)}</div>' for part in (figures[:FRONT], figures[FRONT:]))
    folded = f"<details><summary>{len(figures) - FRONT} more</summary>{behind}</details>" if figures[FRONT:] else ""
    return f"<p>{note}</p>{front}{folded}"


# Training ---------------------------------------------------------------------------------------------------------


def _training(table: Table) -> str:
    """A chart per logged quantity with a line per row; the losses of training folded away."""
    read = [[details.curves(path) for path in _paths(table, place)] for place in range(len(table.rows))]
    keys = list(dict.fromkeys(key for curves in read for found in curves for key in found))
    metrics = dict.fromkeys(quantity.rpartition("/")[2] for quantity in table.measured)
    front = [key for key in keys if key.startswith("val/") and key.rpartition("/")[2] in metrics]
    behind = [key for key in keys if key.startswith("train/") and key not in front]
    names = [str(row["name"]) for row in table.rows]
    first = [place for place, curves in enumerate(read) if any(curves)][:LINES]
    if not front and not behind:
        return ""
    colours = plots.palette([names[place] for place in first])
    legend = "".join(
        f'<span class="legend"><span class="key" style="background:{c}"></span>{escape(n)}</span> '
        for n, c in colours.items()
    )
    more = f" (the first {LINES} rows)" if sum(map(any, read)) > LINES else ""

    def chart(key: str) -> str:
        lines = []
        for place in first:
            members = [found[key] for found in read[place] if key in found]
            if members:
                faint = members if len(members) > 1 else ()
                lines.append(plots.Line(names[place], details.mean_curve(members), faint))
        drawn = plots.chart(lines, colours, key)
        return f"<figure><figcaption>{escape(key)}</figcaption>{drawn}</figure>" if drawn else ""

    charts = f'<div class="figures">{"".join(map(chart, front))}</div>'
    losses = f'<div class="figures">{"".join(map(chart, behind))}</div>'
    folded = f"<details><summary>losses of training</summary>{losses}</details>" if behind else ""
    return f"<p>{legend}{more}; mean over seeds, each seed faint.</p>{charts}{folded}"


# Runs -------------------------------------------------------------------------------------------------------------


def _rows(table: Table, by_path: dict[str, Run], directory: Path | None) -> str:
    """Per row: its graph, its command, its runs."""
    parts = []
    for place, row in enumerate(table.rows):
        if any(str(other["name"]) == str(row["name"]) for other in table.rows[:place]):
            continue  # the other split of the same runs
        behind = table.runs[place]
        first = by_path.get(behind[0]["path"]) if behind else None
        drawn = details.graph(first) if first else ""
        command = str(first.get("command") or "") if first else ""
        told = f"<p><code>{escape(command)}</code></p>" if command else ""
        heads = ["seed", *(escape(q.replace("/", " ")) for q in table.measured), "run"]
        cells = []
        for run in behind:
            line = [Td(run["seed"], "" if run["seed"] is None else str(run["seed"]))]
            for quantity in table.measured:
                value = run["values"].get(quantity)
                line.append(Td(value, "" if value is None else decimal(value, quantity)))
            cells.append([*line, Td(run["path"], _link(run["path"], directory))])
        body = told + (sortable(heads, cells) if cells else "<p>no run completed</p>")
        parts.append(
            f'<h3 id="row{place}">{escape(str(row["name"]))}</h3><div class="figures">{drawn}<div>{body}</div></div>'
        )
    return "".join(parts)
