"""A report of a check as one html page that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from mml_lightning.data.check.remarks import Remark
from mml_lightning.data.check.summary import Report
from mml_lightning.data.check.text import describe_speed, verdict

_WIDTH, _HEIGHT = 240, 12
_SHOWN = 200  # examples of a remark on the page; the csv files have all

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --ink: #1f6feb; --stop: #d1242f; --false: #d29922; }
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem; max-width: 70rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .7rem .15rem 0; text-align: left; }
td.count { text-align: right; }
svg { display: block; } .bar { fill: var(--ink); }
details { border-left: .3rem solid var(--line); margin: .4rem 0; padding-left: .7rem; }
details.stops { border-color: var(--stop); } details.falsifies { border-color: var(--false); }
summary { cursor: pointer; } .wide { overflow-x: auto; } li { overflow-wrap: anywhere; }
""".strip()


def page(report: Report, title: str) -> str:
    """The page: verdict, remarks with their videos, spreads, classes per split."""
    total = report.total
    facts = [f"{total} videos, {report.readable} readable", *report.notes]
    facts += [describe_speed(report.speed)] if report.speed else []
    spreads = "\n".join(
        f"<h3>{escape(name)}</h3>{_bars(['videos'], {value: [n] for value, n in rows})}"
        for name, rows in report.spreads.items()
    )
    remarks = "\n".join(map(_remark, report.remarks)) or "<p>Nothing.</p>"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(title)}</title><style>{_STYLE}</style></head>
<body><h1>{escape(title)}: {escape(verdict(report))}</h1>
<p>{"<br>".join(map(escape, facts))}</p>
<h2>Remarks</h2>
{remarks}
<h2>Videos</h2>
{spreads}
{_classes(report)}
</body></html>
"""


def _remark(remark: Remark) -> str:
    items = "".join(f"<li>{escape(example)}</li>" for example in remark.examples[:_SHOWN])
    rest = len(remark.examples) - _SHOWN
    more = f"<p>and {rest} more</p>" if rest > 0 else ""
    head = f"<b>{remark.level}</b>: {escape(remark.what)}: {len(remark.examples)}; {escape(remark.advice)}"
    return f'<details class="{remark.level}"><summary>{head}</summary><ul>{items}</ul>{more}</details>'


def _classes(report: Report) -> str:
    parts = []
    for head, classes in report.balance.items():
        splits = list(report.videos)
        ordered = sorted(classes.items(), key=lambda item: -item[1].get(splits[0], 0)) if splits else []
        rows = {label: [counts.get(split, 0) for split in splits] for label, counts in ordered}
        parts.append(f"<h2>Classes of {escape(head)}, videos per split</h2>{_bars(splits, rows)}")
    return "\n".join(parts)


def _bars(columns: Sequence[str], rows: Mapping[str, Sequence[int]]) -> str:
    """A table with a bar and a number per cell; a column has its own scale, from zero."""
    most = [max((row[i] for row in rows.values()), default=0) for i in range(len(columns))]
    heads = "".join(f'<th colspan="2" scope="col">{escape(column)}</th>' for column in columns)
    body = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(_bar(count, top) for count, top in zip(row, most, strict=True))
        + "</tr>"
        for name, row in rows.items()
    )
    return f'<div class="wide"><table><thead><tr><th></th>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _bar(count: int, most: int) -> str:
    width = count / most * _WIDTH if most else 0.0
    svg = f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{count}">'
    return (
        f'<td class="count">{count}</td><td>{svg}<rect class="bar" width="{width:.1f}" height="{_HEIGHT}"/></svg></td>'
    )
