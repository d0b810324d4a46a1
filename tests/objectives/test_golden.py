"""Objectives against golden values of the published program; a missing key fails."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mml_lightning.objectives import Objective, kl_divergence
from mml_lightning.objectives.graph import total
from mml_lightning.objectives.lessons import LESSONS

GOLDEN = json.loads((Path(__file__).parents[1] / "vectors" / "objectives.json").read_text())
MUTUAL = [{"students": "all", "teachers": "others"}]
TOLERANCE = {"rtol": 0, "atol": 1e-7}


def logits(name: str) -> torch.Tensor:
    return torch.tensor(GOLDEN[name], dtype=torch.float64, requires_grad=True)


def outputs(**values: torch.Tensor) -> dict[str, SimpleNamespace]:
    return {peer: SimpleNamespace(logits={"label": value}) for peer, value in values.items()}


def close(actual: torch.Tensor, expected: object) -> None:
    torch.testing.assert_close(actual.detach(), torch.tensor(expected, dtype=torch.float64), **TOLERANCE)


def test_cross_entropy_of_three_peers():
    terms = Objective(["a", "b", "c"])(
        outputs(a=logits("z1"), b=logits("z2"), c=logits("z3")), {"label": torch.tensor(GOLDEN["y"])}
    )
    assert all(list(peer) == ["ce"] for peer in terms.values())
    close(torch.stack([terms[p]["ce"] for p in "abc"]), GOLDEN["ce"])


def test_mutual_learning_of_two_peers_with_gradient():
    a, b = logits("z1"), logits("z2")
    terms = Objective(["a", "b"], MUTUAL)(outputs(a=a, b=b), {"label": torch.tensor(GOLDEN["y"])})
    close(torch.stack([terms["a"]["kl"], terms["b"]["kl"]]), GOLDEN["kl_two"])
    first = terms["a"]["ce"] + terms["a"]["kl"]
    close(first, GOLDEN["total1"])
    first.backward()
    close(a.grad, GOLDEN["grad1"])
    assert b.grad is None, "a teacher receives no gradient from its student's lesson"


@pytest.mark.parametrize("aggregate", ["mean_logits", "mean_probs", "pairwise"])
def test_three_aggregations_of_two_teachers(aggregate):
    zs = {"a": logits("z1"), "b": logits("z2"), "c": logits("z3")}
    terms = Objective(["a", "b", "c"], [MUTUAL[0] | {"aggregate": aggregate}])(
        outputs(**zs), {"label": torch.tensor(GOLDEN["y"])}
    )
    close(torch.stack([terms[p]["kl"] for p in "abc"]), GOLDEN["kl_three"][aggregate])


@pytest.mark.parametrize("kind", ["softmax", "bernoulli"])
def test_multi_label_terms(kind):
    target = {"label": torch.tensor(GOLDEN["Y"], dtype=torch.float64)}
    terms = Objective(["a", "b"], [MUTUAL[0] | {"kind": kind}])(outputs(a=logits("z1"), b=logits("z2")), target)
    close(terms["a"]["bce"], GOLDEN["bce"])
    close(terms["a"]["kl"], GOLDEN["multi_label_kl"][kind])


def test_multi_label_values_of_the_paper_by_hand():
    """Written out: binary cross-entropy over B x K, and both divergences divided by B x K."""
    z, t, y = logits("z1").detach(), logits("z2").detach(), torch.tensor(GOLDEN["Y"], dtype=torch.float64)
    p, q = t.sigmoid(), z.sigmoid()
    close(-(y * q.log() + (1 - y) * (1 - q).log()).mean(), 0.59555638)
    close((p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean(), 0.27313049)
    p, q = t.softmax(-1), z.softmax(-1)
    close((p * (p / q).log()).mean(), 0.40707770)
    assert (GOLDEN["bce"], GOLDEN["multi_label_kl"]) == (0.59555638, {"softmax": 0.40707770, "bernoulli": 0.27313049})


def test_total_is_the_sum_of_all_terms_of_all_peers():
    terms = Objective(["a", "b"], MUTUAL)(outputs(a=logits("z1"), b=logits("z2")), {"label": torch.tensor(GOLDEN["y"])})
    close(total(terms), sum(GOLDEN["ce"][:2]) + sum(GOLDEN["kl_two"]))


@pytest.mark.parametrize("name", GOLDEN["lessons"])
def test_lessons(name):
    """By their published formulas in plain arithmetic: z1 is the student, logits and features alike, z2 the teacher;
    angles need a third sample (z3)."""
    lesson, *words = name.split()
    options = {word: words[i + 1] for i, word in enumerate(words) if word in ("reduction", "site")}
    options |= {"standardise": True} if "standardise" in words else {}
    options |= {"temperature": float(words[1])} if "temperature" in words else {}
    student, teacher, labels = logits("z1"), logits("z2"), torch.tensor(GOLDEN["y"])
    if lesson == "relational":
        third = logits("z3")
        student, teacher = torch.cat([student, third[:1]]), torch.cat([teacher, third[1:]])
        labels = torch.tensor([*GOLDEN["y"], 0])
    places = torch.tensor([[1.0, 2.0], [1.0, 1.0], [1.0, 0.5]])  # a feature map of two places
    outputs = [
        SimpleNamespace(
            logits={"label": z},
            features={"pooled": z, "map": (z[:, None, :, None, None] * places[None, None, :, None])},
        )
        for z in (student, teacher)
    ]
    close(LESSONS[lesson](outputs[0], outputs[1:], "label", labels, **options), GOLDEN["lessons"][name])


def test_every_lesson_has_a_golden_value():
    assert {name.split()[0] for name in GOLDEN["lessons"]} | {"kl"} == set(LESSONS)


def test_every_golden_value_is_used():
    source = Path(__file__).read_text()
    assert not [key for key in GOLDEN if key not in ("about",) and f'"{key}"' not in source]


def test_one_teacher_makes_the_aggregations_agree():
    a, b = logits("z1"), logits("z2")
    values = [kl_divergence(a, [b], aggregate=g) for g in ("mean_logits", "mean_probs", "pairwise")]
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[0], values[2])
