"""The `torchmetrics.Metric` classes: the plain formulas to the bit, in parts as at once, over ranks as in one."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mml_lightning.evaluation.metrics import Scoring, class_accuracy, confusion_matrix, measure
from mml_lightning.evaluation.metrics.classification import target_rank
from mml_lightning.evaluation.metrics.video_metrics import multi_label_metrics, single_label_metrics
from tests.patience import answers


def scores_of(seed: int, n: int, classes: int, ties: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64)
    if ties:
        logits = logits.round()
    return logits.log_softmax(-1), torch.randint(0, classes, (n,), generator=generator)


def plain(scores: Tensor, target: Tensor) -> dict[str, float]:
    """The numbers as they were computed before the classes: in one piece, by counting."""
    rank, classes = target_rank(scores, target), scores.shape[1]
    hits = torch.zeros(classes, dtype=torch.float64).index_add_(0, target, (rank == 0).double())
    found = {f"top{k}": 100 * float((rank < k).double().mean()) for k in (1, 5) if k == 1 or classes > 5}
    found["mean_class"] = 100 * float((hits / torch.bincount(target, minlength=classes)).nanmean())
    return found | {"loss": float(F.nll_loss(scores, target))}


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 300), st.integers(1, 9), st.booleans())
def test_numbers_are_those_of_the_formulas_to_the_bit(seed: int, n: int, classes: int, ties: bool) -> None:
    scores, target = scores_of(seed, n, classes, ties)
    found = measure({"rgb": scores}, target, False, Scoring())["rgb"]
    error = found.pop("ece")
    assert found == plain(scores, target)
    assert 0 <= error <= 1 and error == pytest.approx(calibration_error(scores, target), abs=1e-6)


def calibration_error(scores: Tensor, target: Tensor, bins: int = 15) -> float:
    sure, best = scores.exp().float().clamp(max=1).max(dim=1)
    edges = torch.linspace(0, 1, bins + 1)
    total = 0.0
    for low, high in zip(edges, [*edges[1:], 2.0], strict=True):  # certainty has a bin of its own
        if (inside := (sure >= low) & (sure < high)).any():
            right = (best == target)[inside].double().mean()
            total += float(inside.double().mean() * (right - sure[inside].double().mean()).abs())
    return total


def test_calibration_error_by_hand() -> None:
    """Two bins: of the two videos at 0.9 one is right (0.4 off), both at 0.6 are (0.4 off): 0.4 in the mean."""
    scores = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]], dtype=torch.float64).log()
    found = measure({"rgb": scores}, torch.tensor([0, 1, 0, 1]), False, Scoring())["rgb"]
    assert found["ece"] == pytest.approx(0.4) and found["top1"] == 75


def test_a_confusion_matrix_counts_by_class_and_best() -> None:
    scores = torch.tensor([[3.0, 1, 1], [1, 1, 0], [0, 0, 5], [0, 0, 5]])  # the second is a tie: the first class
    target = torch.tensor([0, 1, 2, 1])
    assert confusion_matrix(scores, target).tolist() == [[1, 0, 0], [1, 0, 1], [0, 0, 1]]
    assert class_accuracy(scores, target).tolist() == [1, 0, 1]


def several(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(101, 6, generator=generator, dtype=torch.float64).round(decimals=1)
    return scores, (torch.rand(101, 6, generator=generator) < 0.3).float()


@pytest.mark.parametrize("rule", ["grouped", "sequential"])
def test_parts_are_the_whole(rule: str) -> None:
    scores, target = several(0)
    whole, parts = multi_label_metrics(rule, "drop"), multi_label_metrics(rule, "drop")
    whole.update(scores, target)
    for some in torch.arange(len(scores)).split(7):
        parts.update(scores[some], target[some])
    assert whole.compute() == parts.compute()
    assert whole.compute() == measure({"rgb": scores}, target, True, Scoring(ap=rule))["rgb"]


def measured(rank: int, folder: str, queue: Any) -> None:
    """One of two ranks: the first has 61 of 101 videos, the second 40."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    mine = slice(61) if rank == 0 else slice(61, None)
    found = []
    for metrics, (scores, target) in (
        (single_label_metrics(8), scores_of(1, 101, 8, True)),
        (multi_label_metrics("sequential", "drop"), several(1)),
    ):
        metrics.update(scores[mine], target[mine])
        found.append({name: float(value) for name, value in metrics.compute().items()})
    queue.put(found)
    torch.distributed.destroy_process_group()


def test_two_ranks_with_parts_of_unequal_size_are_one_process(tmp_path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    ranks = [context.Process(target=measured, args=(rank, str(tmp_path), queue)) for rank in range(2)]
    for process in ranks:
        process.start()
    told = answers(queue, ranks)
    for process in ranks:
        process.join()
        assert process.exitcode == 0
    single = measure({"rgb": (one := scores_of(1, 101, 8, True))[0]}, one[1], False, Scoring())["rgb"]
    multi = measure({"rgb": (many := several(1))[0]}, many[1], True, Scoring(ap="sequential"))["rgb"]
    assert told[0] == told[1]
    assert {name: told[0][0][name] for name in plain(*one)} == plain(*one), "counts: to the bit"
    assert told[0][0]["ece"] == pytest.approx(single["ece"], abs=1e-6) and told[0][1] == multi


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("mml_lightning.evaluation.metrics", "torchmetrics"),
        ("mml_lightning.evaluation.predictions", "torchmetrics"),
        ("mml_lightning.cli.main", "torch"),
        ("mml_lightning.evaluation.metrics.video_metrics", "torchvision"),
        ("mml_lightning.evaluation.metrics.video_metrics", "matplotlib"),
        ("mml_lightning.evaluation.metrics.video_metrics", "pytorch_lightning"),
    ],
)
def test_nothing_is_imported_before_it_is_needed(module: str, absent: str) -> None:
    code = f"import sys, {module}; sys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Three videos of five classes worked by hand: ends of a ranking, a tie, one right class in the fourth place.
HAND_SCORES = [[0.9, 0.8, 0.3, 0.6, 0.1], [0.2, 0.7, 0.7, 0.1, 0.4], [0.5, 0.1, 0.2, 0.9, 0.3]]
HAND_TARGET = [[1, 0, 0, 1, 0], [0, 1, 0, 0, 1], [0, 0, 1, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_map_samples_by_hand_whatever_the_batches_and_videos_without_a_positive(size: int, dtype: torch.dtype) -> None:
    scores, target = torch.tensor(HAND_SCORES, dtype=dtype), torch.tensor(HAND_TARGET)
    for empty in ("drop", "nan", "zero"):  # a choice about classes: it changes nothing of the mean over videos
        metrics = multi_label_metrics("grouped", empty, sync_on_compute=False)
        for part in range(0, 3, size):
            metrics.update(scores[part : part + size], target[part : part + size])
        found = metrics.compute()
        assert found["map_samples"] == pytest.approx(55.5556, abs=1e-4)  # (.833333 + .583333 + .25) / 3
        assert found["map"] == pytest.approx(66.6667, abs=1e-4)  # (1 + .5 + .333333 + .5 + 1) / 5
        metrics.update(torch.ones(1, 5, dtype=dtype), torch.zeros(1, 5, dtype=torch.int64))
        assert metrics.compute()["map_samples"] == pytest.approx(55.5556, abs=1e-4)
