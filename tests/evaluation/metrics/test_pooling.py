"""Views and peers to one score, against plain references. Shapes: N videos, V views, K classes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_lightning.evaluation.metrics import ensemble, pool_views
from mml_lightning.evaluation.metrics.pooling import ENSEMBLES, PART, POOLINGS

LOGITS = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]], [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]], dtype=torch.float64)


def random_logits(seed: int, *shape: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def test_poolings_are_what_they_say() -> None:
    close = torch.testing.assert_close
    close(pool_views(LOGITS, "logits"), LOGITS.mean(1).log_softmax(-1))
    close(pool_views(LOGITS, "probs").exp(), LOGITS.softmax(-1).mean(1))
    close(pool_views(LOGITS, "max").exp(), LOGITS.softmax(-1).max(1).values)
    close(pool_views(LOGITS, "logits", multi_label=True).exp(), LOGITS.mean(1).sigmoid())
    close(pool_views(LOGITS, "probs", multi_label=True).exp(), LOGITS.sigmoid().mean(1))
    close(pool_views(LOGITS, "max", multi_label=True).exp(), LOGITS.sigmoid().max(1).values)
    with pytest.raises(ValueError, match=r"views\.pooling='sum' is unknown"):
        pool_views(LOGITS, "sum")


@pytest.mark.parametrize("multi_label", [False, True])
def test_poolings_agree_for_one_view(multi_label: bool) -> None:
    one = torch.randn(5, 1, 4)
    for pooling in ("probs", "max"):
        torch.testing.assert_close(pool_views(one, pooling, multi_label), pool_views(one, "logits", multi_label))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_sure_networks_keep_their_order(pooling: str) -> None:
    """Probabilities of 0 and 1 in float32 would tie."""
    sure = torch.tensor([[[60.0, 70.0, -80.0, -90.0]]]).expand(1, 2, 4)
    scores = pool_views(sure, pooling, multi_label=True)[0]
    assert scores.dtype == torch.float64 and scores[1] > scores[0] > scores[2] > scores[3]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), pooling=st.sampled_from(POOLINGS), multi_label=st.booleans())
def test_the_order_of_views_does_not_matter(seed: int, pooling: str, multi_label: bool) -> None:
    logits = random_logits(seed, 3, 5, 4)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        pool_views(logits, pooling, multi_label), pool_views(logits[:, order], pooling, multi_label)
    )


@pytest.mark.parametrize("pooling", POOLINGS)
def test_large_splits_are_pooled_in_parts_and_it_does_not_show(pooling: str) -> None:
    logits = random_logits(4, PART + 3, 2, 5).float()
    whole, end = pool_views(logits, pooling), pool_views(logits[PART - 1 :], pooling)
    assert whole.shape == (PART + 3, 5) and torch.equal(whole[PART - 1 :], end)


def test_a_repeated_view_changes_only_what_is_a_mean() -> None:
    logits = random_logits(0, 4, 3, 5)
    again = torch.cat([logits, logits[:, :1]], dim=1)
    assert torch.equal(pool_views(logits, "max"), pool_views(again, "max"))
    assert not torch.allclose(pool_views(logits, "probs"), pool_views(again, "probs"))


def test_ensemble_is_the_mean_of_probabilities_whatever_the_scale_of_the_logits() -> None:
    a, b = torch.randn(4, 3), 100 * torch.randn(4, 3)
    scores = ensemble([a.log_softmax(-1), b.log_softmax(-1)])
    torch.testing.assert_close(scores.exp(), ((a.softmax(-1) + b.softmax(-1)) / 2).double())


@pytest.mark.parametrize("multi_label", [False, True])
def test_weighted_ensembles_of_both_kinds(multi_label: bool) -> None:
    a, b = random_logits(1, 6, 4), random_logits(2, 6, 4, scale=9.0)
    scores = [pool_views(z[:, None], "logits", multi_label) for z in (a, b)]
    activation = torch.sigmoid if multi_label else lambda z: z.softmax(-1)
    mixed = ensemble(scores, [1.0, 3.0], "probs", multi_label).exp()
    torch.testing.assert_close(mixed, (activation(a) + 3 * activation(b)) / 4)
    mixed = ensemble(scores, [1.0, 3.0], "logits", multi_label).exp()
    torch.testing.assert_close(mixed, activation((a + 3 * b) / 4))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.1, 3.0, 30.0, 200.0]))
def test_mean_logits_of_sigmoids_survive_saturation(seed: int, scale: float) -> None:
    a, b = random_logits(seed, 3, 4, scale=scale), random_logits(seed + 1, 3, 4, scale=scale)
    scores = [pool_views(z[:, None], "logits", multi_label=True) for z in (a, b)]
    found = ensemble(scores, kind="logits", multi_label=True)
    expected = torch.nn.functional.logsigmoid((a + b) / 2)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ENSEMBLES)
@pytest.mark.parametrize("multi_label", [False, True])
def test_absent_peers_and_weights_of_nothing_have_no_vote(kind: str, multi_label: bool) -> None:
    a, b = (pool_views(random_logits(seed, 3, 1, 4), "logits", multi_label) for seed in (1, 2))
    a[1], b[1:] = torch.nan, torch.nan
    mixed = ensemble([a, b], kind=kind, multi_label=multi_label)
    assert mixed[1].isnan().all(), "no peer has seen it"
    torch.testing.assert_close(mixed[2], a[2])
    torch.testing.assert_close(ensemble([a, b], [2.0, 0.0], kind, multi_label), a, equal_nan=True)


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_weights_that_mean_nothing_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="one finite number from 0 on per peer"):
        ensemble([torch.zeros(2, 3), torch.zeros(2, 3)], weights)
    with pytest.raises(ValueError, match=r"views\.ensemble='median' is unknown"):
        ensemble([torch.zeros(2, 3)], kind="median")
