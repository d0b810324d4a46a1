"""Losses of several labels per video: published values, their gradients, and samples with nothing to compare."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning.objectives.supervised import LOSSES, SEVERAL, Supervised, class_weights, options_of

LOGITS, LABELS = [2.0, 1.0, 0.5, 0.0, -1.0], [0.0, 1.0, 0.0, 1.0, 0.0]
COUNTS = torch.tensor([504, 2000, 6000, 20000, 48060])


def value_and_gradient(loss: Supervised) -> tuple[float, list[float]]:
    logits = torch.tensor([LOGITS], dtype=torch.float64, requires_grad=True)
    value = loss(logits, torch.tensor([LABELS])).mean()
    return value.item(), torch.autograd.grad(value, logits)[0][0].tolist()


@pytest.mark.parametrize(
    ("name", "options", "value", "gradient"),
    [
        ("cross_entropy", {}, 0.884135, None),
        ("scaled_bce", {}, 141.461618, [28.185506, -8.606125, 19.918699, -16.0, 8.606125]),
        ("lsep", {}, 2.629426, [0.7289, -0.2495, 0.1626, -0.6783, 0.0363]),
        ("wlsep", {}, 1.918766, [0.6598, -0.3879, 0.1472, -0.4519, 0.0328]),
        ("warp", {}, 5.25, [1.5, -1.5, 1.5, -2.25, 0.75]),
        ("bp_mll", {}, 12.865805, None),
        ("bp_mll", {"normalise": True}, 12.865805 / 6, None),
    ],
)
def test_golden(name: str, options: dict[str, Any], value: float, gradient: list[float] | None) -> None:
    found = value_and_gradient(Supervised(name, options))
    assert found[0] == pytest.approx(value, abs=1e-6)
    if gradient is not None:
        assert found[1] == pytest.approx(gradient, abs=6e-5)


@pytest.mark.parametrize(("rule", "value"), [("sqrt", 78.590450), ("linear", 76.195094)])
def test_golden_class_weights(rule: str, value: float) -> None:
    weights = class_weights(rule, COUNTS)
    assert value_and_gradient(Supervised("scaled_bce", {}, {5: weights}))[0] == pytest.approx(value, abs=1e-6)
    if rule == "linear":
        assert weights.tolist() == pytest.approx([0.032914, 0.130610, 0.391829, 1.306097, 3.138551], abs=1e-6)
        inverse = class_weights("inverse", COUNTS)
        assert torch.allclose(weights * inverse, torch.ones(5, dtype=torch.float64))


def test_a_class_without_videos_counts_as_one_video() -> None:
    weights = class_weights("inverse", torch.tensor([0, 1, 5]))
    assert weights.tolist() == [2.0, 2.0, 0.4]


def test_scale_null_keeps_the_pressure_per_class() -> None:
    logits, labels = torch.zeros(1, 313), torch.zeros(1, 313)
    automatic, stated = Supervised("scaled_bce", {"scale": None}), Supervised("scaled_bce")
    assert float(automatic(logits, labels) / stated(logits, labels)) == pytest.approx(1, abs=4e-4)
    assert float(stated(logits, labels)) == pytest.approx(110.9035, abs=1e-4)


def by_pairs(name: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The definitions, in loops."""
    rows, positives = [], 0
    for f, y in zip(logits, labels, strict=True):
        ups, downs = f[y > 0], f[y == 0]
        pairs = downs[None] - ups[:, None]
        if name == "lsep":
            rows.append((1 + pairs.exp().sum()).log())
        elif name == "bp_mll":
            rows.append(pairs.exp().sum())
        elif name == "wlsep":
            positives += len(ups) if len(downs) else 0
            rows.append((1 + pairs.exp().sum(1)).log().sum())
        else:
            total = f.new_zeros(())
            for hinges in (1 + pairs).clamp_min(0):
                rank = int((hinges > 0).sum())
                total = total + sum(1 / k for k in range(1, rank + 1)) * hinges.sum() / max(1, rank)
            rows.append(total)
    return torch.stack(rows).sum() / max(1, positives) if name == "wlsep" else torch.stack(rows).mean()


@given(st.sampled_from(["lsep", "wlsep", "warp", "bp_mll"]), st.integers(1, 4), st.integers(2, 6), st.integers(0, 999))
def test_ranking_losses_are_their_definitions(name: str, batch: int, classes: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=rng, dtype=torch.float64, requires_grad=True)
    labels = (torch.rand(batch, classes, generator=rng) < 0.5).double()
    value = Supervised(name)(logits, labels).mean()
    torch.testing.assert_close(value, by_pairs(name, logits, labels), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("labels", [0.0, 1.0])
def test_all_or_no_labels_have_finite_gradients(name: str, labels: float) -> None:
    logits = torch.tensor([[80.0, -80.0, 0.0], [1.0, 2.0, 3.0]], requires_grad=True)
    loss = Supervised(name)(logits, torch.full((2, 3), labels))
    loss.sum().backward()
    assert loss.shape == (2,) and loss.isfinite().all()
    assert logits.grad is not None and logits.grad.isfinite().all()
    if name in ("lsep", "wlsep", "warp"):
        assert not loss.any() and not logits.grad.any()


@given(st.integers(0, 999))
def test_without_focus_focal_and_asymmetric_are_cross_entropy(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 4, generator=rng, dtype=torch.float64)
    labels = (torch.rand(3, 4, generator=rng) < 0.5).double()
    plain = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    torch.testing.assert_close(Supervised("focal", {"gamma": 0.0, "alpha": None})(logits, labels), plain.mean(1))
    flat = {"gamma_positive": 0.0, "gamma_negative": 0.0, "margin": 0.0}
    torch.testing.assert_close(Supervised("asymmetric", flat)(logits, labels), plain.sum(1), atol=1e-6, rtol=1e-6)
    single = torch.tensor([0, 3, 1])
    one = Supervised("focal", {"gamma": 0.0})(logits, single)
    torch.testing.assert_close(one, F.cross_entropy(logits, single, reduction="none"))


def test_smoothing_is_that_of_torch_and_spreads_several_labels() -> None:
    logits = torch.tensor([[1.0, -1.0, 0.5, 0.0]])
    smooth = Supervised("cross_entropy", {"label_smoothing": 0.2})
    torch.testing.assert_close(
        smooth(logits, torch.tensor([2])), F.cross_entropy(logits, torch.tensor([2]), label_smoothing=0.2)[None]
    )
    hot = torch.tensor([[0.05, 0.05, 0.85, 0.85]])
    expected = F.binary_cross_entropy_with_logits(logits, hot)[None]
    torch.testing.assert_close(smooth(logits, torch.tensor([[0.0, 0.0, 1.0, 1.0]])), expected)


@pytest.mark.parametrize("name", SEVERAL)
def test_one_label_fits_no_loss_of_several(name: str) -> None:
    with pytest.raises(ValueError, match="fits neither class indices nor multi-hot labels"):
        Supervised(name)(torch.zeros(2, 3), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hinge", {}, "loss='hinge' is unknown; use one of"),
        ("lsep", {"gamma": 2.0}, "loss.gamma is no option of loss=lsep; it has none"),
        ("focal", {"gamma": float("nan")}, "loss.gamma=nan must be a finite number"),
    ],
)
def test_wrong_losses_are_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Supervised(name, options)


def test_options_are_those_of_the_function() -> None:
    assert options_of("asymmetric") == {"gamma_positive": 1.0, "gamma_negative": 4.0, "margin": 0.05}
