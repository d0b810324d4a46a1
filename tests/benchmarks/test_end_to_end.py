"""`mml bench end_to_end`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mml_lightning.benchmarks import end_to_end
from mml_lightning.cli.main import main
from mml_lightning.utils.gpu_idle import Idle
from tests.training.test_throughput import Queue

SMALL = [
    *("backbone=tiny", "backbone.net.width=8", "transforms.output=32", "transforms.short_side=36"),
    "sampling.num_segments=4",
]
LIMITS = (
    "bottleneck",
    "data loading takes",
    "kernels are too small for this device",
    "on an idle machine",
)  # what is said of some run


@pytest.mark.skipif(importlib.util.find_spec("PIL") is None, reason="the baseline reads with Pillow")
def test_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    assert main(["bench", "end_to_end", *SMALL, "--videos", "2", "--rounds", "1", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert any(limit in printed for limit in LIMITS)
    plain, ours = json.loads(file.read_text())["tables"][0]["rows"]
    assert "Pillow" in plain["way"] and "pack" in ours["way"]
    for row in (plain, ours):
        assert row["clips_per_s"] > 0 and 0 < row["data_wait"] < 1


def test_workers_read_a_pack_again_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, words = tmp_path / "rows.json", ["data.workers=2", "stage=ce", "modality=[rgb]", "--without-baseline"]
    assert main(["bench", "end_to_end", *SMALL, *words, "--videos", "1", "--clips", "6", "--json", str(file)]) == 0
    (told,) = json.loads(file.read_text())["tables"]
    assert any(limit in told["sentence"] for limit in LIMITS) and 0 <= told["rows"][0]["data_wait"] < 1
    assert main(["bench", "end_to_end", *SMALL, *words, "--clips", "3"]) == 2
    assert "a pass over 3 clips is too short; use --clips 4 or more" in capsys.readouterr().err


def test_a_gpu_waits_while_it_has_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes it 10 seconds, the host puts it into the queue in 1, and the loader takes 11. Of five steps the
    first one does not count, and the queue is empty when it is over."""
    queue = Queue()
    monkeypatch.setattr(end_to_end, "Idle", lambda: Idle(queue.event))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: setattr(queue, "host", max(queue.host, queue.done)))
    passes = end_to_end.Passes(SimpleNamespace(data=SimpleNamespace(workers=2)), torch.device("cuda"))
    passes.now = lambda: queue.host
    for _ in range(2):  # the first one only makes warm
        passes.on_train_epoch_start()
        for _ in range(5):
            queue.host += 11
            passes.on_train_batch_start()
            queue.host += 1
            queue.work(10)
            passes.on_train_batch_end()
        passes.on_train_epoch_end()
    assert passes.found == [(4, 11 + 4 + 3 * 11 + 10, 11 + 3 * 1)] * 2
    assert passes.seconds_per_step() == 58 / 4 and passes.waiting() == 14 / 58


def test_without_pillow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["bench", "end_to_end", *SMALL]) == 2
    assert "pip install pillow" in capsys.readouterr().err
