"""Growth curves as one SVG: a panel per axis, both scales logarithmic, proportional growth in grey."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from mml_lightning.benchmarks.scaling import AXES, Curve, Point
from mml_lightning.report.plots import COLOURS

PANEL, COLUMNS, TOP = (300, 250), 3, 58  # width and height of a panel; panels of a row; height of the head
LEFT, RIGHT, ABOVE, BELOW = 52, 16, 40, 42  # around the field of a panel
ROOM = 1.12  # factor between the outermost point and the edge of the field
LABELS = {
    "frames": "frames of a clip",
    "size": "side of a frame, pixels",
    "peers": "peers",
    "workers": "workers of the loader",
    "views": "views of a video",
}
STYLE = """
.growth { font: 12px system-ui, sans-serif; --ink: #24292f; --paper: #ffffff; --grid: #e3e7ec; --grey: #9aa3ad; }
@media (prefers-color-scheme: dark) { .growth { --ink: #e6edf3; --paper: #0d1117; --grid: #262d36; --grey: #7d8590; } }
.growth .ground { fill: var(--paper); } .growth text { fill: var(--ink); } .growth .head { font-weight: 600; }
.growth .grid { stroke: var(--grid); }
.growth .proportional { stroke: var(--grey); stroke-dasharray: 5 4; stroke-width: 1.5; fill: none; }
"""


def draw(curves: Sequence[Curve], title: str) -> str:
    """An SVG file.

    Args:
        title: what was measured where.
    """
    columns = min(COLUMNS, len(curves))
    width, height = max(columns, 2) * PANEL[0], TOP + math.ceil(len(curves) / COLUMNS) * PANEL[1]
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="growth" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img"><title>{escape(title)}</title><style>{STYLE}</style>',
        f'<rect class="ground" width="{width}" height="{height}"/>',
        f'<text class="head" x="12" y="20">{escape(title)}</text>',
        _legend(any(curve.axis == "workers" for curve in curves)),
    ]
    for number, curve in enumerate(curves):
        x, y = number % COLUMNS * PANEL[0], TOP + number // COLUMNS * PANEL[1]
        body.append(f'<g transform="translate({x} {y})">{_panel(curve)}</g>')
    return "\n".join([*body, "</svg>\n"])


def _legend(loading: bool) -> str:
    entries = [(f'stroke="{COLOURS[0]}" stroke-width="2"', "measured: best round, bars over all rounds")]
    entries += [(f'stroke="{COLOURS[1]}" stroke-width="2"', "read without training")] if loading else []
    entries.append(('class="proportional"', "proportional growth"))
    x, shown = 12, []
    for style, told in entries:
        shown.append(f'<path d="M{x} 38h24" {style}/><text x="{x + 30}" y="42">{told}</text>')
        x += 50 + 6 * len(told)
    return "".join(shown)


class _Field:
    """Where values lie in a panel. No worker lies as far left of one as two lie right of it."""

    def __init__(self, curve: Curve) -> None:
        rates = [rate for p in curve.points for rate in (*p.rates, *(p.reading or ()), curve.proportional(p))]
        self.low, self.high = min(rates) / ROOM, max(rates) * ROOM
        self.first, self.last = (self._place(curve.points[n].value) for n in (0, -1))
        if self.first == self.last:
            self.first, self.last = self.first / 2, self.last * 2

    @staticmethod
    def _place(value: int) -> float:
        return value or 0.5

    def x(self, value: int) -> float:
        share = math.log(self._place(value) / self.first) / math.log(self.last / self.first)
        return round(LEFT + 10 + share * (PANEL[0] - LEFT - RIGHT - 20), 1)

    def y(self, rate: float) -> float:
        share = math.log(rate / self.low) / math.log(self.high / self.low)
        return round(PANEL[1] - BELOW - share * (PANEL[1] - ABOVE - BELOW), 1)


def _panel(curve: Curve) -> str:
    field, points = _Field(curve), curve.points
    right, bottom = PANEL[0] - RIGHT, PANEL[1] - BELOW
    what = "videos/s" if curve.axis == "views" else "clips/s"
    shown = [f'<text class="head" x="{LEFT}" y="14">{what}</text>']
    twice = curve.twice()
    if twice is not None:
        told = f"twice: {twice[0]:.2f}× the time (proportional {2 ** AXES[curve.axis].power}×)"
        shown.append(f'<text x="{LEFT}" y="30">{told}</text>')
    for rate in _ticks(field.low, field.high):
        y = field.y(rate)
        shown.append(f'<path class="grid" d="M{LEFT} {y}H{right}"/>')
        shown.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{rate:g}</text>')
    for point in points:
        x = field.x(point.value)
        shown.append(f'<path class="grid" d="M{x} {ABOVE}V{bottom}"/>')
        shown.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{point.value}</text>')
    middle = (LEFT + right) / 2
    shown.append(f'<text x="{middle}" y="{bottom + 34}" text-anchor="middle">{LABELS[curve.axis]}</text>')
    grey = "L".join(f"{field.x(p.value)} {field.y(curve.proportional(p))}" for p in points)
    shown.append(f'<path class="proportional" d="M{grey}"/>')
    if curve.axis == "workers":
        shown.append(_line(field, points, [p.reading or p.rates for p in points], COLOURS[1]))
    shown.append(_line(field, points, [p.rates for p in points], COLOURS[0]))
    return "".join(shown)


def _line(field: _Field, points: Sequence[Point], rates: Sequence[Sequence[float]], colour: str) -> str:
    places = [(field.x(p.value), field.y(max(each)), field.y(min(each))) for p, each in zip(points, rates, strict=True)]
    line = "L".join(f"{x} {y}" for x, y, _ in places)
    shown = f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for x, top, bottom in places:
        shown += f'<path d="M{x} {top}V{bottom}" stroke="{colour}" stroke-width="4" stroke-opacity=".35"/>'
        shown += f'<circle cx="{x}" cy="{top}" r="3" fill="{colour}"/>'
    return shown


def _ticks(low: float, high: float) -> list[float]:
    """Numbers 1, 2 and 5 times a power of ten between the ends."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [m * 10.0**power for power in powers for m in (1, 2, 5) if low <= m * 10.0**power <= high]
    return found or [float(f"{math.sqrt(low * high):.2g}")]
