"""Loaders: the same batches whatever the workers and ranks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mml_lightning.data.flow.cache import FlowCache, FlowSettings
from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.data.loading.draws import FixedCrops, RandomCrop, TrainTemporalSampler, ValTemporalSampler
from mml_lightning.data.loading.loader_settings import LoaderSettings
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.records.records import Head, Record
from mml_lightning.modalities import Modality
from mml_lightning.training.datamodule import VideoData
from mml_lightning.transforms import TestGeometry as FixedGeometry
from mml_lightning.transforms import TrainGeometry
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.preemption import LISTENER
from tests.data.videos import damaged, moving, record, write_video

MODALITIES = (
    Modality("rgb", "frames", 1, 3),
    Modality("flow", "flow", 2, 2, flip="mirror_negate_x"),
)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Seven videos, the fourth of which can't be read."""
    folder = tmp_path_factory.mktemp("loaders")
    made = [record(write_video(folder / f"{i}.mp4", moving(6, i, 1, 64, 48)), i % 2) for i in range(7)]
    damaged("text", made[3].media["frames"], made[3].media["frames"])
    return made


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FlowCache:
    return FlowCache(tmp_path_factory.mktemp("cache"), FlowSettings(preset="ultrafast"))


def video_data(
    records: list[Record], cache: FlowCache, workers: int = 0, context: str | None = None, **more: Any
) -> VideoData:
    def dataset(train: bool) -> ClipDataset:
        return ClipDataset(
            records=records,
            modalities=MODALITIES,
            heads={"label": Head(("a", "b"))},
            opener=SourceOpener("decord", cache),
            starts=TrainTemporalSampler(3, "uniform", 4, "fixed")
            if train
            else ValTemporalSampler(3, "uniform", 4, "fixed"),
            geometries=RandomCrop(TrainGeometry(16, (1.0, 0.75), 0.5))
            if train
            else FixedCrops(FixedGeometry(16, 16, 1)),
            seed=3,
            replace=train,
        )

    datasets = {"train": dataset(True), "val": dataset(False), "test": dataset(False)}
    return VideoData(datasets, LoaderSettings(4, 3, workers, context), **more)


def batches(data: VideoData, epochs: int = 2) -> list[dict[str, Any]]:
    loader = data.train_dataloader()
    found = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # Lightning does this
        found += list(loader)
    return found + list(data.val_dataloader())


def assert_equal(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a["id"], a["failures"]) == (b["id"], b["failures"]) and torch.equal(a["index"], b["index"])
        assert torch.equal(a["target"]["label"], b["target"]["label"])
        for name in b["clips"]:
            assert torch.equal(a["clips"][name], b["clips"][name])
            assert torch.equal(a["present"][name], b["present"][name])


@pytest.fixture(scope="module")
def expected(records: list[Record], cache: FlowCache) -> list[dict[str, Any]]:
    return batches(video_data(records, cache))


def test_batches_without_workers(expected: list[dict[str, Any]]) -> None:
    assert [len(batch["index"]) for batch in expected] == [4, 4, 3, 2, 1]
    assert not torch.equal(expected[0]["clips"]["rgb"], expected[1]["clips"]["rgb"])
    assert expected[0]["clips"]["flow"].shape == (4, 1, 3, 4, 16, 16)
    assert [i for batch in expected[2:] for i in batch["index"].tolist()] == [0, 1, 2, 4, 5, 6]
    assert [video for batch in expected[2:] for video, _ in batch["failures"]] == ["3"]


@pytest.mark.parametrize(("workers", "context"), [(1, "fork"), (2, "fork"), (1, "spawn")])
def test_workers_change_nothing(
    records: list[Record], cache: FlowCache, expected: list[dict[str, Any]], workers: int, context: str
) -> None:
    assert_equal(batches(video_data(records, cache, workers, context)), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_that_are_read_within_a_step_are_the_same(
    records: list[Record], cache: FlowCache, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(within: bool) -> list[dict[str, Any]]:
        data = video_data(records, cache, workers, "fork" if workers else None)
        data.settings = LoaderSettings(2, 3, workers, "fork" if workers else None)
        data.read_next()  # there is no loader yet
        loader = data.train_dataloader()
        found = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            for batch in loader:
                found.append(batch)
                before = len(paused)
                if within:
                    data.read_next()
                    data.read_next()  # no more than one
                assert len(paused) == before  # a signal is heard between two steps
        data.read_next()
        return found

    paused: list[int] = []
    monkeypatch.setattr(LISTENER, "pause", lambda: paused.append(0))
    assert_equal(read(True), plain := read(False))
    assert len(plain) == 6 and bool(paused) == (not workers)


def test_an_error_of_a_batch_that_was_read_within_a_step_comes_with_the_next(
    records: list[Record], cache: FlowCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = video_data(records, cache)
    data.settings = LoaderSettings(2, 3, 0)
    loader = data.train_dataloader()
    batches = iter(loader)
    next(batches)
    monkeypatch.setattr(ClipDataset, "_load", lambda *given: 1 / 0)
    data.read_next()
    monkeypatch.undo()
    with pytest.raises(ZeroDivisionError):
        next(batches)
    assert len(list(loader)) == 3  # another epoch


ON_CPU = SimpleNamespace(root_device=torch.device("cpu"))


def test_batches_for_a_gpu_are_copied_ahead(records: list[Record], cache: FlowCache) -> None:
    data = video_data(records, cache)
    for kind, ahead in (("cpu", None), ("cuda", torch.device("cuda:1"))):
        strategy = SimpleNamespace(root_device=torch.device(kind, 1 if ahead else None))
        data.trainer = SimpleNamespace(global_rank=0, world_size=1, training=True, strategy=strategy)  # type: ignore[assignment]
        assert data.train_dataloader().device == data.val_dataloader().device == ahead


def test_two_ranks_train_on_the_batches_of_one(
    records: list[Record], cache: FlowCache, expected: list[dict[str, Any]]
) -> None:
    shares = []
    for rank in range(2):
        data = video_data(records, cache)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, training=True, strategy=ON_CPU)  # type: ignore[assignment]
        shares.append(batches(data))
        assert data.on_before_batch_transfer(shares[-1][0], 0) is shares[-1][0]  # half a batch is full here
    for step in range(2):
        together = torch.cat([share[step]["clips"]["flow"] for share in shares])
        order = torch.cat([share[step]["index"] for share in shares]).argsort(stable=True)
        alone = expected[step]
        assert torch.equal(together[order], alone["clips"]["flow"][alone["index"].argsort(stable=True)])
    seen = [i for share in shares for batch in share[2:] for i in batch["index"].tolist()]
    assert set(seen) == {0, 1, 2, 4, 5, 6}
    assert [len(share) for share in shares] == [4, 4]  # equal numbers of steps


def test_prepare_is_called_by_lightning_s_hook(records: list[Record], cache: FlowCache) -> None:
    calls: list[str] = []
    data = video_data(records, cache, prepare=lambda: calls.append("flow"))
    assert calls == []
    data.prepare_data()
    assert calls == ["flow"]
    video_data(records, cache).prepare_data()


def test_training_stops_when_nothing_can_be_read(cache: FlowCache, tmp_path: Path) -> None:
    data = video_data([record(tmp_path / f"{i}.mp4", 0) for i in range(25)], cache)
    batch = next(iter(data.train_dataloader()))
    assert data.on_before_batch_transfer(batch, 0) is batch  # no trainer: evaluation by hand
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, training=True)  # type: ignore[assignment]
    message = r"20 training videos in a row can't be read, last: .*\.mp4: no such file; run mml check"
    with pytest.raises(UserError, match=message):
        data.on_before_batch_transfer(batch, 0)
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, training=False)  # type: ignore[assignment]
    assert data.on_before_batch_transfer(batch, 0) is batch


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 1, 0), r"data\.batch_size=0 must be 1 or more"),
        ((1, 0, 0), r"data\.eval_batch_size=0 must be 1 or more"),
        ((1, 1, -1), r"data\.workers=-1 must be 0 or more"),
    ],
)
def test_settings_name_the_mistake(numbers: tuple[int, int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LoaderSettings(*numbers)
