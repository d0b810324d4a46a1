"""Properties of divergences and of the lesson graph. Shapes: B batch, K classes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_lightning.objectives import Objective, cross_entropy, kl_divergence
from mml_lightning.objectives.divergences import AGGREGATES, KINDS
from mml_lightning.objectives.edges import expand_edges

DIVERGENCES = [kind for kind in KINDS if kind != "sigmoid_unnormalised"]  # that one can be negative


def outputs(**values: torch.Tensor) -> dict[str, SimpleNamespace]:
    return {peer: SimpleNamespace(logits={"label": value}) for peer, value in values.items()}


def random_logits(seed: int, *shape: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(DIVERGENCES),
    aggregate=st.sampled_from(AGGREGATES),
    m=st.integers(1, 3),
)
def test_kl_is_not_negative_and_zero_for_equal_networks(seed, kind, aggregate, m):
    student = random_logits(seed, 4, 5)
    teachers = [random_logits(seed + 1 + i, 4, 5) for i in range(m)]
    assert (kl_divergence(student, teachers, kind=kind, aggregate=aggregate) >= -1e-12).all()
    same = kl_divergence(student, [student] * m, kind=kind, aggregate=aggregate)
    torch.testing.assert_close(same, torch.zeros(4, dtype=torch.float64), atol=1e-10, rtol=0)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), shift=st.floats(-50, 50))
def test_softmax_kl_ignores_a_constant_added_to_the_logits(seed, shift):
    student, teacher = random_logits(seed, 3, 4), random_logits(seed + 1, 3, 4)
    torch.testing.assert_close(kl_divergence(student, [teacher]), kl_divergence(student + shift, [teacher - shift]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_kl_is_finite_for_saturated_logits(kind, aggregate):
    student = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    value = kl_divergence(student, [torch.tensor([[-200.0, 200.0, 0.0]])] * 2, kind=kind, aggregate=aggregate).sum()
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(student.grad).all()


@pytest.mark.parametrize("temperature", [0.5, 2.0, 8.0])
def test_temperature_is_the_published_formula(temperature):
    student, teacher = random_logits(0, 6, 5), random_logits(1, 6, 5)
    target = (teacher / temperature).softmax(-1)
    expected = (target * (target.log() - (student / temperature).log_softmax(-1))).sum(-1) * temperature**2
    torch.testing.assert_close(kl_divergence(student, [teacher], temperature=temperature), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_saturated_teachers_that_learn_too_get_finite_gradients(kind, aggregate):
    teacher = torch.tensor([[-200.0, 200.0, 0.0]], requires_grad=True)
    kl_divergence(torch.zeros(1, 3), [teacher] * 2, kind=kind, aggregate=aggregate).sum().backward()
    assert torch.isfinite(teacher.grad).all()


@pytest.mark.parametrize("multi_label", [False, True])
def test_unnormalised_sigmoids_are_what_the_kl_loss_of_torch_makes_of_them(multi_label):
    student, teacher = random_logits(7, 5, 4), random_logits(8, 5, 4)
    found = kl_divergence(student, [teacher], kind="sigmoid_unnormalised", multi_label=multi_label).mean()
    summed = torch.nn.KLDivLoss(reduction="sum")(student.sigmoid().log(), teacher.sigmoid())
    torch.testing.assert_close(found, summed / (5 * 4 if multi_label else 5))
    surer = kl_divergence(teacher + 1, [teacher], kind="sigmoid_unnormalised")
    assert (surer < 0).all(), "more yes everywhere is rewarded: it is no divergence"


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_correct(kind):
    student, teacher = random_logits(3, 2, 3, scale=1.0).requires_grad_(), random_logits(4, 2, 3, scale=1.0)
    assert torch.autograd.gradcheck(lambda z: kl_divergence(z, [teacher], kind=kind), student)


def test_undetached_edges_teach_the_teacher_too():
    a, b = random_logits(0, 2, 3).requires_grad_(), random_logits(1, 2, 3).requires_grad_()
    edge = {"students": ["a"], "teachers": ["b"], "detach": False}
    Objective(["a", "b"], [edge], supervised_weight=0.0)(outputs(a=a, b=b), {"label": torch.tensor([0, 1])})["a"][
        "kl"
    ].backward()
    assert b.grad is not None and b.grad.abs().sum() > 0


def test_absent_samples_are_in_no_term():
    a, b, y = random_logits(0, 4, 3), random_logits(1, 4, 3), torch.tensor([0, 1, 2, 0])
    present = {"a": torch.tensor([True] * 4), "b": torch.tensor([True, False, True, False])}
    spoiled = b.clone()
    spoiled[[1, 3]] = float("nan")
    objective = Objective(["a", "b"], [{"students": "all", "teachers": "others"}])
    terms = objective(outputs(a=a, b=spoiled), {"label": y}, present)
    kept = [0, 2]
    torch.testing.assert_close(terms["a"]["ce"], cross_entropy(a, y).mean())
    torch.testing.assert_close(terms["b"]["ce"], cross_entropy(b[kept], y[kept]).mean())
    torch.testing.assert_close(terms["a"]["kl"], kl_divergence(a[kept], [b[kept]]).mean())


def test_all_present_equals_no_mask_to_the_bit():
    a, b, y = random_logits(0, 7, 3).float(), random_logits(1, 7, 3).float(), torch.arange(7) % 3
    objective = Objective(["a", "b"], [{"students": "all", "teachers": "others"}])
    everyone = {p: torch.ones(7, dtype=torch.bool) for p in "ab"}
    masked, plain = (objective(outputs(a=a, b=b), {"label": y}, present) for present in (everyone, None))
    assert all(torch.equal(masked[p][t], plain[p][t]) for p in "ab" for t in ("ce", "kl"))


def test_a_batch_without_any_present_sample_gives_zero():
    a, b = random_logits(0, 2, 3), random_logits(1, 2, 3)
    nobody = {"a": torch.zeros(2, dtype=torch.bool), "b": torch.ones(2, dtype=torch.bool)}
    terms = Objective(["a", "b"], [{"students": "all"}])(outputs(a=a, b=b), {"label": torch.tensor([0, 1])}, nobody)
    assert terms["a"]["ce"] == 0 and terms["a"]["kl"] == 0 and terms["b"]["kl"] == 0


def test_several_heads_have_terms_of_their_own():
    two = {
        p: SimpleNamespace(logits={"verb": random_logits(i, 2, 3), "noun": random_logits(i + 9, 2, 5)})
        for i, p in enumerate("ab")
    }
    terms = Objective(["a", "b"], [{"students": "all"}])(
        two, {"verb": torch.tensor([0, 1]), "noun": torch.tensor([4, 1])}
    )
    assert set(terms["a"]) == {"ce_verb", "kl_verb", "ce_noun", "kl_noun"}


def test_graphs_expand_and_refuse():
    assert [(e.student, e.teachers) for e in expand_edges([{"students": "all"}], ["a", "b", "c"])] == [
        ("a", ("b", "c")),
        ("b", ("a", "c")),
        ("c", ("a", "b")),
    ]
    one_way = expand_edges([{"students": ["a"], "teachers": ["b"], "weight": 2.0, "term": "kd"}], ["a", "b"])
    assert [(e.student, e.teachers, e.weight, e.term) for e in one_way] == [("a", ("b",), 2.0, "kd")]
    for wrong, said in [
        ([{"students": ["x"]}], "'x'"),
        ([{"students": ["a"], "teachers": ["a"]}], "itself"),
        ([{"students": "all", "wieght": 1}], "wieght"),
        ([{"students": "all", "aggregate": "median"}], "aggregate"),
        ([{"students": "all", "temperature": 0}], "temperature"),
    ]:
        with pytest.raises(ValueError, match=said):
            expand_edges(wrong, ["a", "b"])
    with pytest.raises(ValueError, match="without teachers"):
        expand_edges([{"students": "all"}], ["a"])


def test_frozen_peers_get_no_term_but_teach():
    a, b = random_logits(0, 2, 3), random_logits(1, 2, 3)
    terms = Objective(["a", "b"], [{"students": "all"}], frozen=["b"])(
        outputs(a=a, b=b), {"label": torch.tensor([0, 1])}
    )
    assert set(terms) == {"a"} and "kl" in terms["a"]


def test_a_target_of_the_wrong_form_is_refused():
    with pytest.raises(ValueError, match="fits neither"):
        cross_entropy(torch.zeros(2, 3), torch.zeros(2, 4))
