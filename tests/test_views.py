"""Pooling, ensembles, metrics and the score dump, against plain references. Shapes: N videos, V views, K classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mml_lightning.views import Scores, classification_metrics, ensemble, pool_views

LOGITS = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]], [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]])


def test_poolings_are_what_they_say():
    torch.testing.assert_close(pool_views(LOGITS, "logits"), LOGITS.mean(1).log_softmax(-1))
    torch.testing.assert_close(pool_views(LOGITS, "probs").exp(), LOGITS.softmax(-1).mean(1))
    torch.testing.assert_close(pool_views(LOGITS, "max").exp(), LOGITS.softmax(-1).max(1).values)
    torch.testing.assert_close(pool_views(LOGITS, "max", multi_label=True).exp(), LOGITS.sigmoid().max(1).values)
    with pytest.raises(ValueError, match="median"):
        pool_views(LOGITS, "median")


def test_poolings_agree_for_one_view():
    one = torch.randn(5, 1, 4)
    for pooling in ("probs", "max"):
        torch.testing.assert_close(pool_views(one, pooling), pool_views(one, "logits"))


def test_ensemble_is_the_mean_of_probabilities_whatever_the_scale_of_the_logits():
    a, b = torch.randn(4, 3), 100 * torch.randn(4, 3)
    scores = ensemble([a.log_softmax(-1), b.log_softmax(-1)])
    torch.testing.assert_close(scores.exp(), (a.softmax(-1) + b.softmax(-1)) / 2)


def test_accuracies_against_a_plain_count():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(200, 8, generator=generator).log_softmax(-1)
    target = torch.randint(0, 7, (200,), generator=generator)  # class 7 is absent: it is in no mean
    found = classification_metrics(scores, target)
    order = scores.argsort(dim=1, descending=True).numpy()
    hit = order == target.numpy()[:, None]
    assert found["top1"] == pytest.approx(100 * hit[:, 0].mean())
    assert found["top5"] == pytest.approx(100 * hit[:, :5].any(axis=1).mean())
    per_class = [100 * hit[target.numpy() == k, 0].mean() for k in range(7)]
    assert found["mean_class"] == pytest.approx(np.mean(per_class), rel=1e-5)
    assert found["loss"] == pytest.approx(float(-scores[torch.arange(200), target].mean()), rel=1e-5)


def test_five_classes_have_no_top5():
    assert "top5" not in classification_metrics(torch.randn(6, 5).log_softmax(-1), torch.zeros(6, dtype=torch.int64))


def test_mean_average_precision_against_a_plain_computation():
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(50, 4, generator=generator).log()
    target = (torch.rand(50, 4, generator=generator) < 0.3).int()
    target[:, 3] = 0  # without a positive: left out
    precisions = []
    for k in range(3):
        ranked = target[scores[:, k].argsort(descending=True), k].numpy()
        precisions.append((ranked.cumsum() / np.arange(1, 51))[ranked == 1].mean())
    assert classification_metrics(scores, target)["map"] == pytest.approx(100 * np.mean(precisions), rel=1e-5)


def test_scores_keep_dataset_order_and_reload_without_pickle(tmp_path):
    scores = Scores(ids=["a", "b", "c"])
    logits = torch.randn(3, 2, 4)
    scores.add(torch.tensor([2, 0]), {"rgb": logits[[2, 0]], "flow": -logits[[2, 0]]}, torch.tensor([1, 3]))
    scores.add(torch.tensor([1, 2]), {"rgb": logits[[1, 2]], "flow": -logits[[1, 2]]}, torch.tensor([0, 1]))
    scores.save(tmp_path / "predictions" / "test.npz")
    with np.load(tmp_path / "predictions" / "test.npz", allow_pickle=False) as saved:
        assert saved["ids"].tolist() == ["a", "b", "c"] and saved["target"].tolist() == [3, 0, 1]
        assert saved["logits/rgb"].dtype == np.float32
        np.testing.assert_array_equal(saved["logits/rgb"], logits.numpy())
        np.testing.assert_array_equal(saved["logits/flow"], -logits.numpy())
    assert list((tmp_path / "predictions").iterdir()) == [tmp_path / "predictions" / "test.npz"]
    assert set(scores.metrics()) == {"rgb", "flow", "ensemble"}


def test_a_peer_is_measured_on_the_videos_it_has_seen():
    scores = Scores(ids=["a", "b"])
    rgb, flow = torch.tensor([[[5.0, 0.0]], [[0.0, 5.0]]]), torch.tensor([[[9.0, 0.0]], [[9.0, 0.0]]])
    present = {"rgb": torch.tensor([True, True]), "flow": torch.tensor([True, False])}
    scores.add(torch.tensor([0, 1]), {"rgb": rgb, "flow": flow}, torch.tensor([0, 1]), present)
    found = scores.metrics()
    assert found["rgb"]["top1"] == 100 and found["flow"]["top1"] == 100
    assert found["ensemble"]["top1"] == 100, "the absent flow has no vote on the second video"
    assert scores.logits()["flow"][1].isnan().all()


def test_nothing_measured_gives_no_metrics():
    assert Scores(ids=["a"]).metrics() == {}
