"""Speed of a run: what counts, and which switch is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mml_lightning.backbones import tsm_resnet
from mml_lightning.modalities import Modality
from mml_lightning.objectives import Objective
from mml_lightning.training import throughput
from mml_lightning.training.arithmetic import training_operations
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.csv_logger import MetricsLog
from mml_lightning.training.optimiser_plan import OptimiserPlan
from mml_lightning.training.phases import Phase, one_phase
from mml_lightning.training.throughput import Throughput, half_gain
from mml_lightning.utils.gpu_idle import Idle

BATCH: dict[str, Any] = {
    "clips": {m: torch.zeros(2, 1, 4, c, 32, 32, dtype=torch.uint8) for m, c in (("rgb", 3), ("flow", 10))}
}
RGB = Modality("rgb", "frames", 1, 3, [0.5], [0.5])
FLOW = Modality("flow", "flow", 5, 2, [0.5], [0.5])


def timed(*marks: float, batch: dict[str, Any] = BATCH) -> Throughput:
    """Epoch start, then start and end of batches, at `marks` seconds."""
    clock = iter(marks)
    speed = Throughput(batch_size=8, now=lambda: next(clock))
    speed.on_train_epoch_start(None, None)  # type: ignore[arg-type]
    for step in range(len(marks) // 2):
        speed.on_train_batch_start(None, None, batch, step)  # type: ignore[arg-type]
        speed.on_train_batch_end(None, None, None, batch, step)  # type: ignore[arg-type]
    return speed


def cohort(frozen: frozenset[str] = frozenset()) -> Any:
    peers = {m.name: tsm_resnet("tiny", width=8, in_channels=m.channels) for m in (RGB, FLOW)}
    modalities = {m.name: m for m in (RGB, FLOW)}
    return SimpleNamespace(peers=peers, modalities=modalities, phases=[phase(frozen)], device=torch.device("cpu"))


def phase(frozen: frozenset[str] = frozenset()) -> Phase:
    plan = OptimiserPlan(torch.optim.SGD, "plain", 0.1, 0.0, lambda _: 1.0, epochs=1)
    return one_phase(Objective(["rgb", "flow"], frozen=sorted(frozen)), plan)


def test_waiting_is_told_from_computing() -> None:
    speed = timed(10, 13, 14, 15, 20)
    assert (speed.seconds, speed.waited, speed.videos) == (10, 4, 16)
    assert speed.per_second() == 1.6
    speed.now = lambda: 1000.0  # whatever lies between epochs is no training
    speed.on_train_epoch_start(None, None)  # type: ignore[arg-type]
    assert speed.seconds == 10


def test_a_validation_within_an_epoch_is_no_waiting() -> None:
    speed = timed(10, 13, 14)
    speed.now = iter([30, 31, 33]).__next__
    speed.on_validation_end(None, None)  # type: ignore[arg-type]
    speed.on_train_batch_start(None, None, BATCH, 1)  # type: ignore[arg-type]
    speed.on_train_batch_end(None, None, None, BATCH, 1)  # type: ignore[arg-type]
    assert (speed.seconds, speed.waited) == (7, 4)


class Rows:
    """A logger."""

    def __init__(self) -> None:
        self.rows: list[tuple[dict[str, Any], int]] = []

    def log_metrics(self, row: dict[str, Any], step: int) -> None:
        self.rows.append((row, step))


def test_dashboards_get_the_speed_of_every_epoch(tmp_path: Path) -> None:
    board, speed = Rows(), timed(10, 13, 14, 15, 20)
    loops = SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=2))
    trainer: Any = SimpleNamespace(loggers=[MetricsLog(tmp_path), board], current_epoch=0, fit_loop=loops)
    speed.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    assert board.rows == [({"speed/clips_per_s": 1.6, "speed/data_wait": 0.4, "epoch": 0}, 2)]
    assert list(tmp_path.iterdir()) == [], "the log of a seed is the same on every machine"
    speed.now = lambda: 20.0
    speed.on_train_epoch_start(None, None)  # type: ignore[arg-type]
    speed.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    assert speed.of_epoch() is None and len(board.rows) == 1


def test_speed_of_the_latest_steps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches a step, a row every second step, across an epoch's end; the line of the first rank alone."""
    caplog.set_level("INFO")
    board, marks = Rows(), iter([*range(9), 50, *(100, 103, 104), 200])
    speed = Throughput(batch_size=8, every_steps=2, say=True, now=lambda: next(marks))
    speed._operations = {"": 3e9}
    monkeypatch.setattr(throughput, "arithmetic_peak", lambda device, dtype: 6e9)
    loops = SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=7))
    run: Any = SimpleNamespace(loggers=[MetricsLog(tmp_path), board], current_epoch=0, fit_loop=loops, max_epochs=3)
    run.global_step, run.is_global_zero, run.num_training_batches = 4, True, 20
    run.precision, run.world_size = "32-true", 2
    module: Any = Cohort.__new__(Cohort)
    module.__dict__.update(_device=torch.device("cpu"), phase=phase())
    speed.on_train_start(run, module)

    def batches(*steps: int) -> None:
        for batch, step in enumerate(steps, 8):
            speed.on_train_batch_start(run, module, BATCH, batch)
            run.global_step = step
            speed.on_train_batch_end(run, module, None, BATCH, batch)

    batches(4, 5, 5, 6)
    row = {"clips_per_s": 4.0, "data_wait": 0.5, "seconds_per_step": 4.0, "mfu": 1.0}
    assert board.rows == [({f"speed/{key}": value for key, value in row.items()} | {"epoch": 0}, 7)]
    line = "epoch 1/3  step 12/20  |  4 clips/s (50% waiting for data), 100% MFU, 4 s/step"
    assert caplog.messages == [line]
    speed.on_train_epoch_start(run, module)
    batches(8)
    row = {"clips_per_s": 2.0, "data_wait": 0.75, "seconds_per_step": 2.0, "mfu": 0.5}
    assert board.rows[1:] == [({f"speed/{key}": value for key, value in row.items()} | {"epoch": 0}, 7)]
    assert list(tmp_path.iterdir()) == [], "the log of a seed is the same on every machine"
    run.is_global_zero, speed.now = False, lambda: 300.0
    batches(9, 10)
    assert len(board.rows) == len(caplog.messages) == 2


class Queue:
    """A GPU and its host: work is put into a queue and done one after the other."""

    def __init__(self) -> None:
        self.host = self.done = 0.0

    def work(self, seconds: float) -> None:
        self.done = max(self.done, self.host) + seconds

    def event(self) -> Any:
        event = SimpleNamespace(at=None)

        def record() -> None:
            event.at = max(self.done, self.host)

        def synchronize() -> None:
            self.host = max(self.host, event.at)

        event.record, event.synchronize = record, synchronize
        event.query = lambda: event.at <= self.host
        event.elapsed_time = lambda later: 1000 * (later.at - event.at)
        return event


@pytest.mark.parametrize(("loader", "waited"), [(0.5, 0.5), (4.0, 4.0), (11.0, 11 + 4 * 1.0)])
def test_a_gpu_that_has_work_does_not_wait(loader: float, waited: float) -> None:
    """Steps take it 10 seconds, the host puts them into the queue in 1: only the first batch makes it wait, or a loader
    that takes more than 9 more. The epoch ends when the queue is empty."""
    queue = Queue()
    speed = Throughput(batch_size=8, now=lambda: queue.host)
    speed._idle = Idle(queue.event)
    trainer: Any = SimpleNamespace(is_last_batch=False)
    speed.on_train_epoch_start(trainer, None)  # type: ignore[arg-type]
    for step in range(5):
        queue.host += loader
        speed.on_train_batch_start(trainer, None, BATCH, step)  # type: ignore[arg-type]
        queue.host += 1
        queue.work(10)
        trainer.is_last_batch = step == 4
        speed.on_train_batch_end(trainer, None, None, BATCH, step)  # type: ignore[arg-type]
    assert speed.waited == pytest.approx(waited)
    assert speed.seconds == pytest.approx(queue.done)


def test_counting_the_arithmetic_of_a_step_is_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue()
    speed = Throughput(batch_size=8, every_steps=1, now=lambda: queue.host)
    speed._idle = Idle(queue.event)

    def tell(*_: object) -> None:
        queue.host += 30
        queue.work(2)

    monkeypatch.setattr(speed, "_tell", tell)
    trainer: Any = SimpleNamespace(is_last_batch=False, is_global_zero=True, global_step=1)
    speed.on_train_epoch_start(trainer, None)  # type: ignore[arg-type]
    for step in range(2):
        queue.host += 1
        speed.on_train_batch_start(trainer, None, BATCH, step)  # type: ignore[arg-type]
        queue.work(10)
        trainer.is_last_batch = step == 1
        speed.on_train_batch_end(trainer, None, None, BATCH, step)  # type: ignore[arg-type]
    assert speed.waited == pytest.approx(1), "of the first batch; the second came while it still counted"


def test_nothing_trained_has_no_speed() -> None:
    speed = Throughput(8)
    assert speed.per_second() is None
    assert speed.summary(None, None) is None  # type: ignore[arg-type]


def test_summary_of_a_network_that_is_counted() -> None:
    net = cohort()
    del net.peers["flow"]
    told = timed(0, 1, 2, 3, 4).summary(SimpleNamespace(precision="32-true", world_size=1, num_nodes=1), net)  # type: ignore[arg-type]
    assert told is not None
    assert (told["clips_per_s"], told["data_wait"], told["seconds_per_step"]) == (4, 0.5, 2)
    assert told["mfu"] == pytest.approx(4 * told["gflop_per_clip"] / told["peak_gflops"], rel=0.05, abs=1e-4)
    assert told["peak_memory_mb"] > 50


def test_the_device_is_the_one_that_it_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    # at the end Lightning moves the networks to the CPU
    batch = {"clips": {name: clip.to("meta") for name, clip in BATCH["clips"].items()}}
    speed, asked = timed(0, 1, 2, batch=batch), []
    for name, told in (("arithmetic_peak", 1e9), ("gain", 2.0), ("peak_memory", 2**20), ("device_name", "it")):
        monkeypatch.setattr(throughput, name, lambda device, *_, told=told: asked.append(device.type) or told)
    told = speed.summary(SimpleNamespace(precision="32-true", world_size=1, num_nodes=1), cohort())  # type: ignore[arg-type]
    assert told is not None and told["device"] == "it" and asked == ["meta"] * 4


def test_operations_of_resnet50_are_the_published_ones() -> None:
    with torch.device("meta"):
        net = tsm_resnet(50)
    one = SimpleNamespace(peers={"rgb": net}, modalities={"rgb": RGB}, phases=[phase()])
    assert training_operations(one, {"rgb": (8, 3, 224, 224)}) / 3e9 == pytest.approx(65.8, abs=0.7)  # type: ignore[arg-type]


def test_frozen_networks_cost_a_forward_pass() -> None:
    shapes = {"rgb": (4, 3, 32, 32), "flow": (4, 10, 32, 32)}
    both, teaching = training_operations(cohort(), shapes), training_operations(cohort(frozenset(["flow"])), shapes)
    alone = SimpleNamespace(**{**vars(cohort()), "peers": {"rgb": cohort().peers["rgb"]}})
    rgb = training_operations(alone, shapes)  # type: ignore[arg-type]
    assert teaching - rgb == pytest.approx((both - rgb) / 3)


def test_the_first_batches_of_epochs_are_waited_for_apart() -> None:
    """10 + 1 seconds of the epoch's first batch, 1 + 1 of each later one; of a later epoch, too."""
    speed = timed(0, 10, 11, 12, 13)
    clock = iter([20, 30, 31, 32, 33])
    speed.now = lambda: next(clock)
    speed.on_train_epoch_start(None, None)  # type: ignore[arg-type]
    for step in range(2):
        speed.on_train_batch_start(None, None, BATCH, step)  # type: ignore[arg-type]
        speed.on_train_batch_end(None, None, None, BATCH, step)  # type: ignore[arg-type]
    assert (speed.waited, speed.first_waited, speed.seconds) == (22, 20, 26)
    told = speed._of_cores(SimpleNamespace(world_size=1, num_nodes=1))  # type: ignore[arg-type]
    assert told["steady"] == round(2 / 6, 4) and told["room"] is None, "nobody looked at the cores"


@pytest.mark.parametrize(
    ("cores", "threads", "workers", "ranks", "idle", "room"),
    [
        (2, 2, 0, 1, 0.4, 0),  # the threads compute on both
        (2, 1, 0, 1, 1.0, 1),
        (2, 1, 0, 1, 0.1, 0),  # somebody else has the other one
        (16, 4, 2, 1, 9.8, 10),
        (16, 4, 2, 1, 12.0, 10),
        (16, 4, 0, 2, 8.0, 4),  # for each rank
        (4, 8, 0, 1, 3.0, 0),
    ],
)
def test_room_for_workers(
    cores: int, threads: int, workers: int, ranks: int, idle: float, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    speed = timed(0, 1, 2)
    speed.workers, speed._used = workers, (idle, 1.0)
    assert speed._of_cores(SimpleNamespace(world_size=ranks, num_nodes=1))["room"] == room  # type: ignore[arg-type]


def test_a_gain_is_measured_where_something_follows_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[torch.dtype, int]] = []
    monkeypatch.setattr(throughput, "gain", lambda device, dtype, dims: asked.append((dtype, dims)) or 2.0)
    cpu, flat, deep = torch.device("cpu"), [torch.nn.Conv2d(1, 1, 1)], [torch.nn.Conv3d(1, 1, 1)]
    assert half_gain(cpu, "32-true", 0.5, flat) == half_gain(cpu, "16-true", None, deep) == 2.0
    assert half_gain(cpu, "16-mixed", None, flat) == half_gain(cpu, "bf16-true", 0.01, flat) == 2.0
    assert asked == [(torch.bfloat16, 2), (torch.float16, 3), (torch.bfloat16, 2), (torch.bfloat16, 2)]
    assert half_gain(cpu, "32-true", 0.1, flat) is half_gain(cpu, "32-true", None, flat) is None
    assert half_gain(cpu, "64-true", 0.9, flat) is None and len(asked) == 4


def test_a_run_tells_its_speed(train: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    often = ("callbacks=throughput", "callbacks.speed_every_steps=2")
    result = train("schedule.epochs=1", "test=false", "trainer.limit_val_batches=1", *often)
    lines = [line for line in caplog.messages if line.startswith("epoch 1/1  step ")]
    assert [line.partition("  |  ")[0] for line in lines] == ["epoch 1/1  step 2/3"]
    assert re.search(r"[\d.]+ clips/s \(\d+% waiting for data\), \d+% MFU, [\d.]+ s/step$", lines[0])
    speed = result["speed"]
    assert speed["clips_per_s"] == result["clips_per_s"] and 0 < speed["data_wait"] < 1 and speed["mfu"] > 0
    assert "waiting for data" in caplog.text
    assert speed["room"] in (0, 1) and 0 <= speed["others"] <= 1 and speed["cores"] >= 1 and speed["instructions"]
