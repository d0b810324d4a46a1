"""What peers are fused to in the lesson graph: who is taught, by what, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from mml_lightning.objectives import Objective, drawing
from mml_lightning.objectives.graph import total

PEERS = ["rgb", "flow"]
TARGET = {"label": torch.tensor([0, 2, 1, 2])}


def outputs() -> dict[str, SimpleNamespace]:
    generator = torch.Generator().manual_seed(0)
    names = (*PEERS, "fused")
    return {n: SimpleNamespace(logits={"label": torch.randn(4, 3, generator=generator)}, features={}) for n in names}


def test_labels_teach_whom_they_name() -> None:
    given = outputs()
    ce = {name: F.cross_entropy(one.logits["label"], TARGET["label"]) for name, one in given.items()}
    for labels, expected in (
        ("all", ce["rgb"] + ce["flow"]),
        ("fused", ce["fused"]),
        (["fused", "all"], ce["rgb"] + ce["flow"] + ce["fused"]),
        ({"fused": 1.0, "rgb": 0.3, "flow": 0}, ce["fused"] + 0.3 * ce["rgb"]),
    ):
        graph = Objective(PEERS, labels=labels, fused=True)
        torch.testing.assert_close(total(graph(given, TARGET)), expected)
        assert graph.joins == (labels != "all")
        assert set(graph(given, TARGET)) == {*PEERS, *(["fused"] if graph.joins else [])}, "all have an accuracy"
    assert (
        drawing.one_line(Objective(PEERS, labels={"fused": 1.0, "rgb": 0.3}, fused=True)) == "labels -> 0.3 rgb, fused"
    )
    assert "of rgb, flow" in drawing.svg(Objective(PEERS, labels="fused", fused=True))


def test_the_fused_output_may_teach_and_learn() -> None:
    given = outputs()
    graph = Objective(PEERS, [{"students": "all", "teachers": ["fused"]}], fused=True)
    assert not graph.joins and graph.outputs == ("rgb", "flow", "fused")
    expected = {
        name: F.kl_div(
            given[name].logits["label"].log_softmax(1), given["fused"].logits["label"].softmax(1), reduction="batchmean"
        )
        for name in PEERS
    }
    terms = graph(given, TARGET)
    assert {*terms} == {*PEERS}
    for name in PEERS:
        torch.testing.assert_close(terms[name]["kl"], expected[name])
    taught = Objective(PEERS, [{"students": ["fused"], "teachers": ["rgb"]}], labels=["rgb"], fused=True)
    assert taught.joins and "kl" in taught(given, TARGET)["fused"]


def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(ValueError, match="the run fuses no outputs: choose fusion=weighted"):
        Objective(PEERS, labels="fused")
    with pytest.raises(ValueError, match="leaves flow with nothing to learn from"):
        Objective(PEERS, labels=["rgb"], fused=True)
    with pytest.raises(ValueError, match="lesson=feature_mse compares features, and fused has logits only"):
        Objective(PEERS, [{"students": "all", "teachers": ["fused"], "lesson": "feature_mse"}], fused=True)
    for wrong in (-1, True, "much"):
        with pytest.raises(ValueError, match=r"objective\.labels\.fused=.* must be a number from 0 on"):
            Objective(PEERS, labels={"fused": wrong}, fused=True)  # type: ignore[dict-item]
