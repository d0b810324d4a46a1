"""What `mml doctor` says of its numbers: each outcome in its own words, names as text, JSON that any reader takes."""

from __future__ import annotations

import json

import pytest
import torch

from mml_lightning.evaluation.diagnosis import Alone, Diagnosis, Inside, Student, Together
from mml_lightning.evaluation.distillation_room import Evidence, decide
from mml_lightning.evaluation.metrics.bootstrap import Interval
from mml_lightning.evaluation.metrics.calibration import reliability
from mml_lightning.report.doctor_page import as_json, html, markdown, sentences
from mml_lightning.utils.result_file import json_text

UP, DOWN, UNSURE = Interval(3, 1, 5), Interval(-3, -5, -1), Interval(1, -1, 3)


def found(
    gain: Interval = UP, change: Interval = UP, peer: str = "rgb", name: str = "rgb", metric: str = "top1"
) -> Diagnosis:
    bins = reliability(torch.rand(9).double(), torch.ones(9).bool())
    own = Interval(50, 40, 60)
    evidence = Evidence(name, "flow", metric, UP, Interval(0.5, 0.4, 0.6), guessed=0.2, gap=None, prior_loss=1.6)
    return Diagnosis(
        metric=metric,
        split="test",
        videos={"val": 10, "weights": 10, "reported": 20},
        seeds=1,
        classes=5,
        networks=[Alone(name, "rgb", "", own, 1.0, 0.1, None, 1.2, None, bins)],
        together=[
            Together(
                (name, "flow"), 40.0, float("nan"), {name: 5.0, "flow": 10.0}, 7.0, 93.0, (0.5, 0.5), own, "flow", gain
            )
        ],
        students=[Student(evidence, decide(evidence))],
        joint=[Inside("mml", peer, "rgb", own, own, change)],
        notes=["a note"],
    )


@pytest.mark.parametrize(
    ("gain", "said"), [(UP, "worth running them together"), (DOWN, "worse than it"), (UNSURE, "no gain beyond noise")]
)
def test_networks_together(gain: Interval, said: str) -> None:
    line = sentences(found(gain=gain))[1]
    assert line.startswith("rgb + flow together: top1 50.0 [40.0, 60.0]") and line.endswith(f"over flow alone: {said}.")


@pytest.mark.parametrize(
    ("peer", "change", "said"),
    [
        ("rgb", UP, "training them together helps it"),
        ("rgb", DOWN, "training them together costs it: train it alone"),
        ("rgb", UNSURE, "no change beyond noise"),
        ("ensemble", UP, "the joint model is better"),
        ("fused", DOWN, "the joint model is worse than rgb alone"),
        ("fused", UNSURE, "no difference beyond noise"),
    ],
)
def test_alone_and_inside_a_joint_model(peer: str, change: Interval, said: str) -> None:
    line = sentences(found(change=change, peer=peer))[-1]
    assert line.endswith(f": {said}.")
    assert line.startswith("rgb inside mml:" if peer == "rgb" else f"mml as a whole ({peer}):")


def test_what_is_unknown_is_empty() -> None:
    text = markdown(found())
    row = next(line for line in text.splitlines() if line.startswith("| rgb "))
    assert row.count("–") == 2  # training loss and gap
    told = json.loads(json_text(as_json(found())))
    assert told["schema"] == 1 and told["together"][0]["q"] is None and len(told["networks"][0]["bins"]["count"]) == 15


def test_names_are_text_on_the_page() -> None:
    page = html(found(name="<script>alert(1)</script>"))
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page and "a note" in page
    assert page.count("<svg") == 1 and "labels that just" in html(found(metric="map"))
