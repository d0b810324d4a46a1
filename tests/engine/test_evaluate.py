"""eval.py: a run directory, a checkpoint, a zoo file or an alias, measured with any views."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mml_lightning.cli.main import main
from mml_lightning.config.compose import compose
from mml_lightning.config.settings import Settings
from mml_lightning.engine.evaluate import evaluate
from mml_lightning.utils.errors import UserError

Composed = Callable[..., tuple[Settings, list[str]]]
Train = Callable[..., dict[str, Any]]


@pytest.fixture
def measure(composed: Composed, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    return lambda *overrides: evaluate(*composed(*overrides, program="eval", run="eval"))


def logits(folder: Path, split: str = "test") -> dict[str, np.ndarray]:
    with np.load(folder / "predictions" / f"{split}.npz") as scores:
        return {key: scores[key] for key in scores.files}


def test_the_views_of_training_give_the_numbers_of_training(
    train: Train, measure: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    result = train("stage=mml", "modality=[rgb,flow]", "schedule.epochs=1", "views=uniform2")
    run = tmp_path / "single" / "run"
    scores = logits(run)
    for ckpt in (run, run / "checkpoints" / "last.ckpt", result["zoo"]):
        measured = measure(f"ckpt='{ckpt}'", "views=uniform2")
        assert measured["metrics"] == {"test": result["metrics"]["test"]}, ckpt
        assert (measured["stage"], measured["views"], measured["status"]) == ("eval", "uniform2", "completed")
        again = logits(tmp_path / "single" / "eval")
        assert all(np.array_equal(scores[key], again[key]) for key in scores), ckpt
    measured = measure(f"ckpt='{run}'", "split=val")
    assert measured["metrics"] == {"val": result["metrics"]["val"]}
    one = measure(f"ckpt='{run / 'peers/flow.pt'}'", "views=uniform2")
    assert one["metrics"]["test"] == {"flow": result["metrics"]["test"]["flow"]}


def test_a_checkpoint_that_no_run_stands_beside_is_measured_as_its_networks_were_trained(
    trained: Path, small: list[str], hydra: None, tmp_path: Path
) -> None:
    """As one of a Trainer of the user's: it is whole, and the crops and segments are its own, not those of conf/."""
    file = tmp_path / "alone.ckpt"
    file.write_bytes((trained / "checkpoints" / "last.ckpt").read_bytes())
    of_training = ("sampling.", "transforms.", "schedule.", "backbone.", "data.batch_size")
    words = [word for word in small if not word.startswith(of_training)]
    words += [f"paths.root={tmp_path}", f"ckpt={file}", "modality=[rgb,flow]"]
    measured = evaluate(compose("eval", [*words, f"paths.output_dir={tmp_path / 'eval'}"]), words)
    assert measured["limited"] == []
    before, again = logits(trained), logits(tmp_path / "eval")
    assert all(np.array_equal(before[f"logits/{peer}"], again[f"logits/{peer}"]) for peer in ("rgb", "flow"))
    chosen = [*words, "sampling.num_segments=2"]
    measured = evaluate(compose("eval", [*chosen, f"paths.output_dir={tmp_path / 'two'}"]), chosen)
    assert measured["evaluation"]["frames"]["num_segments"] == 2


def test_more_views(train: Train, measure: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    train("schedule.epochs=1", "trainer=smoke")
    run = tmp_path / "single" / "run"
    for views, count in (("center", 1), ("uniform2", 2), ("uniform2_dense1_full", 3), ("dense10x3", 30)):
        assert measure(f"ckpt={run}", f"views={views}")["views"] == views
        assert logits(tmp_path / "single/eval")["logits/rgb"].shape == (11, count, 10)


def test_a_part_of_a_split_is_marked(train: Train, measure: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    train("schedule.epochs=1", "test=false")
    ckpt = f"ckpt={tmp_path}/single/run"
    part = measure(ckpt, "split=val", "trainer.limit_test_batches=1", "data.eval_batch_size=4")
    assert part["measured"]["val"]["videos"] == 4 and part["limited"] == ["trainer.limit_test_batches=1"]
    assert measure(ckpt, "split=val", "trainer.limit_val_batches=1", "data.eval_batch_size=4")["limited"] == []
    for limit, said in (("0", "nothing would be evaluated"), ("0.01", "leaves none of")):
        with pytest.raises(UserError, match=said):
            measure(ckpt, f"trainer.limit_test_batches={limit}")


def test_alias_names_the_networks_of_a_stage(train: Train, measure: Callable[..., dict[str, Any]]) -> None:
    own = ("sampling.shared=false", "schedule.epochs=1")  # a shared draw depends on the shortest source
    rgb = train(*own, run="rgb")
    flow = train("modality=flow", *own, run="flow")
    assert measure("ckpt=ce", *own)["metrics"]["test"]["rgb"] == rgb["metrics"]["test"]["rgb"]
    both = measure("ckpt=own", "modality=[rgb,flow]", *own)["metrics"]["test"]
    assert (both["rgb"], both["flow"]) == (rgb["metrics"]["test"]["rgb"], flow["metrics"]["test"]["flow"])
    assert "ensemble" in both
    with pytest.raises(UserError, match=r"was never trained; make it with: python train.py stage=ml"):
        measure("ckpt=ml")


def test_a_validation_split_needs_no_test_split(train: Train, composed: Composed, demo: Path, tmp_path: Path) -> None:
    """Something-Something's test labels are not public."""
    root = tmp_path / "without_answers"
    (root / "annotations").mkdir(parents=True)
    (root / "videos").symlink_to(demo / "data" / "videos")
    for name in ("labels", "train", "validation", "test"):
        (root / "annotations" / f"{name}.json").symlink_to(demo / "data" / "annotations" / f"{name}.json")
    reader = "data.reader._target_=mml_lightning.data.records.readers.read_ssv2"
    plain = ["~data.reader.train", "~data.reader.val", "~data.reader.test", reader, f"data.root={root}"]
    with pytest.raises(UserError, match="11 of 11 videos of the test split have no label; set test=false"):
        train(*plain)
    result = train(*plain, "test=false", "schedule.epochs=1")
    assert set(result["metrics"]) == {"val"}
    cfg, typed = composed(*plain, f"ckpt={tmp_path / 'single/run'}", "split=val", program="eval", run="eval")
    assert evaluate(cfg, typed)["metrics"] == result["metrics"]
    cfg, typed = composed(*plain, f"ckpt={tmp_path / 'single/run'}", program="eval", run="submitted")
    measured = evaluate(cfg, typed)
    assert measured["status"] == "completed" and measured["metrics"] == {} and measured["unreadable"] == {"test": {}}
    scores, out = logits(tmp_path / "single/submitted"), tmp_path / "test.csv"
    assert (scores["target"] == -1).all() and scores["logits/rgb"].shape == (11, 1, 10)
    assert main(["score", str(tmp_path / "single/submitted"), "--submission", "ssv2", "--out", str(out)]) == 0
    lines = [line.split(";") for line in out.read_text().splitlines()]
    best = np.argsort(-scores["logits/rgb"][:, 0], axis=1)[:, :5]
    assert lines == [[video, *map(str, row)] for video, row in zip(scores["ids"], best.tolist(), strict=True)]


def test_pipeline_and_unfinished_run_say_what_to_give(
    train: Train, measure: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    from mml_lightning.utils.result_file import write_json

    result = train("schedule.epochs=1")
    parent = tmp_path / "single" / "pipeline"
    (parent / "1_ce").mkdir(parents=True)
    write_json(parent / "result.json", {"pipeline": "mml"})
    with pytest.raises(UserError, match="is a pipeline; give one of its steps: 1_ce"):
        measure(f"ckpt={parent}")
    write_json(parent / "1_ce" / "result.json", {**result, "reused": True})
    assert measure(f"ckpt={parent / '1_ce'}")["status"] == "completed"
    (tmp_path / "begun").mkdir()
    with pytest.raises(UserError, match=r"did not finish; continue it with python train\.py resume="):
        measure(f"ckpt={tmp_path / 'begun'}")


def test_other_segments_than_in_training_are_said(
    train: Train, measure: Callable[..., dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train("schedule.epochs=1", "trainer=smoke")
    measure(f"ckpt={tmp_path / 'single/run'}", "sampling.num_segments=8")
    assert "trained with 4 segments, it is evaluated with 8" in caplog.text
