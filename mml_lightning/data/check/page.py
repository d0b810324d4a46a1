"""A report of a check as one html page that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mml_lightning.data.check.summary import Report
from mml_lightning.data.check.text import describe_speed, verdict
from mml_lightning.utils.templates import render

_WIDTH, _HEIGHT = 240, 12  # of a bar
_SHOWN = 200  # examples of a remark on the page; the csv files have all

Bars = list[tuple[str, list[tuple[int, str]]]]
"""Rows of (name, [(number, length of its bar)])."""


def page(report: Report, title: str) -> str:
    """The page: verdict, remarks with their videos, spreads, classes per split."""
    facts = [f"{report.total} videos, {report.readable} readable", *report.notes]
    splits = list(report.videos)
    text = render(
        "check.html",
        **{"title": title, "verdict": verdict(report), "remarks": report.remarks, "shown": _SHOWN},
        **{"width": _WIDTH, "height": _HEIGHT, "splits": splits},
        facts=facts + ([describe_speed(report.speed)] if report.speed else []),
        spreads={name: _bars({value: [n] for value, n in rows}) for name, rows in report.spreads.items()},
        classes={head: _classes(classes, splits) for head, classes in report.balance.items()},
    )
    return str(text)


def _classes(classes: Mapping[str, Mapping[str, int]], splits: Sequence[str]) -> Bars:
    ordered = sorted(classes.items(), key=lambda item: -item[1].get(splits[0], 0)) if splits else []
    return _bars({label: [counts.get(split, 0) for split in splits] for label, counts in ordered})


def _bars(rows: Mapping[str, Sequence[int]]) -> Bars:
    """A column has its own scale, from zero."""
    most = [max(column) for column in zip(*rows.values(), strict=True)]
    return [
        (name, [(count, f"{count / top * _WIDTH if top else 0.0:.1f}") for count, top in zip(row, most, strict=True)])
        for name, row in rows.items()
    ]
