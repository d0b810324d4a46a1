"""A Predictor gives what eval.py measures, and leaves no run behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mml_lightning.config import data as config_data
from mml_lightning.config.settings import Settings
from mml_lightning.data.records.records import Record
from mml_lightning.engine.evaluate import evaluate
from mml_lightning.engine.predict import Predictor, heads_of, load_entries
from mml_lightning.runs.result import nested_metrics
from mml_lightning.utils.errors import UserError

Composed = Callable[..., tuple[Settings, list[str]]]


@pytest.fixture
def run(train: Callable[..., dict[str, Any]], tmp_path: Path) -> Path:
    train("stage=mml", "modality=[rgb,flow]", "schedule.epochs=1", "trainer=smoke")
    return tmp_path / "single" / "run"


def made(composed: Composed, *overrides: str) -> tuple[Predictor, Settings]:
    cfg, typed = composed(*overrides, program="eval", run="nothing_here")
    entries = load_entries(cfg, typed, lambda: config_data.dataset(cfg, ["test"]))
    return Predictor.of(cfg, entries, heads_of(entries)), cfg


def test_it_gives_the_scores_of_eval_without_a_run_directory(run: Path, composed: Composed, tmp_path: Path) -> None:
    shared = [f"ckpt={run}", "views=uniform2"]
    measured = evaluate(*composed(*shared, program="eval", run="eval"))
    with np.load(tmp_path / "single/eval/predictions/test.npz") as file:
        expected = {key: file[key] for key in file.files}
    before = sorted(path for path in tmp_path.rglob("*"))
    for workers in (0, 2):
        predictor, cfg = made(composed, *shared, f"data.workers={workers}")
        scores = predictor.score(config_data.dataset(cfg, ["test"]))["label"]
        dump = scores.dump()
        assert dump is not None and dump.ids == tuple(expected["ids"])
        for peer in ("rgb", "flow"):
            assert np.array_equal(dump.logits[peer].numpy(), expected[f"logits/{peer}"]), peer
        assert nested_metrics({f"test/{n}/{k}": x for n, one in scores.compute().items() for k, x in one.items()}) == {
            "test": measured["metrics"]["test"]
        }
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_it_scores_a_file_that_nobody_has_labelled(run: Path, composed: Composed, demo: Path, tmp_path: Path) -> None:
    predictor, cfg = made(composed, f"ckpt={run / 'peers/rgb.pt'}")
    known = config_data.dataset(cfg, ["test"]).splits["test"][0]
    clip, broken = tmp_path / "mine.mp4", tmp_path / "broken.mp4"
    shutil.copyfile(Path(str(known.media["frames"])), clip)
    broken.write_bytes(b"no video")
    records = [Record(path.name, {"frames": path}, {}) for path in (broken, clip)]
    seen = []

    def watched(batches: Any) -> Any:
        for batch in batches:
            seen.append(batch["id"])
            yield batch

    scores = predictor.score(predictor.videos("mine", records), watched=watched)["label"]
    dump = scores.dump()
    assert dump is not None and dump.ids == ("mine.mp4",) and seen == [["mine.mp4"]]
    assert list(scores.failures) == ["broken.mp4"] and scores.compute() == {}
    assert dump.classes == predictor.heads["label"].classes
    with np.load(run / "predictions/test.npz") as file:
        whole = dict(zip(file["ids"], file["logits/rgb"], strict=True))
    assert np.allclose(dump.logits["rgb"][0].numpy(), whole[known.id], atol=1e-5)


def test_networks_of_other_classes_are_not_used_together(run: Path, composed: Composed) -> None:
    cfg, typed = composed(f"ckpt={run}", program="eval")
    entries = load_entries(cfg, typed, lambda: config_data.dataset(cfg, ["test"]))
    entries["flow"]["classes"] = {"label": ["a", "b"]}
    with pytest.raises(UserError, match="rgb was trained on other classes than flow"):
        heads_of(entries)
    with pytest.raises(UserError, match="no networks"):
        heads_of({})
