"""What is stored of a run beside its weights, and how it is recognised."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mml_lightning.config.compose import compose
from mml_lightning.runs.export import metrics_of
from mml_lightning.runs.fingerprint import config_that_decides_weights, fingerprint, zoo_folder


def test_metrics_of_a_peer_with_one_head_and_with_several() -> None:
    rgb, flow = {"top1": 10.0}, {"top1": 20.0}
    assert metrics_of("rgb", {"val": {"rgb": rgb, "flow": flow}, "test": {"flow": flow}}) == {"val": rgb}
    several = {"val": {"verb/rgb": rgb, "noun/rgb": flow, "verb/flow": flow, "verb/ensemble": flow}}
    assert metrics_of("rgb", several) == {"val": {"verb": rgb, "noun": flow}}


def test_forms_of_charades_do_not_share_a_zoo_folder(hydra: None) -> None:
    for data in ("charades", "charades_videos", "charades_frame_lists"):
        typed = [f"data={data}", "data.root=x", "paths.zoo=zoo"]
        assert zoo_folder(compose("train", overrides=typed), "rgb").parts[:2] == ("zoo", data)


def test_how_a_run_reads_and_how_often_it_looks_is_no_part_of_its_identity(hydra: None) -> None:
    def identity(*typed: str) -> dict[str, Any]:
        return config_that_decides_weights(compose("train", typed).plain())

    usual = identity()
    for same in ("data.cache=none", "data.cache=ram", "data.cache_mb=7", "data.workers=3", "trainer.validations=1"):
        assert identity(same) == usual
    assert identity("schedule.epochs=1") != usual


@pytest.mark.parametrize(
    ("typed", "known"),
    [
        ([], "951a60591828d6cc"),
        (["stage=mml", "modality=[rgb,flow]", "init=ce"], "1092cb7c1dcf3a9f"),
        (["trainer.limit_train_batches=2"], "dd404c710e37533f"),
        (["repeat=1", "+trainer.max_steps=3"], "6cb7d18d406559f1"),
    ],
)
def test_fingerprints_of_finished_runs_stay_what_they_are(hydra: None, typed: list[str], known: str) -> None:
    """As version fdeecbd computed them: the zoo of then is still found."""
    cfg = compose("train", overrides=[*typed, "paths.output_dir=o"])
    told = {"ce": {"fingerprint": "f", "peer": "rgb"}}
    words = {name: cfg.init.of(name) for name in cfg.modality}
    origins = {name: {"init": word, "provenance": told.get(word)} for name, word in words.items()}
    assert fingerprint(cfg, SimpleNamespace(fingerprint=lambda: "data", splits={}), origins) == known  # type: ignore[arg-type]
