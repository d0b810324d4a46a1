"""The drawn graph holds what the graph holds, and no line lies upon another."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from mml_lightning.objectives import Objective
from mml_lightning.objectives.drawing import describe, one_line, parts, svg

MUTUAL = [{"students": "all", "teachers": "others"}]


def test_one_line_names_students_teachers_weights_and_who_is_frozen() -> None:
    distilled = [{"students": "first", "teachers": "rest", "term": "kd", "weight": 0.5, "temperature": 4.0}]
    graph = Objective(["rgb", "flow", "rgbdiff"], distilled, 0.5, frozen="rest", headed="first")
    assert one_line(graph) == "labels -> rgb's head (0.5); rgb <- flow+rgbdiff (0.5 kd); frozen: flow, rgbdiff"
    assert parts(Objective(["rgb"])) == ["labels -> rgb"]
    assert parts(graph, full=True)[1] == "rgb <- flow+rgbdiff (0.5 kd (kl, temperature 4))"
    assert one_line(Objective(["a", "b"], MUTUAL, 0.0)) == "a <- b (kl); b <- a (kl)"


def test_an_edge_tells_what_is_not_usual() -> None:
    def told(**spec: object) -> str:
        return describe(Objective(["a", "b"], [{"students": ["a"], **spec}]).edges[0])

    assert told() == "kl"
    assert told(temperature=1.0, aggregate="mean_logits") == "kl"
    assert told(term="kd", weight=0.5, temperature=4.0, standardise=True) == "0.5 kd (kl, temperature 4, standardise)"
    assert told(lesson="feature_mse", weight=50, site="map") == "50 feature_mse (site map)"
    assert told(lesson="feature_mse", project=True) == "feature_mse (after a learned projection)"
    schedule = told(start_epoch=2, ramp_epochs=3, stop_epoch=9, detach=False)
    assert schedule == "kl (from epoch 2, ramps up over 3 epochs, until epoch 9, changes the teacher too)"


@pytest.mark.parametrize("peers", [["a"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"]])
def test_every_edge_and_peer_is_drawn_once(peers: list[str]) -> None:
    graph = Objective(peers, MUTUAL if len(peers) > 1 else ())
    drawn = ET.fromstring(svg(graph, {peers[0]: "<from> & ce"}))
    name = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in drawn.iter(f"{name}text")]
    assert [text for text in texts if text in peers] == peers and "<from> & ce" in texts
    assert texts.count("kl") == len(graph.edges)
    lessons = [e.get("d", "") for e in drawn.iter(f"{name}path") if e.get("class") == "lesson"]
    assert sum(path.count("M") for path in lessons) == sum(len(edge.teachers) for edge in graph.edges)
    assert svg(graph) == svg(graph)
    # verticals in one lane do not touch
    lanes: dict[str, list[tuple[int, int]]] = {}
    for path in lessons:
        ends = [int(n) for n in re.findall(r"M\d+ (\d+)", path)] + [int(n) for n in re.findall(r"V(\d+)", path)]
        lanes.setdefault(re.findall(r"H(\d+)V", path)[0], []).append((min(ends), max(ends)))
    for spans in lanes.values():
        ordered = sorted(spans)
        assert all(a[1] < b[0] for a, b in itertools.pairwise(ordered))


def test_frozen_peers_and_trained_heads_look_different() -> None:
    drawn = svg(Objective(["a", "b"], [{"students": ["a"], "lesson": "feature_mse"}], frozen=["b"], headed=["a"]))
    assert drawn.count('class="box frozen"') == 1 and drawn.count("supervised head") == 1 and "head only" in drawn
    plain = svg(Objective(["a", "b"], MUTUAL))
    assert 'class="box frozen"' not in plain and "supervised head" not in plain
