"""Stages that teach the fused output: what they learn is logged, kept, loaded again and resumed like a peer."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mml_lightning.config import data as config_data
from mml_lightning.config.settings import Settings
from mml_lightning.engine.evaluate import evaluate
from mml_lightning.engine.predict import Predictor, heads_of, load_entries
from mml_lightning.runs.fingerprint import config_that_decides_weights, evaluation
from mml_lightning.utils.errors import UserError
from mml_lightning.zoo.fusions import FILE, load_fusion
from tests.runs.test_resume import assert_equal_runs, train_until

Composed = Callable[..., tuple[Settings, list[str]]]
Train = Callable[..., dict[str, Any]]
Same = Callable[[Path, Path], None]
JOINT = ("stage=fusion", "modality=[rgb,flow]", "init=scratch")


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "logs/metrics.csv").open() as handle:
        return list(csv.DictReader(handle))


def logits(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "predictions/test.npz") as file:
        return {key.removeprefix("logits/"): file[key] for key in file.files if key.startswith("logits/")}


def test_weighted_fusion_is_taught_kept_and_loaded_again(train: Train, composed: Composed, tmp_path: Path) -> None:
    segments = ["sampling=segments", "sampling.num_segments=2", "sampling.clips=2", "sampling.val_clips=3"]
    words = [*JOINT, *segments, "sampling.stride=3", "views=segments10", "views.segments=4"]
    result = train(*words)
    run = tmp_path / "single/run"
    named = {key for row in rows(run) for key, value in row.items() if value and key.startswith("train/")}
    assert {"train/fused/ce", "train/fused/top1", "train/rgb/top1", "train/flow/top1"} <= named
    assert not {"train/rgb/ce", "train/flow/ce"} & named, "labels teach the fused output alone"
    assert list(result["metrics"]["test"]) == ["ensemble", "flow", "fused", "rgb"]
    share = result["fusion"]["learned"]["label"]
    assert sum(share.values()) == pytest.approx(1) and share["rgb"] != 0.5
    found = logits(run)
    assert found["fused"].shape[1] == 4
    expected = share["rgb"] * found["rgb"] + share["flow"] * found["flow"]
    np.testing.assert_allclose(found["fused"], expected, rtol=1e-4, atol=1e-6)

    beside = Path(result["peers"]["rgb"]["zoo"]).with_name(FILE)
    own, zoo = load_fusion(run / "peers" / FILE), load_fusion(beside)
    assert own["arch"] == zoo["arch"] and own["provenance"]["fingerprint"] == result["fingerprint"]
    again = evaluate(*composed(f"ckpt={run}", *words[1:], "fusion=weighted", program="eval", run="eval"))
    assert again["metrics"] == {"test": result["metrics"]["test"]}
    for ckpt in (beside.parent, run / "checkpoints/last.ckpt"):
        cfg, typed = composed(f"ckpt={ckpt}", *words[1:], "fusion=weighted", program="eval")
        entries = load_entries(cfg, typed, lambda: config_data.dataset(cfg, ["test"]))  # noqa: B023
        swapped = dict(reversed(entries.items()))
        dump = Predictor.of(cfg, swapped, heads_of(swapped)).score(config_data.dataset(cfg, ["test"]))["label"].dump()
        assert dump is not None and np.array_equal(dump.logits["fused"].numpy(), found["fused"]), "matched by name"
    other, _ = composed(f"ckpt={run}", "fusion=fc2", program="eval")
    with pytest.raises(UserError, match="they were trained with fusion=weighted of rgb and flow"):
        Predictor.of(other, entries, heads_of(entries))
    for entry in entries.values():
        entry.pop("fusion")
    with pytest.raises(UserError, match=r"has to be trained with them \(stage=fusion\)"):
        Predictor.of(cfg, entries, heads_of(entries))


@pytest.mark.parametrize(
    ("words", "calls"), [("fusion=random", 4), pytest.param("fusion=fc2", 2, marks=pytest.mark.slow)]
)
def test_a_cut_run_equals_a_whole_one(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_weights: Same, words: str, calls: int
) -> None:
    typed = (*JOINT, words, "callbacks.checkpoint_every_steps=1")
    train(*typed, run="whole")
    train_until(train, monkeypatch, "on_train_batch_start", calls, *typed, run="cut")
    train(*typed, f"resume={tmp_path}/single/cut", run="cut")
    whole, cut = tmp_path / "single/whole", tmp_path / "single/cut"
    assert_equal_runs(whole, cut, same_weights)
    one, other = (load_fusion(folder / "peers" / FILE)["state_dict"] for folder in (whole, cut))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_phases_train_the_fusion_alone_and_then_all(train: Train, tmp_path: Path) -> None:
    only = "{name: only, train: [fusion], epochs: 1}"
    train(*JOINT, "fusion=class_weighted", f"phases=[{only},{{name: all, epochs: 1}}]", "schedule.epochs=2")
    told = json.loads((tmp_path / "single/run/result.json").read_text())
    assert [one["train"] for one in told["phases"]] == [["fusion"], ["rgb", "flow", "fusion"]]
    assert told["fusion"]["learned"]["label"]["rgb"] != 0.5
    moved = {
        key for row in rows(tmp_path / "single/run") for key, v in row.items() if v and key.startswith("grad_norm")
    }
    assert moved <= {"grad_norm/rgb", "grad_norm/flow", "grad_norm/fusion"}


def test_what_teaches_nothing_is_refused(train: Train) -> None:
    with pytest.raises(UserError, match="fusion=weighted learns, and nothing teaches it: use stage=fusion"):
        train("stage=mml", "modality=[rgb,flow]", "init=scratch", "fusion=weighted")
    with pytest.raises(UserError, match="objective names fused, and the run fuses no outputs: choose fusion=weighted"):
        train(*JOINT, "fusion=none")
    with pytest.raises(UserError, match=r"labels=.* leaves flow with nothing to learn from"):
        train(*JOINT, "fusion=average", "objective.labels=[rgb]")
    with pytest.raises(UserError, match=r"phases\.0\.train: nothing teaches what the peers are fused to"):
        train(*JOINT, "objective.labels=all", "phases=[{name: one, train: [fusion]}]")
    with pytest.raises(UserError, match="fusion=max: renormalise=True means nothing to max"):
        train(*JOINT, "fusion=max", "fusion.renormalise=true")
    with pytest.raises(UserError, match=r"sampling=uniform has one clip of a video; use sampling=segments"):
        train(*JOINT, "sampling.clips=3")


def test_only_what_is_taught_decides_weights(composed: Composed) -> None:
    def decides(*words: str) -> dict[str, Any]:
        return config_that_decides_weights(composed(*words)[0].plain())

    mml = ("stage=mml", "modality=[rgb,flow]", "init=scratch")
    assert decides(*mml) == decides(*mml, "fusion=average"), "it is measured only"
    assert not {"labels", "clips", "val_clips", "bn_per_clip"} & {
        *decides(*mml)["objective"],
        *decides(*mml)["sampling"],
    }
    assert decides(*JOINT, "fusion=average") != decides(*JOINT, "fusion=max")
    measured = [
        evaluation(composed(*JOINT, f"fusion={name}")[0]) for name in ("average", "weighted", "random", "joint")
    ]
    assert all(one != other for n, one in enumerate(measured) for other in measured[:n])
    assert measured[0]["frames"]["fusion"] == "average"
