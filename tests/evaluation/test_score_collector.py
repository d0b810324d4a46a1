"""Scores of a split by video: order, repeats, absent and diverged peers, ranks. N videos, V views, K classes."""

from __future__ import annotations

import mmap
import multiprocessing
import os
from typing import Any

import numpy as np
import pytest
import torch

from mml_lightning.data.loading.samplers import EvalSampler
from mml_lightning.evaluation.score_collector import ScoreCollector
from mml_lightning.evaluation.score_collector import _array as array
from tests.patience import answers


def test_scores_keep_dataset_order_and_reload_without_pickle(tmp_path):
    scores = ScoreCollector(ids=["a", "b", "c"])
    logits = torch.randn(3, 2, 4)
    scores.update(torch.tensor([2, 0]), {"rgb": logits[[2, 0]], "flow": -logits[[2, 0]]}, torch.tensor([1, 3]))
    scores.update(torch.tensor([1, 2]), {"rgb": logits[[1, 2]], "flow": -logits[[1, 2]]}, torch.tensor([0, 1]))
    dump = scores.dump()
    assert dump is not None
    dump.save(tmp_path / "predictions" / "test.npz")
    with np.load(tmp_path / "predictions" / "test.npz", allow_pickle=False) as saved:
        assert saved["ids"].tolist() == ["a", "b", "c"] and saved["target"].tolist() == [3, 0, 1]
        assert saved["logits/rgb"].dtype == np.float32
        np.testing.assert_array_equal(saved["logits/rgb"], logits.numpy())
        np.testing.assert_array_equal(saved["logits/flow"], -logits.numpy())
    assert list((tmp_path / "predictions").iterdir()) == [tmp_path / "predictions" / "test.npz"]
    assert set(scores.compute()) == {"rgb", "flow", "ensemble"}


def test_many_scores_are_written_to_a_file_as_they_come(tmp_path, monkeypatch):
    logits, target = torch.randn(3, 2, 4), torch.tensor([0, 1, 2])
    plain = ScoreCollector(ids=["a", "b", "c"])
    monkeypatch.setattr("mml_lightning.evaluation.score_collector.IN_MEMORY", 95)  # bytes: these take 96
    streamed = ScoreCollector(ids=["a", "b", "c"], folder=tmp_path / "predictions")
    for scores in (plain, streamed):
        scores.update(torch.arange(3), {"rgb": logits}, target)
    assert isinstance(array((3, 2, 4), tmp_path / "predictions").base, mmap.mmap)
    assert list((tmp_path / "predictions").iterdir()) == [], "it is gone when the process is"
    dump = streamed.dump()
    assert dump is not None and torch.equal(dump.logits["rgb"], logits)
    assert np.shares_memory(dump.logits["rgb"].numpy(), streamed.kept["rgb"].numpy()), "no copy in memory"
    assert streamed.compute() == plain.compute()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system can't reserve room")
def test_a_disk_without_room_for_the_scores_is_an_error_and_not_the_end(tmp_path):
    scores = ScoreCollector(ids=range(2**40), folder=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(OSError, match=str(tmp_path)):
        scores.update(torch.tensor([0]), {"rgb": torch.zeros(1, 1, 4)}, torch.tensor([0]))
    assert list(tmp_path.iterdir()) == []


def test_a_peer_is_measured_on_the_videos_it_has_seen():
    scores = ScoreCollector(ids=["a", "b"])
    rgb, flow = torch.tensor([[[5.0, 0.0]], [[0.0, 5.0]]]), torch.tensor([[[9.0, 0.0]], [[9.0, 0.0]]])
    present = {"rgb": torch.tensor([True, True]), "flow": torch.tensor([True, False])}
    scores.update(torch.tensor([0, 1]), {"rgb": rgb, "flow": flow}, torch.tensor([0, 1]), present)
    found = scores.compute()
    assert found["rgb"]["top1"] == 100 and found["flow"]["top1"] == 100
    assert found["ensemble"]["top1"] == 100, "the absent flow has no vote on the second video"
    dump = scores.dump()
    assert dump is not None and dump.logits["flow"][1].isnan().all() and not dump.unreadable


def test_nothing_measured_gives_no_metrics():
    assert ScoreCollector(ids=["a"]).dump() is None


def test_a_network_that_diverged_shows():
    scores = ScoreCollector(ids=["a", "b", "c"])
    logits = torch.tensor([[[1.0, 0.0]], [[torch.inf, 0.0]], [[torch.nan, 0.0]]])
    present = {"rgb": torch.tensor([True, True, False])}
    scores.update(torch.tensor([0, 1, 2]), {"rgb": logits}, torch.tensor([0, 0, 0]), present)
    assert scores.failures == {"b": "rgb gives no finite scores; the network has diverged"}, "c: rgb is absent"
    assert scores.compute()["rgb"]["top1"] == 100
    dump = scores.dump()
    assert dump is not None and dump.logits["rgb"][1].isnan().all() and list(dump.unreadable) == ["b"]


def gathered(rank: int, folder: str, queue: Any) -> None:
    """One of two ranks: it measures every second of 499 videos, and the padded first one again with other logits."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    scores = ScoreCollector(ids=[f"v{i}" for i in range(499)], classes=("a", "b", "c"), split="val")
    logits, target = split_of_499()
    index = torch.tensor([i for _, i in EvalSampler(499, rank, 2)])
    mine = logits[index]
    if rank == 1:
        assert index[-1] == 0
        mine[-1] += 100.0  # as if this rank had other batch statistics
        scores.failures["bad"] = "unreadable"
    for part in torch.arange(len(index)).split(7):
        scores.update(index[part], {"rgb": mine[part]}, target[index[part]])
    scores.gather()
    metrics, dump = scores.compute(), scores.dump()
    assert dump is not None
    queue.put((rank, dump.ids, dump.logits["rgb"].numpy(), metrics, dict(dump.unreadable)))
    torch.distributed.destroy_process_group()


def split_of_499() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(499, 2, 3, generator=generator), torch.randint(0, 3, (499,), generator=generator)


def test_two_ranks_count_499_videos_once_each(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    ranks = [context.Process(target=gathered, args=(rank, str(tmp_path), queue)) for rank in range(2)]
    for process in ranks:
        process.start()
    told = sorted(answers(queue, ranks), key=lambda told: told[0])
    for process in ranks:
        process.join()
        assert process.exitcode == 0
    logits, target = split_of_499()
    alone = ScoreCollector(ids=[f"v{i}" for i in range(499)], classes=("a", "b", "c"))
    alone.update(torch.arange(499), {"rgb": logits}, target)
    for _, ids, seen, metrics, unreadable in told:
        assert ids == tuple(f"v{i}" for i in range(499)), "each video once, in dataset order"
        np.testing.assert_array_equal(seen, logits.numpy())  # of the repeated video, the first rank's
        assert metrics == alone.compute() and unreadable == {"bad": "unreadable"}


def alone_or_not(rank: int, folder: str, queue: Any, has: list[int]) -> None:
    """One of three ranks, of which only those of `has` have read a video."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=3)
    scores = ScoreCollector(ids=["a", "b", "c"])
    if rank in has:
        logits = {"rgb": torch.full((1, 2, 4), float(rank)), "flow": torch.zeros(1, 2, 4)}
        present = {"rgb": torch.tensor([True]), "flow": torch.tensor([rank != 1])}
        scores.update(torch.tensor([rank]), logits, torch.tensor([0]), present)
    else:
        scores.failures["abc"[rank]] = "unreadable"
    scores.gather()
    dump = scores.dump()
    logits = {} if dump is None else {peer: value.numpy() for peer, value in dump.logits.items()}
    queue.put((dump and dump.ids, logits, sorted(scores.failures)))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("has", [[0, 1], [1, 2], [2], []])
def test_a_rank_that_could_read_nothing_gathers_as_well(tmp_path, has):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    ranks = [context.Process(target=alone_or_not, args=(rank, str(tmp_path), queue, has)) for rank in range(3)]
    for process in ranks:
        process.start()
    told = answers(queue, ranks)
    for process in ranks:
        process.join()
        assert process.exitcode == 0
    for ids, logits, failures in told:
        assert ids == (tuple("abc"[rank] for rank in has) or None)
        assert failures == ["abc"[rank] for rank in range(3) if rank not in has]
        if has:
            assert logits["rgb"][:, 0, 0].tolist() == has
            assert np.isnan(logits["flow"]).all(axis=(1, 2)).tolist() == [rank == 1 for rank in has]
