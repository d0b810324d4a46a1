"""What a run says that it will cost."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mml_lightning.backbones import tsm_resnet
from mml_lightning.backbones.cost import kept_bytes, kept_for_backward
from mml_lightning.config.compose import changed, compose
from mml_lightning.config.data import cheap, modalities, packed
from mml_lightning.engine.cost import conditions, disk_needed, earlier_runs, suggest_batch
from mml_lightning.training.advice import MEASURE, more_workers, of_speed, waiting
from mml_lightning.training.throughput import Cores
from mml_lightning.utils.result_file import write_json


def test_memory_is_counted_without_values() -> None:
    net = tsm_resnet("tiny", width=8)
    counted = kept_for_backward(net, (2, 4, 3, 32, 32))
    clip = torch.randn(2, 4, 3, 32, 32)
    assert counted == pytest.approx(kept_bytes(lambda: net.train()(clip), net), rel=0.35)


def test_the_second_run_is_told_by_the_first(
    train: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    short = ["schedule.epochs=1", "test=false", "trainer.limit_val_batches=1"]
    first = train(*short, run="first")
    told = next(line for line in caplog.messages if line.startswith("cost"))
    assert "estimated at MFU 40%, without data loading and validation" in told
    assert re.search(r"at least \d+ MB for weights and activations; \d+ MB of disk", told)
    caplog.clear()
    train(*short, run="second")
    told = next(line for line in caplog.messages if line.startswith("cost"))
    assert "as first" in told and first["speed"]["batch_size"] == 8
    seen = of_speed(first["speed"], cheap=True)  # the demo is kept in memory
    advised = [line for line in caplog.messages if line.startswith("advice")]
    assert advised == (
        [f"advice    first spent {seen.data_wait:.0%} of the time waiting for data: {waiting(seen)}"]
        * bool(more_workers(seen))
    )
    caplog.clear()
    train(*short, "data.batch_size=4", run="third")
    assert "estimated at MFU" in next(line for line in caplog.messages if line.startswith("cost"))


@pytest.mark.parametrize("words", [(), ("ema.decay=0.9", "checkpoint.export=best")])
def test_disk_is_told_as_it_is_used(
    train: Callable[..., dict[str, Any]],
    composed: Callable[..., tuple[Any, list[str]]],
    tmp_path: Path,
    words: tuple[str, ...],
) -> None:
    words = (*words, "schedule.epochs=2", "test=false", "backbone.net.width=32")
    result = train(*words)
    files = [*tmp_path.rglob("*.ckpt"), *tmp_path.rglob("*.pt")]
    kept = 3 if "checkpoint.export=best" in words else 2
    assert len(files) == kept + 2
    used = sum(file.stat().st_size for file in files)
    assert disk_needed(composed(*words)[0], result["peers"]["rgb"]["parameters"]) == pytest.approx(used, rel=0.15)


@pytest.fixture
def known(composed: Callable[..., tuple[Any, list[str]]]) -> Callable[..., str]:
    """known(**changes) -> conditions of an RGB and flow run; `changes` are of its config, "__" for a dot."""
    base, _ = composed("stage=mml", "modality=[rgb,flow]")

    def make(ranks: int = 1, frozen: tuple[str, ...] = (), **changes: Any) -> str:
        cfg = changed(base, {key.replace("__", "."): value for key, value in changes.items()})
        cohort: Any = SimpleNamespace(modalities=modalities(cfg), frozen=set(frozen))
        return conditions(cfg, cohort, ranks)

    return make


def test_runs_that_read_or_compute_otherwise_do_not_compare(known: Callable[..., str]) -> None:
    others: list[dict[str, Any]] = [
        {"data__reader___target_": "mml_lightning.data.records.readers.read_pack"},
        {"data__root": "elsewhere"},
        {"data__name": "other"},
        {"data__decoder": "pyav"},
        {"data__cache": "none"},
        {"data__batch_size": 4},
        {"transforms__reduced_decode": "auto"},
        {"transforms__short_side": 48},
        {"sampling__mode": "dense"},
        {"flow__on_the_fly": True},
        {"backbone__net__width": 16},
        {"step__checkpointing": True},
        {"trainer__precision": "bf16-mixed"},
        {"ranks": 2},
        {"frozen": ("flow",)},
    ]
    told = [known(), *(known(**other) for other in others)]
    assert len(set(told)) == len(told)


def test_runs_compare_whatever_their_workers_seed_and_rates_are(known: Callable[..., str]) -> None:
    other = known(data__workers=2, seed=1, optimizer__lr=0.5, schedule__epochs=9, test=False)
    assert other == known()


def test_runs_of_other_machines_do_not_compare(known: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    one = known()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert known() != one
    monkeypatch.undo()
    for name, other in (
        ("device_name", lambda device: "another"),
        ("instructions", lambda: "AVX"),
        ("cores", lambda: 3),
    ):
        monkeypatch.setattr(f"mml_lightning.engine.cost.{name}", other)
        assert known() != one
        monkeypatch.undo()


def test_a_pack_is_known_by_its_reader(hydra: None) -> None:
    assert packed(compose("train", ["data=pack", "data.root=somewhere"])) and not packed(compose("train", []))


def test_a_run_from_a_pack_is_not_advised_to_pack(
    train: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("mml_lightning.training.advice.WAITING", 0.0)  # any is too long
    monkeypatch.setattr("mml_lightning.training.throughput.cores", lambda: 64)
    monkeypatch.setattr(Cores, "used", lambda self: (60.0, 1.0))
    short = ["schedule.epochs=1", "test=false", "trainer.limit_val_batches=1", "data.cache=none"]
    train(*short, run="loose")
    assert any(line.startswith("speed") and MEASURE in line for line in caplog.messages)
    caplog.clear()
    monkeypatch.setattr("mml_lightning.config.data.packed", lambda cfg: True)
    train(*short, run="again")
    told = [line for line in caplog.messages if line.startswith(("advice", "speed"))]
    assert len(told) == 2 and told[0].startswith("advice    loose spent") and "pack" not in " ".join(told)
    assert "data.workers=" in told[0]


def test_data_that_a_pack_would_not_make_cheaper(hydra: None) -> None:
    assert cheap(compose("train", ["data.cache=ram"])) and not cheap(compose("train", ["data.cache=none"]))
    assert cheap(compose("train", ["data=pack", "data.root=somewhere", "data.cache=none"]))


@pytest.mark.parametrize(
    ("gain", "precision", "told"),
    [
        (0.05, "bf16-mixed", 1),
        (0.05, "16-mixed", 1),
        (0.05, "bf16-true", 1),
        (2.0, "bf16-mixed", 0),
        (0.05, "32-true", 0),
    ],
)
def test_a_precision_that_this_device_emulates_is_warned_of_before_training(
    gain: float,
    precision: str,
    told: int,
    train: Callable[..., dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("mml_lightning.training.throughput.gain", lambda device, dtype, dimensions: gain)
    train("schedule.epochs=1", "trainer.limit_train_batches=1", "test=false", f"trainer.precision={precision}")
    found = [line for line in caplog.messages if line.startswith("warning")]
    words = f"warning   trainer.precision={precision} is slow on this device, convolutions take 20 times as long"
    assert len(found) == told and all(line.startswith(words) for line in found)
    lines = [line.split()[0] for line in caplog.messages]
    assert not told or lines.index("cost") < lines.index("warning") < lines.index("epoch")


def test_a_run_that_does_not_tell_its_conditions_does_not_count(tmp_path: Path) -> None:
    whole = {"conditions": "b", "seconds_per_step": 0.1, "data_wait": 0.5, "workers": 0, "precision": "32-true"}
    damaged = {"part": {"conditions": "b"}, "words": {**whole, "data_wait": "much"}, "list": {**whole, "mfu": [1]}}
    for name, speed in {"old": {"data_wait": 0.5}, "other": whole, "none": None, **damaged}.items():
        (tmp_path / "single" / name).mkdir(parents=True)
        write_json(tmp_path / "single" / name / "result.json", {"speed": speed})
    assert not list(earlier_runs(tmp_path, "a"))
    assert list(earlier_runs(tmp_path, "b")) == [("other", whole)]


@pytest.mark.parametrize(
    ("batch", "free", "words"),
    [
        (64, 1e10, ""),
        (64, None, ""),
        (64, 1700e6, ""),  # 2.5 times what is kept at the most
        (64, 1699e6, "a batch of 64 may take more memory than the 1.7 GB that are free: data.batch_size=32 "),
        (64, 931e6, "a batch of 64 takes more memory than the 931 MB that are free: data.batch_size=32 "),  # 1.3 times
        (64, 500e6, "data.batch_size=16 trainer.accumulate_grad_batches=4 (batch norm then sees 16 clips)"),
        (7, 150e6, "data.batch_size=1 trainer.accumulate_grad_batches=7"),
        (64, 105e6, "use a smaller backbone, transforms.output or sampling.num_segments"),
    ],
)
def test_batch_that_would_fit(batch: int, free: float | None, words: str) -> None:
    told = suggest_batch(batch, 100e6, 10e6, free)
    assert words in told and bool(words) == bool(told)


def test_a_batch_in_parts_and_blocks_computed_twice_are_counted() -> None:
    told = suggest_batch(64, 100e6, 10e6, 500e6, parts=2, checkpointing=False)
    assert told.endswith("data.batch_size=16 trainer.accumulate_grad_batches=8 (batch norm then sees 16 clips)")
    assert "step.checkpointing=true" in suggest_batch(64, 100e6, 10e6, 500e6)


def test_suggestions_are_said_before_the_run_starts(
    train: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("mml_lightning.utils.device.free_memory", lambda: 4e6)
    train("schedule.epochs=1", "test=false", "loading.memory_gb=4")
    told = [line for line in caplog.messages if line.startswith("advice")]
    assert len(told) == 1 and "takes more memory than the 4 MB that are free: data.batch_size=" in told[0]
