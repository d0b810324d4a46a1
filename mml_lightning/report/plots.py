"""Small pictures for pages, drawn as SVG: intervals, bars of differences, curves. Colours are those of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

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
) -> str:
    """Mean as a dot, its 95 % interval as a whisker, every seed as a faint dot, the paper's number as a bar."""

    def x(number: float) -> str:
        return f"{MARGIN + (number - axis[0]) / (axis[1] - axis[0]) * (WIDTH - 2 * MARGIN):.1f}"

    middle = HEIGHT // 2
    marks = f'<line class="axis" x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{middle}" y2="{middle}"/>'
    marks += "".join(f'<circle class="seed" cx="{x(value)}" cy="{middle}" r="3"/>' for value in seeds)
    if half:
        low, high = x(mean - half), x(mean + half)
        marks += f'<path class="ci" fill="none" d="M{low} 4V14M{low} {middle}H{high}M{high} 4V14"/>'
    marks += f'<circle class="mean" cx="{x(mean)}" cy="{middle}" r="4"/>'
    if paper is not None:
        marks += f'<line class="paper" x1="{x(paper)}" x2="{x(paper)}" y1="1" y2="17"><title>paper</title></line>'
    return f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{escape(label)}">{marks}</svg>'


def span(numbers: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis that holds all numbers; not from zero: it is for dots, not for bars."""
    if not numbers:
        return 0.0, 1.0
    low, high = min(numbers), max(numbers)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def difference_bars(rows: Sequence[tuple[str, float]], most: float) -> str:
    """Horizontal bars from zero, right for gains and left for losses; `most` is the end of the axis both ways."""
    text, half, step = 330, 110, 18
    shown = []
    for number, (name, value) in enumerate(rows):
        y, length = number * step, abs(value) / (most or 1.0) * half
        start = text + half - (length if value < 0 else 0)
        short = name if len(name) <= NAME else name[: NAME - 1] + "…"
        kind = "down" if value < 0 else "up"
        shown.append(
            f'<text x="{text - 8}" y="{y + 13}" text-anchor="end" font-size="12">{escape(short)}'
            f"<title>{escape(name)}</title></text>"
            f'<rect class="{kind}" x="{start:.1f}" y="{y + 3}" width="{length:.1f}" height="12"/>'
            f'<text x="{text + 2 * half + 8}" y="{y + 13}" font-size="12">{value:+.1f}</text>'
        )
    height = len(rows) * step
    axis = f'<line class="axis" x1="{text + half}" x2="{text + half}" y1="0" y2="{height}"/>'
    return f'<svg width="{text + 2 * half + 60}" height="{height}" role="img">{axis}{"".join(shown)}</svg>'


def bars(rows: Sequence[tuple[str, float, float | None, Sequence[float]]], label: str) -> str:
    """Horizontal bars from zero of (name, mean, half width of the interval, seeds), with whiskers and dots of seeds."""
    text, width, step = 8 + 7 * max(len(name) for name, *_ in rows), 420, 26
    reach = max(max(mean + (half or 0.0), *seeds, 1e-9) for _, mean, half, seeds in rows)

    def x(value: float) -> float:
        return round(text + max(0.0, value) / reach * width, 1)

    shown = []
    for number, (name, mean, half, seeds) in enumerate(rows):
        y = number * step
        told = f"{mean:.2f}" + ("" if half is None else f" ± {half:.2f}")
        shown.append(
            f'<text x="{text - 8}" y="{y + 17}" text-anchor="end" font-size="12">{escape(name)}</text>'
            f'<rect class="bar" x="{text}" y="{y + 4}" width="{x(mean) - text:.1f}" height="18"/>'
            f'<text x="{text + width + 10}" y="{y + 17}" font-size="12">{told}</text>'
        )
        if half:
            low, high = x(mean - half), x(mean + half)
            shown.append(f'<path class="whisker" d="M{low} {y + 8}v10M{low} {y + 13}H{high}M{high} {y + 8}v10"/>')
        shown += [f'<circle class="dot" cx="{x(seed)}" cy="{y + 13}" r="2.5"/>' for seed in seeds]
    size = f'width="{text + width + 110}" height="{len(rows) * step}"'
    return f'<svg {size} role="img" aria-label="{escape(label)}">{"".join(shown)}</svg>'


def chart(lines: Sequence[Line], colours: Mapping[str, str], label: str) -> str:
    """Curves over epochs with their axes."""
    width, height, left, bottom, top = 430, 240, 46, 30, 8
    points = [point for line in lines for part in (line.mean, *line.members) for point in part]
    if not points:
        return ""
    (x0, x1), (y0, y1) = span([x for x, _ in points]), span([y for _, y in points])
    ticks = _ticks(y0, y1)
    y0, y1 = min(y0, ticks[0]), max(y1, ticks[-1])

    def place(x: float, y: float) -> str:
        across = left + (x - x0) / (x1 - x0) * (width - left - 12)
        return f"{across:.1f} {top + (y1 - y) / (y1 - y0) * (height - top - bottom):.1f}"

    def path(part: Points, style: str) -> str:
        if len(part) == 1:
            cx, cy = place(*part[0]).split()
            return f'<circle cx="{cx}" cy="{cy}" r="2.5" {style.replace("stroke", "fill", 1)}/>'
        return f'<path fill="none" {style} d="M{"L".join(place(x, y) for x, y in part)}"/>' if part else ""

    body = []
    for value in ticks:
        y = place(x0, value).split()[1]
        body.append(
            f'<line class="axis" x1="{left}" x2="{width - 12}" y1="{y}" y2="{y}"/>'
            f'<text x="{left - 6}" y="{float(y) + 4:.1f}" text-anchor="end" font-size="11">{value:g}</text>'
        )
    for value in _ticks(x0, x1, whole=True):
        if x0 <= value <= x1:
            x = place(value, y0).split()[0]
            body.append(
                f'<text x="{x}" y="{height - bottom + 15}" text-anchor="middle" font-size="11">{value:g}</text>'
            )
    body.append(f'<text x="{width - 12}" y="{height - 2}" text-anchor="end" font-size="11">epoch</text>')
    for line in lines:
        colour = colours[line.name]
        body += [path(part, f'stroke="{colour}" stroke-opacity=".3"') for part in line.members]
    body += [path(line.mean, f'stroke="{colours[line.name]}" stroke-width="2"') for line in lines]
    return f'<svg width="{width}" height="{height}" role="img" aria-label="{escape(label)}">{"".join(body)}</svg>'


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
