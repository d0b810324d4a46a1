"""stage=adamml on encoded clips: what each phase teaches; its policy is kept, loaded again and skips for real."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mml_lightning as mml
from mml_lightning.config.settings import Settings
from mml_lightning.engine import predict_files
from mml_lightning.engine.evaluate import evaluate
from mml_lightning.utils.errors import UserError
from mml_lightning.zoo.fusions import FILE, load_fusion
from tests.runs.test_resume import assert_equal_runs, train_until

Composed = Callable[..., tuple[Settings, list[str]]]
Train = Callable[..., dict[str, Any]]
Same = Callable[[Path, Path], None]
SEGMENTS = ("sampling=segments", "sampling.num_segments=2", "sampling.clips=2", "sampling.val_clips=3")
SEEN = (*SEGMENTS, "sampling.stride=3", "views=segments10", "views.segments=3")
POLICY = ("fusion=adamml_tiny", "fusion.policy.size=16", "fusion.policy.hidden=8", "fusion.policy.memory=4")
WORDS = ("stage=adamml", "modality=[rgb,flow]", "init=scratch", *POLICY, *SEEN, "schedule.epochs=4")


def logits(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "predictions/test.npz") as file:
        return {key.removeprefix("logits/"): file[key] for key in file.files if key.startswith("logits/")}


def test_policies_are_taught_in_their_phase_kept_and_skip_for_real(
    train: Train, composed: Composed, tmp_path: Path
) -> None:
    result = train(*WORDS)
    run = tmp_path / "single/run"
    with (run / "logs/metrics.csv").open() as handle:
        rows = [row for row in csv.DictReader(handle) if row.get("train/fused/use_rgb")]
    assert [bool(row["train/fused/efficiency"]) for row in rows] == [False, False, True, False]
    used = {name: result["metrics"]["test"]["fused"][f"use_{name}"] for name in ("rgb", "flow")}
    assert result["cost"]["segments"] == 3 and result["cost"]["rates"] == pytest.approx(used, abs=1e-4)
    kept = load_fusion(run / "peers" / FILE)
    assert kept["gate"]["looks_at"] == {"rgb": "rgb", "flow": "flow"}
    assert any(key.startswith("gate.") for key in kept["state_dict"])

    found = {}
    for skip in ("mask", "real"):
        words = (f"ckpt={run}", *SEEN, "fusion=adamml_tiny", f"fusion.skip={skip}")
        again = evaluate(*composed(*words, program="eval", run=skip))
        assert again["metrics"]["test"]["fused"]["use_rgb"] == pytest.approx(used["rgb"], abs=1e-4)
        found[skip] = logits(Path(again["run_dir"]) if "run_dir" in again else tmp_path / "single" / skip)
    assert set(found["real"]) == {"fused"} and {"rgb", "flow"} < set(found["mask"])
    np.testing.assert_allclose(found["real"]["fused"], found["mask"]["fused"], atol=1e-6)

    predictor = mml.load(run)  # scores of another policy are not continued
    assert predictor.gate is not None
    known = predict_files.identity(predictor, [])
    with torch.no_grad():
        next(predictor.gate.parameters()).add_(1.0)
    assert predict_files.identity(predictor, [])["weights"] != known["weights"]


@pytest.mark.slow
@pytest.mark.parametrize("calls", [2, 4, 6, 8])
def test_a_run_that_is_cut_in_any_phase_equals_a_whole_one(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_weights: Same, calls: int
) -> None:
    typed = (*WORDS, "callbacks.checkpoint_every_steps=1")
    train(*typed, run="whole")
    train_until(train, monkeypatch, "on_train_batch_start", calls, *typed, run="cut")
    run = tmp_path / "single/cut"
    train(*typed, f"resume={run}", run="cut")
    assert_equal_runs(tmp_path / "single/whole", run, same_weights)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fusion.policy.feedback=x",), "fusion.policy: feedback=x is unknown"),
        (("objective.efficiency.weights={rgb: 1.0}",), "must give a weight for each peer"),
        (("fusion.skip=real",), "a training run measures every peer"),
        (("+fusion.proxy.flow=rgbdiff",), r"the run does not read rgbdiff: use modality=\[rgb,flow,rgbdiff\]"),
        (("phases.1.alternate=true",), "takes turns|alternate"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_written(
    train: Train, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        train(*WORDS, *(f"+{word}" if "alternate" in word else word for word in words))
    assert not (tmp_path / "single/run").exists()
