"""Several outputs to one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mml_lightning.fusion.fuse import LEARNED, RULES, SUMS, Fusion, JoinedFeatures, WeightedSum, present_as_gate

Z = {
    "rgb": torch.tensor([[[1.0, 0.0, -1.0], [2.0, 1.0, 0.0]]]),  # B 1, V 2, K 3
    "flow": torch.tensor([[[0.0, 3.0, 1.0], [-1.0, 0.0, 5.0]]]),
    "audio": torch.tensor([[[4.0, -2.0, 0.5], [0.0, 0.0, 1.0]]]),
}
OPEN = {name: torch.ones(1, 2) for name in Z}
SHUT = {name: torch.zeros(1, 2) for name in Z}
WIDTHS = {"rgb": 4, "flow": 2, "audio": 3}


def fused(fusion: Fusion, logits: dict[str, Tensor], gate: dict[str, Tensor]) -> Tensor:
    torch.manual_seed(0)
    shape = next(iter(logits.values())).shape[:2]
    features = {name: torch.randn(*shape, width) for name, width in fusion.widths.items()}
    return fusion({name: {"label": value} for name, value in logits.items()}, gate, features)["label"]


def made(rule: str, renormalise: bool | None = None) -> Fusion:
    torch.manual_seed(1)
    return Fusion(rule, WIDTHS, {"label": 3}, renormalise, hidden=5).eval()


@given(st.integers(2, 4), st.integers(0, 1000))
def test_average_is_the_mean_of_those_that_count(peers: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = {str(n): torch.randn(5, 2, 3, generator=rng, dtype=torch.float64) for n in range(peers)}
    present = {name: torch.rand(5, generator=rng) < 0.6 for name in logits}
    hidden = {name: torch.where(present[name][:, None, None], value, torch.nan) for name, value in logits.items()}
    average = Fusion("average", dict.fromkeys(logits, 4), {"label": 3})
    found = fused(average, hidden, present_as_gate(present, 2))
    for row in range(5):
        seen = [logits[name][row] for name in logits if present[name][row]]
        torch.testing.assert_close(found[row], torch.stack(seen).mean(0) if seen else torch.zeros(2, 3).double())


def test_a_gate_weighs_clips() -> None:
    logits = {"rgb": torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), "flow": torch.tensor([[[0.0, 3.0], [0.0, 3.0]]])}
    gate = {"flow": torch.tensor([[0.5, 0.0]]), "rgb": torch.tensor([[0.25, 1.0]])}
    average = Fusion("average", {"rgb": 1, "flow": 1}, {"label": 2})
    torch.testing.assert_close(fused(average, logits, gate), torch.tensor([[[1 / 3, 2.0], [1.0, 0.0]]]))
    published = Fusion("average", {"rgb": 1, "flow": 1}, {"label": 2}, renormalise=False)
    torch.testing.assert_close(fused(published, logits, gate), torch.tensor([[[0.125, 0.75], [0.5, 0.0]]]))


def test_golden_values() -> None:
    """By hand: weights 0.5 and 0.2 leave 0.3; class by class (0.5, 0, 1), (0.2, 1, 0) leave (0.3, 0, 0)."""
    weighted, by_class = made("weighted"), made("class_weighted")
    free = weighted.heads["label"].weights.free
    assert [value.item() for value in free.values()] == pytest.approx([1 / 3, 1 / 3])
    torch.testing.assert_close(fused(weighted, Z, OPEN), sum(Z.values()) / 3)
    with torch.no_grad():
        free["rgb"].fill_(0.5)
        free["flow"].fill_(0.2)
        own = by_class.heads["label"].weights.free
        own["rgb"].copy_(torch.tensor([0.5, 0.0, 1.0]))
        own["flow"].copy_(torch.tensor([0.2, 1.0, 0.0]))
    torch.testing.assert_close(fused(weighted, Z, OPEN)[0, 0], torch.tensor([1.7, 0.0, -0.15]))
    torch.testing.assert_close(fused(by_class, Z, OPEN)[0, 0], torch.tensor([1.7, 3.0, -1.0]))
    assert weighted.weights_told()["label"] == pytest.approx({"rgb": 0.5, "flow": 0.2, "audio": 0.3})
    skipped = {**OPEN, "rgb": torch.tensor([[0.0, 1.0]])}
    torch.testing.assert_close(fused(weighted, Z, skipped)[0, 0], torch.tensor([1.2, 0.0, 0.35]))
    divided = made("weighted", renormalise=True)
    divided.load_state_dict(weighted.state_dict())
    torch.testing.assert_close(fused(divided, Z, skipped)[0, 0], torch.tensor([2.4, 0.0, 0.7]))
    torch.testing.assert_close(fused(made("max"), Z, OPEN)[0], torch.tensor([[4.0, 3.0, 1.0], [2.0, 1.0, 5.0]]))
    torch.testing.assert_close(fused(made("max"), Z, skipped)[0, 0], torch.tensor([4.0, 3.0, 1.0]))


@pytest.mark.parametrize("rule", RULES)
def test_nothing_used_gives_no_scores(rule: str) -> None:
    """The loss is then the logarithm of the number of classes, whatever the peers say."""
    nothing = {name: torch.full_like(value, torch.nan) for name, value in Z.items()}
    found = fused(made(rule), nothing, SHUT)
    assert torch.equal(found, torch.zeros(1, 2, 3))
    loss = torch.nn.functional.cross_entropy(found.mean(1), torch.tensor([1]))
    assert float(loss) == pytest.approx(math.log(3))


@pytest.mark.parametrize("rule", RULES)
def test_peers_are_matched_by_name(rule: str) -> None:
    fusion, gate = made(rule), {**OPEN, "flow": torch.tensor([[0.0, 1.0]])}
    swapped = dict(reversed(Z.items()))
    assert torch.equal(fused(fusion, Z, gate), fused(fusion, swapped, dict(reversed(gate.items()))))
    again = Fusion(**fusion.arch).eval()
    again.load_state_dict(fusion.state_dict())
    assert torch.equal(fused(again, Z, gate), fused(fusion, Z, gate)) and again.arch == fusion.arch


@pytest.mark.parametrize("rule", RULES)
def test_what_is_hidden_may_be_anything_and_gets_no_gradient(rule: str) -> None:
    fusion = made(rule)
    hidden = {**Z, "flow": torch.full_like(Z["flow"], torch.nan)}
    leaves = {name: value.clone().requires_grad_() for name, value in hidden.items()}
    fused(fusion, leaves, {**OPEN, "flow": torch.zeros(1, 2)}).sum().backward()
    gradients = [value.grad for value in leaves.values() if value.grad is not None]
    assert rule == "fc2" or gradients
    assert all(bool(g.isfinite().all()) for g in gradients) and (rule == "fc2" or not leaves["flow"].grad.any())
    assert all(bool(p.grad.isfinite().all()) for p in fusion.parameters() if p.grad is not None)


@pytest.mark.parametrize("rule", SUMS)
def test_a_gate_that_learns_hears_of_what_it_hides(rule: str) -> None:
    gate = {name: value.clone().requires_grad_() for name, value in SHUT.items()}
    fused(made(rule, renormalise=False), Z, gate).sum().backward()
    for name, value in gate.items():
        torch.testing.assert_close(value.grad, Z[name].sum(2) / 3)


def test_parameters_and_their_decay() -> None:
    for rule in RULES:
        assert made(rule).learned == (rule in LEARNED) == any(True for _ in made(rule).parameters())
    group = made("weighted").optimiser_groups(0.1, 1e-4)[0]
    assert (group["lr"], group["weight_decay"], len(group["params"])) == (0.1, 1e-4, 2)
    own = Fusion("weighted", WIDTHS, {"label": 3}, weight_decay=0.0)
    assert own.optimiser_groups(0.1, 1e-4)[0]["weight_decay"] == 0.0
    assert made("max").optimiser_groups(0.1, 1e-4) == []
    large = Fusion("fc2", {"rgb": 2048, "audio": 1280}, {"label": 31})
    assert sum(p.numel() for p in large.parameters()) == 3328 * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 31 + 31


def test_what_means_nothing_is_refused() -> None:
    for rule in sorted(set(RULES) - set(SUMS)):
        with pytest.raises(ValueError, match="adds up no logits"):
            made(rule, renormalise=True)
    with pytest.raises(ValueError, match="is no fusion"):
        made("middle")
    with pytest.raises(ValueError, match="no two peers to fuse, only rgb"):
        Fusion("average", {"rgb": 4}, {"label": 3})


def test_each_head_is_fused_by_itself() -> None:
    fusion = Fusion("class_weighted", {"rgb": 1, "flow": 1}, {"verb": 2, "noun": 4})
    assert {head: type(one) for head, one in fusion.heads.items()} == {"verb": WeightedSum, "noun": WeightedSum}
    logits = {name: {"verb": torch.randn(3, 2, 2), "noun": torch.randn(3, 2, 4)} for name in ("rgb", "flow")}
    found = fusion(logits, {name: torch.ones(3, 2) for name in logits})
    assert {head: tuple(value.shape) for head, value in found.items()} == {"verb": (3, 2, 2), "noun": (3, 2, 4)}
    assert isinstance(Fusion("fc2", WIDTHS, {"a": 2}, hidden=3).heads["a"], JoinedFeatures)
