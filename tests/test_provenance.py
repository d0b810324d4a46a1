"""What is stored of a run beside its weights, and what is said when the zoo replaces one by another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose

from mml_lightning.nodes import plain
from mml_lightning.provenance import decisive, metrics_of, warn_of_replacement, zoo_folder
from mml_lightning.results import RunResult, write_json


def test_metrics_of_a_peer_with_one_head_and_with_several() -> None:
    rgb, flow = {"top1": 10.0}, {"top1": 20.0}
    assert metrics_of("rgb", {"val": {"rgb": rgb, "flow": flow}, "test": {"flow": flow}}) == {"val": rgb}
    several = {"val": {"verb/rgb": rgb, "noun/rgb": flow, "verb/flow": flow, "verb/ensemble": flow}}
    assert metrics_of("rgb", several) == {"val": {"verb": rgb, "noun": flow}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fingerprint": "b", "data_fingerprint": "e"}, "of a run with other data; they"),
        ({"fingerprint": "b", "overrides": ["optimizer.lr=1"]}, "with other settings (defaults; now optimizer.lr=1);"),
        (
            {"fingerprint": "b", "data_fingerprint": "e", "overrides": ["optimizer.lr=1"]},
            "with other settings (defaults; now optimizer.lr=1) and other data;",
        ),
        ({"fingerprint": "b"}, "with other first weights or config files;"),
        ({}, ""),
    ],
)
def test_a_replacement_names_what_differs(
    changes: dict[str, Any], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old: dict[str, Any] = {"fingerprint": "a", "data_fingerprint": "d", "overrides": ["seed=1"]}
    write_json(tmp_path / "result.json", old)
    warn_of_replacement(tmp_path, RunResult(tmp_path, False, **{**old, "overrides": [], **changes}))
    assert said in caplog.text and bool(caplog.text) == bool(said)


def test_forms_of_charades_do_not_share_a_zoo_folder(hydra: None) -> None:
    for data in ("charades", "charades_videos", "charades_frame_lists"):
        typed = [f"data={data}", "data.root=x", "paths.zoo=zoo"]
        assert zoo_folder(compose("train", overrides=typed)).parts[:2] == ("zoo", data)


def test_how_a_run_reads_and_how_often_it_looks_is_no_part_of_its_identity(hydra: None) -> None:
    def identity(*typed: str) -> dict[str, Any]:
        return decisive(plain(compose("train", overrides=[*typed, "paths.output_dir=out"])))

    usual = identity()
    for same in ("data.cache=none", "data.cache=ram", "data.cache_mb=7", "data.workers=3", "trainer.validations=1"):
        assert identity(same) == usual
    assert identity("schedule.epochs=1") != usual
