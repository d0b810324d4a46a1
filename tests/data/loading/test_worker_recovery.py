"""Workers that hang or die: the video is named, loading goes on, and every other sample is what it would have been."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mml_lightning.data.loading import dataset as loading_dataset
from mml_lightning.data.loading import worker_recovery
from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.data.loading.draws import FixedCrops, ValTemporalSampler
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.loading.worker_recovery import FaultTolerantLoader
from mml_lightning.data.records.records import Head, Record
from mml_lightning.modalities import Modality
from mml_lightning.transforms import TestGeometry as FixedGeometry
from mml_lightning.utils.errors import UserError
from tests.data.videos import moving, record, write_video
from tests.patience import wait_for


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder = tmp_path_factory.mktemp("watched")
    return [record(write_video(folder / f"{i}.mp4", moving(4, i, 1, 64, 48)), i % 2) for i in range(8)]


class Fault(ClipDataset):
    """What a bad file does to a decoder happens while record 5 is read."""

    happens: Callable[[], Any] = staticmethod(lambda: None)

    def _load(self, record: Record, epoch: int) -> dict[str, Any]:
        if record is self.records[5]:
            type(self).happens()
        return super()._load(record, epoch)


@pytest.fixture
def limit(records: list[Record]) -> float:
    """Seconds that no video takes which can be read, however busy the machine is: all of them take a tenth."""
    start = time.monotonic()
    list(loader(records, lambda: None, workers=2))
    return max(2.0, round(10 * (time.monotonic() - start)))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_recovery, "POLL", 0.2)
    monkeypatch.setattr(worker_recovery, "LOSSES", 1)


def loader(records: list[Record], happens: Callable[[], Any], replace: bool = True, **more: Any) -> FaultTolerantLoader:
    dataset = Fault(
        records=records,
        modalities=(Modality("rgb", "frames", 1, 3),),
        heads={"label": Head(("a", "b"))},
        opener=SourceOpener("pyav"),
        starts=ValTemporalSampler(2, "uniform", 4, "fixed"),
        geometries=FixedCrops(FixedGeometry(16, 16, 1)),
        seed=1,
        replace=replace,
    )
    Fault.happens = staticmethod(happens)
    order = [(0, index) for index in range(8)]
    return FaultTolerantLoader(dataset, 2, order, **{"workers": 2, "context": "fork", **more})  # type: ignore[arg-type]


def hold_on() -> None:
    """C code that keeps Python's lock and comes back in an hour: no thread of the worker runs, no signal handler."""
    ctypes.PyDLL(None).sleep(3600)


def read_bad_memory() -> None:
    ctypes.string_at(0)


def clips(batches: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {video: batch["clips"]["rgb"][row] for batch in batches for row, video in enumerate(batch["id"])}


@pytest.mark.parametrize(
    ("happens", "reason"),
    [
        (hold_on, "a worker needed longer than loading.timeout={limit:g} seconds"),
        (read_bad_memory, "a loader worker was killed by SIGSEGV each time it read it"),
        (lambda: os._exit(3), "a loader worker exited with code 3 each time it read it"),
    ],
)
def test_a_video_that_stops_a_worker_is_left_out(
    records: list[Record], happens: Callable[[], Any], reason: str, limit: float, caplog: pytest.LogCaptureFixture
) -> None:
    reason = reason.format(limit=limit)
    whole = clips(list(loader(records, lambda: None, workers=0)))
    measured = loader(records, happens, replace=False, timeout=limit if happens is hold_on else None)
    batches = list(measured)
    bad = records[5]
    assert [video for batch in batches for video in batch["id"]] == [r.id for r in records if r is not bad]
    assert [failure for batch in batches for failure in batch["failures"]] == [
        (bad.id, f"{bad.media['frames']}: {reason}")
    ]
    assert reason in caplog.text and caplog.text.count("counts as unreadable") == 1
    for video, clip in clips(batches).items():
        assert torch.equal(clip, whole[video])
    caplog.clear()
    assert clips(list(measured)).keys() == clips(batches).keys() and not caplog.text, "it is not tried again"


def test_in_training_another_record_takes_its_place(records: list[Record], limit: float) -> None:
    first, second = (list(loader(records, hold_on, timeout=limit, workers=workers)) for workers in (1, 2))
    assert [len(batch["id"]) for batch in first] == [2, 2, 2, 2]
    assert [batch["id"] for batch in first] == [batch["id"] for batch in second]
    assert records[5].id not in clips(first)


def test_a_worker_killed_from_outside_costs_no_video(
    records: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mark = tmp_path / "killed"

    def once() -> None:
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    batches = list(loader(records, once, replace=False))
    assert [video for batch in batches for video in batch["id"]] == [r.id for r in records]
    assert f"was killed by SIGKILL while it read {records[5].media['frames']}; reloading its batches" in caplog.text


def test_workers_that_are_killed_again_and_again_end_the_run(records: list[Record]) -> None:
    message = r"killed by SIGKILL while it read .*5.mp4, 2 times in this epoch; if memory ran out, lower data.workers"
    with pytest.raises(UserError, match=message):
        list(loader(records, lambda: os.kill(os.getpid(), signal.SIGKILL)))


def test_an_error_of_the_user_in_a_worker_is_one_line(records: list[Record]) -> None:
    def wrong() -> None:
        raise UserError("can't write the flow cache; set paths.cache")

    with pytest.raises(UserError) as caught:
        list(loader(records, wrong))
    assert str(caught.value) == "can't write the flow cache; set paths.cache"


def test_what_is_read_can_be_asked(records: list[Record], tmp_path: Path) -> None:
    asked = tmp_path / "asked"

    def read_until_then() -> None:
        while not asked.exists():
            time.sleep(0.01)

    measured = loader(records, read_until_then, workers=1)
    batches = iter(measured)
    next(batches)
    wait_for(lambda: measured.reading() == [records[5].id], "the video that is read")
    asked.touch()
    assert len(list(batches)) == 3 and measured.reading() == []


def test_time_in_which_the_run_is_suspended_does_not_count(records: list[Record], limit: float, tmp_path: Path) -> None:
    """Workers and the watch stop together: asleep for longer than the limit, the worker is not ended on waking."""
    mark, parent = tmp_path / "slept", os.getpid()

    def suspended() -> None:
        if not mark.exists():
            mark.touch()
            time.sleep(0.2)
            child = os.fork()
            if child == 0:  # wakes the run up again, as the shell does
                time.sleep(limit + 1)
                os.kill(parent, signal.SIGCONT)
                os._exit(0)
            os.kill(parent, signal.SIGSTOP)
            os.waitpid(child, 0)

    measured = loader(records, suspended, replace=False, timeout=limit, workers=1)
    batches = list(measured)
    assert mark.exists() and [video for batch in batches for video in batch["id"]] == [r.id for r in records]


def test_a_batch_that_is_lost_on_its_way_is_loaded_again(
    records: list[Record], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No file descriptor is left where the worker hands it over; named files need none of their own."""
    strategy = torch.multiprocessing.get_sharing_strategy()
    whole = clips(list(loader(records, lambda: None, workers=0)))

    plain = loading_dataset.collate

    def spend(samples: Any, kinds: Any) -> dict[str, Any]:
        """Every descriptor of the worker, once it has read."""
        most = 64 + max(
            map(int, os.listdir("/proc/self/fd"))
        )  # beyond those that this process of tests has opened before
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        if torch.multiprocessing.get_sharing_strategy() != "file_system":
            with contextlib.suppress(OSError):
                while True:
                    os.open(os.devnull, os.O_RDONLY)
        return plain(samples, kinds)

    monkeypatch.setattr(worker_recovery, "collate", spend)
    try:
        batches = list(loader(records, lambda: None, replace=False))
    finally:
        torch.multiprocessing.set_sharing_strategy(strategy)
    assert [video for batch in batches for video in batch["id"]] == [one.id for one in records]
    assert all(torch.equal(clip, whole[video]) for video, clip in clips(batches).items())
    assert "train: a batch from a loader worker was lost (too many open files, ulimit -n is" in caplog.text
    assert "reloading it; raise it, or lower data.workers" in caplog.text


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(24, "Too many open files"), r"too many open files, ulimit -n is \d+\), 3 times .*; raise it, or"),
        (RuntimeError("unable to write"), r"its memory can't be shared\), 3 times .*enlarge it"),
    ],
)
def test_batches_that_are_lost_time_and_again_end_the_run(
    records: list[Record], monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    strategy = torch.multiprocessing.get_sharing_strategy()
    plain = loading_dataset.collate

    def unsendable(samples: Any, kinds: Any) -> dict[str, Any]:
        return plain(samples, kinds) | {"bomb": Bomb(error)}

    monkeypatch.setattr(worker_recovery, "collate", unsendable)
    try:
        with pytest.raises(UserError, match=says):
            list(loader(records, lambda: None))
    finally:
        torch.multiprocessing.set_sharing_strategy(strategy)


class Bomb:
    """What can't be handed over."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


def test_workers_that_wait_while_a_batch_is_missing_are_started_again(
    records: list[Record], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody has said that the batch is lost: what is taken from the queue and never given on."""
    strategy = torch.multiprocessing.get_sharing_strategy()
    monkeypatch.setattr(worker_recovery, "QUIET", 3)
    started = FaultTolerantLoader._start

    def losing(self: FaultTolerantLoader) -> Any:
        batches = started(self)
        if not self._handed:
            monkeypatch.setattr(batches, "_try_get_data", lambda timeout=None: (False, None))
        return batches

    monkeypatch.setattr(FaultTolerantLoader, "_start", losing)
    try:
        batches = list(loader(records, lambda: None, replace=False))
    finally:
        torch.multiprocessing.set_sharing_strategy(strategy)
    assert [video for batch in batches for video in batch["id"]] == [one.id for one in records]
    assert "(the workers and the run block each other)" in caplog.text
