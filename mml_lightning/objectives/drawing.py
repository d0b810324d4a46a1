"""The lesson graph for people: one line, a few lines, or a picture (SVG).

In the picture labels stand left, peers in a column; a lesson is an arrow from its teachers to its student, the way that
knowledge flows. Frozen peers have dashed outlines. The same graph is always the same text, byte by byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from mml_lightning.objectives.edges import FUSED, Edge
from mml_lightning.objectives.graph import Objective
from mml_lightning.objectives.lessons import default_options

# Pixels. A character is about CHAR wide in the font of the lessons.
BOX, GAP, PORT, LANE, CHAR = 120, 26, 26, 18, 6.6
COLOURS = ("one", "two", "three", "four")
LEFT, LABELS, FIRST = 16, 84, 210  # margin, width of the labels' box, left edge of the peers' boxes
HEADING = 34  # height of the line above one of several graphs
SIZE = re.compile(r'width="(?P<width>\d+)" height="(?P<height>\d+)"')

_STYLE = """
.lessons { font: 14px system-ui, sans-serif; --ink: #24292f; --paper: #ffffff; --box: #f3f6fb; --edge: #6e7781;
  --label: #57606a; --one: #b4460c; --two: #0b6aa2; --three: #1a7f37; --four: #8250df; }
@media (prefers-color-scheme: dark) { .lessons { --ink: #e6edf3; --paper: #0d1117; --box: #1c2430; --edge: #8b949e;
  --label: #b1bac4; --one: #ffa657; --two: #79c0ff; --three: #56d364; --four: #d2a8ff; } }
.lessons .one { --lesson: var(--one); } .lessons .two { --lesson: var(--two); }
.lessons .three { --lesson: var(--three); } .lessons .four { --lesson: var(--four); }
.lessons .ground { fill: var(--paper); }
.lessons text { fill: var(--ink); } .lessons .small { font-size: 12px; }
.lessons .box { fill: var(--box); stroke: var(--edge); stroke-width: 1.3; }
.lessons .frozen { stroke-dasharray: 6 4; }
.lessons .lesson { stroke: var(--lesson); fill: none; stroke-width: 1.6; }
.lessons .supervised { stroke: var(--label); fill: none; stroke-width: 1.6; }
.lessons .head { stroke-dasharray: 2 4; }
.lessons text.lesson-text { fill: var(--lesson); } .lessons text.label-text { fill: var(--label); }
.lessons .lesson-tip { fill: var(--lesson); } .lessons .label-tip { fill: var(--label); }
""".strip()


def parts(objective: Objective, full: bool = False) -> list[str]:
    """["labels -> rgb, flow", "rgb <- flow (kl)", "flow <- rgb (kl)"]: who learns from whom; `full`: with settings."""
    told = [
        ("" if factor == 1 else f"{factor:g} ") + (f"{name}'s head" if name in objective.headed else name)
        for name, factor in objective.labels.items()
    ]
    weight = "" if objective.supervised_weight == 1 else f" ({objective.supervised_weight:g})"
    found = [f"labels -> {', '.join(told)}{weight}"] if objective.supervised_weight and told else []
    for edge in objective.edges:
        found.append(f"{edge.student} <- {'+'.join(edge.teachers)} ({describe(edge) if full else _weighted(edge)})")
    frozen = [peer for peer in objective.peers if peer in objective.frozen]
    return found + ([f"frozen: {', '.join(frozen)}"] if frozen else [])


def one_line(objective: Objective) -> str:
    """labels -> rgb, flow; rgb <- flow (kl); flow <- rgb (kl)"""
    return "; ".join(parts(objective))


def describe(edge: Edge) -> str:
    """What an edge teaches and how: "0.5 kd (kl, temperature 4)"; settings that are the usual ones are left out."""
    usual = default_options(edge.lesson)
    told = [edge.lesson] if edge.lesson != edge.term else []
    for name, value in edge.options.items():
        if value != usual[name]:
            text = f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
            told.append(name if value is True else f"{name} {text}")
    if edge.start_epoch:
        told.append(f"from epoch {edge.start_epoch:g}")
    if edge.ramp_epochs:
        told.append(f"ramps up over {edge.ramp_epochs:g} epochs")
    if edge.stop_epoch is not None:
        told.append(f"until epoch {edge.stop_epoch:g}")
    if edge.project:
        told.append("after a learned projection")
    if not edge.detach:
        told.append("changes the teacher too")
    return _weighted(edge) + (f" ({', '.join(told)})" if told else "")


def _weighted(edge: Edge) -> str:
    return edge.term if edge.weight == 1 else f"{edge.weight:g} {edge.term}"


def svg(objective: Objective, about: Mapping[str, str] | None = None) -> str:
    """The graph as one <svg> element, fit for a file and for a page, light or dark.

    Args:
        about: {peer: a few words under its name}, such as where it starts from.
    """
    drawing = _layout(objective)
    body = [_supervised(objective, drawing), *(_lesson(edge, i, drawing) for i, edge in enumerate(objective.edges))]
    body += [_peer(objective, peer, (about or {}).get(peer, ""), drawing) for peer in objective.outputs]
    title = escape(one_line(objective))
    width, height = drawing.width, drawing.height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lessons" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img"><title>{title}</title>\n<style>\n{_STYLE}\n</style>\n'
        f'<rect class="ground" width="{width}" height="{height}"/>\n' + "\n".join(filter(None, body)) + "\n</svg>\n"
    )


def stacked(drawn: Sequence[tuple[str, str]]) -> str:
    """Several graphs below each other as one <svg> element.

    Args:
        drawn: a heading of each, and what :func:`svg` made of it.
    """
    width, y, body = 0, 0, []
    for heading, picture in drawn:
        size = SIZE.search(picture)
        assert size is not None
        body.append(f'<text x="{LEFT}" y="{y + HEADING - 8}">{escape(heading)}</text>')
        body.append(picture.replace("<svg ", f'<svg y="{y + HEADING}" ', 1).strip())
        width, y = max(width, int(size["width"])), y + HEADING + int(size["height"])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lessons" width="{width}" height="{y}" '
        f'viewBox="0 0 {width} {y}" role="img">\n<style>\n{_STYLE}\n</style>\n'
        f'<rect class="ground" width="{width}" height="{y}"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


@dataclass(frozen=True)
class _Drawing:
    """Where everything stands: `boxes` {peer: (top, height)}; per edge the height of its `entry` into the student and
    of its `exits` from each teacher, and `lanes`, the x of its vertical line."""

    width: int
    height: int
    boxes: dict[str, tuple[int, int]]
    entry: list[int]
    exits: list[dict[str, int]]
    lanes: list[int]


def _layout(objective: Objective) -> _Drawing:
    top, boxes = LEFT, {}
    entry = [0] * len(objective.edges)
    exits: list[dict[str, int]] = [{} for _ in objective.edges]
    for peer in objective.outputs:
        into = [i for i, edge in enumerate(objective.edges) if edge.student == peer]
        out = [i for i, edge in enumerate(objective.edges) if peer in edge.teachers]
        height = max(48, PORT * (len(into) + len(out)) + 12)
        first = top + (height - PORT * (len(into) + len(out) - 1)) // 2
        for place, i in enumerate([*into, *out]):
            if place < len(into):
                entry[i] = first + PORT * place
            else:
                exits[i][peer] = first + PORT * place
        boxes[peer] = (top, height)
        top += height + GAP
    words = max((len(describe(edge)) for edge in objective.edges), default=0)
    start = FIRST + BOX + round(words * CHAR) + 40
    lanes = _lanes([(entry[i], *exits[i].values()) for i in range(len(entry))], start)
    width = max([*lanes, FIRST + BOX]) + LEFT
    return _Drawing(width, top - GAP + LEFT, boxes, entry, exits, lanes)


def _lanes(ends: list[tuple[int, ...]], start: int) -> list[int]:
    """x of each vertical line: the first lane whose lines it does not run beside; short ones choose first."""
    taken: list[list[tuple[int, int]]] = []
    found = [start] * len(ends)
    for i in sorted(range(len(ends)), key=lambda i: (max(ends[i]) - min(ends[i]), i)):
        low, high = min(ends[i]), max(ends[i])
        lane = 0
        while lane < len(taken) and any(low <= h and l <= high for l, h in taken[lane]):  # noqa: E741
            lane += 1
        if lane == len(taken):
            taken.append([])
        taken[lane].append((low, high))
        found[i] = start + LANE * lane
    return found


def _lesson(edge: Edge, number: int, at: _Drawing) -> str:
    right, y, x = FIRST + BOX, at.entry[number], at.lanes[number]
    lines = [f"M{right} {other}H{x}V{y}H{right + 8}" for other in at.exits[number].values()]
    tip = f"M{right} {y}l10 -5v10z"
    ends = (min(y, *at.exits[number].values()), max(y, *at.exits[number].values()))
    joints = "".join(
        f'<circle class="lesson-tip" cx="{x}" cy="{other}" r="3.2"/>'
        for other in at.exits[number].values()
        if other not in ends
    )
    return (
        f'<g class="{COLOURS[number % len(COLOURS)]}"><path class="lesson" d="{"".join(lines)}"/>{joints}'
        f'<path class="lesson-tip" d="{tip}"/>'
        f'<text class="lesson-text small" x="{right + 16}" y="{y - 5}">{escape(describe(edge))}</text></g>'
    )


def _supervised(objective: Objective, at: _Drawing) -> str:
    if not objective.supervised_weight or not objective.labels:
        return ""
    middles = {name: at.boxes[name][0] + at.boxes[name][1] // 2 for name in objective.labels}
    y = (min(middles.values()) + max(middles.values())) // 2
    start = LEFT + LABELS
    found = []
    for peer, middle in middles.items():
        factor = objective.supervised_weight * objective.labels[peer]
        weight = "" if factor == 1 else f"{factor:g}"
        headed = peer in objective.headed
        kind = "supervised head" if headed else "supervised"
        bend = start + 36
        text = " ".join(filter(None, [weight, "head only" if headed else ""]))
        found.append(
            f'<path class="{kind}" d="M{start} {y}H{bend}V{middle}H{FIRST - 8}"/>'
            f'<path class="label-tip" d="M{FIRST} {middle}l-10 -5v10z"/>'
            f'<text class="label-text small" text-anchor="end" x="{FIRST - 13}" y="{middle - 5}">{text}</text>'
        )
    box = f'<rect class="box" x="{LEFT}" y="{y - 20}" width="{LABELS}" height="40" rx="6"/>'
    name = f'<text text-anchor="middle" x="{LEFT + LABELS // 2}" y="{y + 5}">labels</text>'
    return "\n".join([*found, box + name])


def _peer(objective: Objective, peer: str, about: str, at: _Drawing) -> str:
    top, height = at.boxes[peer]
    frozen = peer in objective.frozen
    told = [about] if about else []
    told += [f"of {', '.join(objective.peers)}"] if peer == FUSED else []
    told += ["frozen"] if frozen else []
    middle = FIRST + BOX // 2
    y = top + height // 2 + 5 - 8 * len(told)
    lines = "".join(
        f'<text class="small" text-anchor="middle" x="{middle}" y="{y + 17 * n}">{escape(text)}</text>'
        for n, text in enumerate(told, start=1)
    )
    kind = "box frozen" if frozen else "box"
    return (
        f'<rect class="{kind}" x="{FIRST}" y="{top}" width="{BOX}" height="{height}" rx="6"/>'
        f'<text text-anchor="middle" x="{middle}" y="{y}">{escape(peer)}</text>{lines}'
    )
