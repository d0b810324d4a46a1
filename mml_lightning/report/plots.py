"""Small pictures for pages, drawn as SVG: intervals, bars of differences, curves. Colours are those of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mml_lightning.utils.templates import render

WIDTH, HEIGHT, MARGIN = 170, 18, 8  # of an interval
NAME = 44  # characters of a class
COLOURS = ("#1f77d0", "#d9730d", "#2a9d4a", "#a23bbf", "#c8353b", "#1b9aaa", "#8a6d3b", "#6b7280")
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One row of runs in a chart: the mean, and the runs behind it (drawn faint)."""

    name: str
    mean: Points
    members: Sequence[Points] = ()


def interval(
    mean: float,
    half: float | None,
    axis: tuple[float, float],
    seeds: Sequence[float] = (),
    paper: float | None = None,
    label: str = "",
) -> Markup:
    """Mean as a dot, its 95 % interval as a whisker, every seed as a faint dot, the paper's number as a bar."""

    def x(number: float) -> str:
        return f"{MARGIN + (number - axis[0]) / (axis[1] - axis[0]) * (WIDTH - 2 * MARGIN):.1f}"

    return render(
        "svg/interval.svg",
        width=WIDTH,
        height=HEIGHT,
        margin=MARGIN,
        middle=HEIGHT // 2,
        mean=x(mean),
        ends=(x(mean - half), x(mean + half)) if half else None,
        seeds=list(map(x, seeds)),
        paper=None if paper is None else x(paper),
        label=label,
    )


def span(numbers: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis that holds all numbers; not from zero: it is for dots, not for bars."""
    if not numbers:
        return 0.0, 1.0
    low, high = min(numbers), max(numbers)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def difference_bars(rows: Sequence[tuple[str, float]], most: float) -> Markup:
    """Horizontal bars from zero, right for gains and left for losses; `most` is the end of the axis both ways."""
    text, half, step = 330, 110, 18
    bars = []
    for number, (name, value) in enumerate(rows):
        length = abs(value) / (most or 1.0) * half
        bars.append(
            {
                "name": name,
                "short": name if len(name) <= NAME else name[: NAME - 1] + "…",
                "kind": "down" if value < 0 else "up",
                "y": number * step,
                "start": f"{text + half - (length if value < 0 else 0):.1f}",
                "length": f"{length:.1f}",
                "value": f"{value:+.1f}",
            }
        )
    return render("svg/difference_bars.svg", text=text, half=half, height=len(rows) * step, bars=bars)


def bars(rows: Sequence[tuple[str, float, float | None, Sequence[float]]], label: str) -> Markup:
    """Horizontal bars from zero of (name, mean, half width of the interval, seeds), with whiskers and dots of seeds."""
    text, width, step = 8 + 7 * max(len(name) for name, *_ in rows), 420, 26
    reach = max(max(mean + (half or 0.0), *seeds, 1e-9) for _, mean, half, seeds in rows)

    def x(value: float) -> float:
        return round(text + max(0.0, value) / reach * width, 1)

    drawn = [
        {
            "name": name,
            "y": number * step,
            "length": f"{x(mean) - text:.1f}",
            "value": f"{mean:.2f}" + ("" if half is None else f" ± {half:.2f}"),
            "ends": (x(mean - half), x(mean + half)) if half else None,
            "seeds": list(map(x, seeds)),
        }
        for number, (name, mean, half, seeds) in enumerate(rows)
    ]
    return render("svg/bars.svg", text=text, width=width, height=len(rows) * step, label=label, bars=drawn)


def chart(lines: Sequence[Line], colours: Mapping[str, str], label: str) -> Markup:
    """Curves over epochs with their axes; empty where there is no point."""
    width, height, left, bottom, top = 430, 240, 46, 30, 8
    points = [point for line in lines for part in (line.mean, *line.members) for point in part]
    if not points:
        return Markup()
    (x0, x1), (y0, y1) = span([x for x, _ in points]), span([y for _, y in points])
    ticks = _ticks(y0, y1)
    y0, y1 = min(y0, ticks[0]), max(y1, ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + (x - x0) / (x1 - x0) * (width - left - 12)
        return round(across, 1), round(top + (y1 - y) / (y1 - y0) * (height - top - bottom), 1)

    def curve(part: Points, name: str, faint: bool) -> tuple[list[tuple[float, float]], str, bool]:
        return [place(x, y) for x, y in part], colours[name], faint

    return render(
        "svg/chart.svg",
        **{"width": width, "height": height, "left": left, "bottom": bottom, "label": label},
        levels=[(place(x0, value)[1], f"{value:g}") for value in ticks],
        epochs=[(place(value, y0)[0], f"{value:g}") for value in _ticks(x0, x1, whole=True) if x0 <= value <= x1],
        curves=[
            *(curve(part, line.name, True) for line in lines for part in line.members),
            *(curve(line.mean, line.name, False) for line in lines),
        ],
    )


def palette(names: Sequence[str]) -> dict[str, str]:
    """A colour per name; they repeat after eight."""
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Four to seven round numbers that cover the range."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    if whole:
        step = max(1.0, step)
    first = math.floor(low / step) if not whole else math.ceil(low / step)
    last = math.ceil(high / step) if not whole else math.floor(high / step)
    return [round(step * number, 10) for number in range(first, last + 1)]
