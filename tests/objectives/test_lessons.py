"""Lessons against their published formulas, written out with loops, and golden values of fixed inputs."""

from __future__ import annotations

import inspect
import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mml_lightning.objectives import Objective
from mml_lightning.objectives.edges import Edge
from mml_lightning.objectives.lessons import LESSONS, check_options, options_of
from mml_lightning.objectives.relations import distance_loss

LABELS = torch.tensor([0, 2])
SEVERAL = torch.tensor([[1, 0, 1], [0, 0, 1]])


def output(seed: int, batch: int = 2) -> SimpleNamespace:
    rng = np.random.default_rng(seed)
    pooled = torch.from_numpy(rng.normal(size=(batch, 4)))
    maps = torch.from_numpy(rng.normal(size=(batch, 2, 4, 3, 3)))
    logits = torch.from_numpy(rng.normal(size=(batch, 3)) * 2)
    return SimpleNamespace(logits={"label": logits}, features={"pooled": pooled, "map": maps})


STUDENT, TEACHER = output(1), output(2)


def lesson(name: str, labels: torch.Tensor = LABELS, **options: Any) -> np.ndarray:
    return LESSONS[name](STUDENT, [TEACHER], "label", labels, **options).numpy()


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


Z, Q = STUDENT.logits["label"].numpy(), TEACHER.logits["label"].numpy()
F_S, F_T = STUDENT.features["pooled"].numpy(), TEACHER.features["pooled"].numpy()


def test_distillation_with_a_temperature() -> None:
    for b in range(2):
        p, q = softmax(Q[b] / 4), softmax(Z[b] / 4)
        expected = 16 * sum(p[k] * math.log(p[k] / q[k]) for k in range(3))
        assert lesson("kl", temperature=4.0)[b] == pytest.approx(expected, rel=1e-9)


def test_standardised_logits_ignore_scale_and_shift() -> None:
    for b in range(2):
        p, q = (softmax((z[b] - z[b].mean()) / z[b].std() / 2) for z in (Q, Z))
        expected = 4 * sum(p[k] * math.log(p[k] / q[k]) for k in range(3))
        assert lesson("kl", temperature=2.0, standardise=True)[b] == pytest.approx(expected, rel=1e-5)
    louder = SimpleNamespace(logits={"label": 7 * TEACHER.logits["label"] + 3}, features=TEACHER.features)
    again = LESSONS["kl"](STUDENT, [louder], "label", LABELS, temperature=2.0, standardise=True).numpy()
    np.testing.assert_allclose(again, lesson("kl", temperature=2.0, standardise=True), rtol=1e-5)


def test_born_again_is_cross_entropy_with_the_teachers_probabilities() -> None:
    for b in range(2):
        expected = -sum(softmax(Q[b])[k] * math.log(softmax(Z[b])[k]) for k in range(3))
        assert lesson("soft_cross_entropy")[b] == pytest.approx(expected, rel=1e-9)
        assert lesson("soft_cross_entropy", SEVERAL)[b] == pytest.approx(expected / 3, rel=1e-9)


def test_d3d_and_its_reductions() -> None:
    square = ((Z - Q) ** 2).sum(1)
    np.testing.assert_allclose(lesson("logit_mse"), square)
    np.testing.assert_allclose(lesson("logit_mse", reduction="mean"), square / 3)
    # several labels: divided by K once more, so that the sum becomes the mean over batch and classes
    np.testing.assert_allclose(lesson("logit_mse", SEVERAL), square / 3)


def test_mars_at_both_sites() -> None:
    np.testing.assert_allclose(lesson("feature_mse"), ((F_S - F_T) ** 2).mean(1))
    np.testing.assert_allclose(lesson("feature_mse", SEVERAL), ((F_S - F_T) ** 2).mean(1) / 3)
    maps = (STUDENT.features["map"] - TEACHER.features["map"]).numpy() ** 2
    np.testing.assert_allclose(lesson("feature_mse", site="map"), maps.reshape(2, -1).mean(1))


def test_attention_maps_have_unit_length() -> None:
    def attention(output: Any, b: int, t: int) -> np.ndarray:
        flat = (output.features["map"][b, t].numpy() ** 2).mean(0).ravel()
        return flat / np.sqrt((flat**2).sum())

    for b in range(2):
        parts = [(attention(STUDENT, b, t) - attention(TEACHER, b, t)) ** 2 for t in range(2)]
        assert lesson("attention")[b] == pytest.approx(np.mean(parts), rel=1e-9)


def test_decoupled_distillation() -> None:
    for b, label in enumerate(LABELS.tolist()):
        p, q = softmax(Q[b] / 4), softmax(Z[b] / 4)
        of_label = p[label] * math.log(p[label] / q[label])
        of_label += (1 - p[label]) * math.log((1 - p[label]) / (1 - q[label]))
        others = [k for k in range(3) if k != label]
        p_, q_ = softmax(Q[b][others] / 4), softmax(Z[b][others] / 4)
        among = sum(p_[k] * math.log(p_[k] / q_[k]) for k in range(2))
        assert lesson("decoupled")[b] == pytest.approx(16 * (of_label + 8 * among), rel=1e-6)
    with pytest.raises(ValueError, match="lesson=kl"):
        lesson("decoupled", SEVERAL)


def test_decoupled_with_equal_weights_is_the_kl_split_in_two() -> None:
    """KL = KL of the label + (1 - p_label) x KL among the others (Zhao et al., equation 7)."""
    for b, label in enumerate(LABELS.tolist()):
        p = softmax(Q[b])
        alone = lesson("decoupled", alpha=1.0, beta=0.0, temperature=1.0)[b]
        among = lesson("decoupled", alpha=0.0, beta=1.0, temperature=1.0)[b]
        assert alone + (1 - p[label]) * among == pytest.approx(lesson("kl")[b], rel=1e-6)


def test_dist_correlates_classes_and_samples() -> None:
    p, q = np.stack([softmax(z) for z in Z]), np.stack([softmax(z) for z in Q])
    within = np.mean([1 - np.corrcoef(p[:, k], q[:, k])[0, 1] for k in range(3)])
    for b in range(2):
        between = 1 - np.corrcoef(p[b], q[b])[0, 1]
        assert lesson("dist", beta=2.0, gamma=3.0)[b] == pytest.approx(2 * between + 3 * within, rel=1e-6)


def test_relational_distances_and_angles() -> None:
    student, teacher = output(3, batch=4), output(4, batch=4)
    a, b = student.features["pooled"].numpy(), teacher.features["pooled"].numpy()

    def huber(x: float) -> float:
        return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5

    def distances(x: np.ndarray) -> np.ndarray:
        d = np.array([[np.linalg.norm(u - v) for v in x] for u in x])
        return d / d[d > 0].mean()

    def cosine(x: np.ndarray, i: int, j: int, k: int) -> float:
        u, v = x[j] - x[i], x[k] - x[i]
        length = np.linalg.norm(u) * np.linalg.norm(v)
        return float(u @ v / length) if length else 0.0

    d = np.mean([huber(v) for v in (distances(a) - distances(b)).ravel()])
    n = range(4)
    angles = np.mean([huber(cosine(a, i, j, k) - cosine(b, i, j, k)) for i in n for j in n for k in n])
    found = LESSONS["relational"](student, [teacher], "label", torch.zeros(4, dtype=torch.long)).numpy()
    np.testing.assert_allclose(found, 25 * d + 50 * angles, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(LESSONS))
def test_every_lesson_is_zero_with_oneself_and_teaches_otherwise(name: str) -> None:
    student, teacher, labels = output(9, batch=3), output(10, batch=3), torch.tensor([0, 2, 1])
    same = LESSONS[name](student, [student], "label", labels)
    if name == "soft_cross_entropy":  # its least value is the teacher's entropy
        probabilities = student.logits["label"].softmax(-1)
        same = same + (probabilities * probabilities.log()).sum(-1)
    torch.testing.assert_close(same, torch.zeros(3, dtype=torch.float64), atol=1e-6, rtol=0)
    assert (LESSONS[name](student, [teacher], "label", labels) > 1e-4).all()


@pytest.mark.parametrize("name", sorted(LESSONS))
def test_a_lesson_reaches_the_student_only_and_its_gradient_is_right(name: str) -> None:
    student, teacher = output(5, batch=3), output(6, batch=3)
    tensors = [student.logits["label"], student.features["pooled"], student.features["map"]]
    others = [teacher.logits["label"], teacher.features["pooled"], teacher.features["map"]]
    for tensor in (*tensors, *others):
        tensor.requires_grad_()
    edge = Edge("a", ("b",), lesson=name)
    labels = torch.tensor([0, 2, 1])
    edge({"a": student, "b": teacher}, "label", labels).mean().backward()
    assert all(tensor.grad is None for tensor in others)
    reached = [tensor for tensor in tensors if tensor.grad is not None]
    assert len(reached) == 1

    def value(x: torch.Tensor) -> torch.Tensor:
        fields = [x if tensor is reached[0] else tensor.detach() for tensor in tensors]
        one = SimpleNamespace(logits={"label": fields[0]}, features={"pooled": fields[1], "map": fields[2]})
        return edge({"a": one, "b": teacher}, "label", labels).mean()

    assert torch.autograd.gradcheck(value, (reached[0].detach().clone().requires_grad_(),), atol=1e-5)


def test_options_are_checked_before_training() -> None:
    for name in LESSONS:
        check_options(name, {})
        assert set(options_of(name)) <= set(inspect.signature(LESSONS[name]).parameters)
    for name, options, said in (
        ("mars", {}, "use one of"),
        ("feature_mse", {"sight": "map"}, "it has"),
        ("feature_mse", {"site": "neck"}, "pooled"),
        ("logit_mse", {"reduction": "max"}, "sum or mean"),
        ("kl", {"temperature": -1}, "positive"),
        ("kl", {"aggregate": "median"}, "aggregate"),
    ):
        with pytest.raises(ValueError, match=said):
            check_options(name, options)


def test_networks_of_other_shapes_are_told_apart() -> None:
    wide = SimpleNamespace(
        logits=TEACHER.logits, features={"pooled": torch.zeros(2, 8), "map": torch.zeros(2, 2, 8, 3, 3)}
    )
    with pytest.raises(ValueError, match="use networks of one shape"):
        LESSONS["feature_mse"](STUDENT, [wide], "label", LABELS)
    LESSONS["attention"](STUDENT, [wide], "label", LABELS)  # widths may differ


def test_the_weight_of_an_edge_grows() -> None:
    edge = Edge("a", ("b",), weight=2.0, start_epoch=1, ramp_epochs=4)
    assert [edge.weight_at(e) for e in (0, 0.99, 1, 2, 3.5, 5, 9)] == [0, 0, 0, 0.5, 1.25, 2.0, 2.0]
    silent = Edge("a", ("b",), weight=2.0, start_epoch=1, stop_epoch=3)
    assert [silent.weight_at(e) for e in (0, 1, 2.9, 3, 9)] == [0, 2, 2, 0, 0]
    with pytest.raises(ValueError, match="must come after start_epoch=2"):
        Edge("a", ("b",), start_epoch=2, stop_epoch=2)
    objective = Objective(["a", "b"], [{"students": ["a"], "weight": 2.0, "ramp_epochs": 4}])
    early, late = (objective({"a": STUDENT, "b": TEACHER}, {"label": LABELS}, epoch=e)["a"]["kl"] for e in (1, 9))
    assert float(late) == pytest.approx(4 * float(early))


def test_absent_samples_do_not_enter_relations() -> None:
    student, teacher = output(7, batch=3), output(8, batch=3)
    for tensor in (teacher.logits["label"], teacher.features["pooled"], teacher.features["map"]):
        tensor[1] = torch.nan
    present = {"a": torch.ones(3, dtype=torch.bool), "b": torch.tensor([True, False, True])}
    labels = torch.tensor([0, 1, 2])
    for name in LESSONS:
        objective = Objective(["a", "b"], [{"students": ["a"], "lesson": name}], frozen=["b"])
        terms = objective({"a": student, "b": teacher}, {"label": labels}, present)
        rows = [0, 2]
        few = [
            SimpleNamespace(
                logits={"label": o.logits["label"][rows]}, features={k: v[rows] for k, v in o.features.items()}
            )
            for o in (student, teacher)
        ]
        expected = LESSONS[name](few[0], [few[1]], "label", labels[rows]).mean()
        torch.testing.assert_close(terms["a"][name], expected)


def test_words_choose_peers_and_freezing_all_is_refused() -> None:
    objective = Objective(["rgb", "flow", "audio"], [{"students": "first", "teachers": "rest"}], frozen="rest")
    assert objective.frozen == {"flow", "audio"}
    assert [(edge.student, edge.teachers) for edge in objective.edges] == [("rgb", ("flow", "audio"))]
    with pytest.raises(ValueError, match="add a student"):
        Objective(["rgb"], frozen="all")


@pytest.mark.parametrize("lesson", sorted(LESSONS))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_of_half_precision_have_losses_of_full_precision(lesson: str, dtype: torch.dtype) -> None:
    """Also under autocast, which would multiply in half precision what has been converted."""
    torch.manual_seed(0)
    half = {
        peer: SimpleNamespace(
            logits={"label": (20 * torch.randn(4, 7)).to(dtype)},
            features={"pooled": (300 * torch.rand(4, 32)).to(dtype), "map": torch.randn(4, 2, 32, 3, 3).to(dtype)},
        )
        for peer in ("rgb", "flow")
    }
    full = {
        peer: SimpleNamespace(
            logits={k: v.float() for k, v in output.logits.items()},
            features={k: v.float() for k, v in output.features.items()},
        )
        for peer, output in half.items()
    }
    objective = Objective(["rgb", "flow"], [{"lesson": lesson}])
    target = {"label": torch.tensor([0, 3, 6, 2])}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        measured = objective(half, target)
    assert measured == objective(full, target)
    assert all(value.isfinite() for terms in measured.values() for value in terms.values())


def test_samples_that_are_all_alike_have_no_distance() -> None:
    same = torch.ones(3, 4, requires_grad=True)
    loss = distance_loss(same, torch.randn(3, 4))
    (gradient,) = torch.autograd.grad(loss, same)
    assert loss.isfinite() and gradient.isfinite().all()


def shapes(width: int, frames: int = 4, side: int = 2) -> dict[str, tuple[int, ...]]:
    return {"pooled": (width,), "map": (frames, width, side, side)}


@pytest.mark.parametrize(
    ("lesson", "fits"),
    [
        ({"lesson": "kl"}, True),
        ({"lesson": "logit_mse"}, True),
        ({"lesson": "feature_mse"}, False),
        ({"lesson": "feature_mse", "site": "map"}, False),
        ({"lesson": "attention"}, True),
        ({"lesson": "relational"}, True),
    ],
)
def test_widths_are_compared_before_training(lesson: dict[str, str], fits: bool) -> None:
    graph = Objective(["rgb", "flow"], [{"students": "first", "teachers": "rest", **lesson}])
    graph.check_features({"rgb": shapes(2048), "flow": shapes(2048)})
    told = r"of rgb \(2048 wide, .*\) with those of flow \(512 wide"
    with nullcontext() if fits else pytest.raises(ValueError, match=told):
        graph.check_features({"rgb": shapes(2048), "flow": shapes(512)})


def test_and_so_are_the_sizes_of_maps_and_teachers_of_two_widths() -> None:
    attention = Objective(["rgb", "flow"], [{"students": "first", "teachers": "rest", "lesson": "attention"}])
    with pytest.raises(ValueError, match=r"map of 4 x 2 x 2\) with those of flow \(8 wide, map of 2 x 2 x 2\)"):
        attention.check_features({"rgb": shapes(8), "flow": shapes(8, frames=2)})
    two = Objective(["a", "b", "c"], [{"students": "first", "teachers": "rest", "lesson": "relational"}])
    with pytest.raises(ValueError, match=r"b \(8 wide.*c \(4 wide"):
        two.check_features({"a": shapes(8), "b": shapes(8), "c": shapes(4)})


@pytest.mark.parametrize("site", ["pooled", "map"])
def test_a_learned_map_brings_features_to_another_width(site: str) -> None:
    spec = {"students": "first", "teachers": "rest", "lesson": "feature_mse", "site": site, "project": True}
    graph = Objective(["rgb", "flow"], [spec])
    sizes = {"rgb": shapes(6), "flow": shapes(4)}
    graph.check_features(sizes)
    state = torch.get_rng_state()
    (projection,) = graph.projections(sizes, seed=3)["rgb"].values()
    assert torch.equal(torch.get_rng_state(), state), "what a run draws stays what it was"
    features = {name: torch.randn(2, *shape, requires_grad=True) for name, shape in sizes["rgb"].items()}
    taught = {name: torch.randn(2, *shape) for name, shape in sizes["flow"].items()}
    edge = graph.edges[0]
    outputs = {
        "rgb": SimpleNamespace(logits={}, features=features | {edge.projection: projection(features)}),
        "flow": SimpleNamespace(logits={}, features=taught),
    }
    loss = edge(outputs, "", LABELS)
    places = features[site].movedim(2, -1) if site == "map" else features[site]
    mapped = places @ projection.weight.T + projection.bias
    target = taught[site].movedim(2, -1) if site == "map" else taught[site]
    torch.testing.assert_close(loss, (mapped - target).square().flatten(1).mean(1))
    loss.sum().backward()
    assert features[site].grad is not None and projection.weight.grad is not None
    with (
        pytest.raises(ValueError, match=r"map of 4 x 2 x 2\).* map of 2 x 2 x 2\)") if site == "map" else nullcontext()
    ):
        graph.check_features({"rgb": shapes(6), "flow": shapes(4, frames=2)})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"lesson": "kl", "project": True}, "project=true is for lessons that compare features at a site, not for kl"),
        ({"lesson": "feature_mse", "project": "yes"}, "project=yes must be true or false"),
    ],
)
def test_a_learned_map_is_for_features(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Objective(["rgb", "flow"], [wrong])
