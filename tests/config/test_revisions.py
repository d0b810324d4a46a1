"""Networks made when the same settings meant something else have another identity; all others keep theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mml_lightning.config.compose import compose
from mml_lightning.config.revisions import revisions
from mml_lightning.data.records.records import Dataset, Head, Record
from mml_lightning.data.video.media import ImageSequence
from mml_lightning.runs import fingerprint as runs_fingerprint
from mml_lightning.runs.resume import data_differences
from tests.data.images import noise, write_flow, write_frames

START = {"rgb": {"init": "scratch"}}


def videos(count: int = 24, **fields: Any) -> Dataset:
    records = [Record(f"v{n}", {"frames": Path(f"{n}.mp4")}, {"label": n % 2}, **fields) for n in range(count)]
    return Dataset("d", {"train": records}, {"label": Head(("a", "b"))})


@pytest.fixture
def found(hydra: None) -> Any:
    """found(*overrides, data=...) -> what has changed since, for such a run."""

    def make(*typed: str, data: Dataset | None = None) -> dict[str, int]:
        cfg = compose("train", overrides=[*typed, "paths.output_dir=out"])
        return revisions(cfg.plain(), data or videos())

    return make


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ((), set()),
        (("sampling=uniform", "stage=mml", "modality=[rgb,flow]"), set()),
        *(((f"sampling={mode}",), {"draws"}) for mode in ("dense", "random", "strided")),
        *(((f"sampling={m}", "sampling.policy=code"), set()) for m in ("uniform", "dense", "random", "strided")),
        (("data.missing=mask",), {"missing"}),
        (("data.batch_size=5", "trainer.accumulate_grad_batches=2"), set()),  # 4 batches
        (("data.batch_size=5", "trainer.accumulate_grad_batches=3"), {"tail"}),
        (("data.batch_size=5", "trainer.accumulate_grad_batches=2", "trainer.limit_train_batches=3"), {"tail"}),
        (("data.batch_size=5", "trainer.accumulate_grad_batches=2", "trainer.limit_train_batches=0.5"), set()),
        (("backbone=tsm_nl_resnet50", "batch_norm.freeze=partial"), {"nonlocal"}),
        (("backbone=tsm_nl_resnet50", "batch_norm.freeze=stats"), set()),
        (("backbone=tsm_resnet50", "batch_norm.freeze=partial"), set()),
    ],
)
def test_what_a_change_has_reached(found: Any, typed: tuple[str, ...], expected: set[str]) -> None:
    assert found(*typed) == dict.fromkeys(expected, 2)


def test_timed_labels(found: Any) -> None:
    timed = videos(intervals={"label": ((0, 0.0, 1.0),)})
    assert found("modality=[flow]", data=timed) == {"labels": 2}
    assert found("modality=[rgb,flow]", data=timed) == found("modality=[flow]") == {}
    assert found("modality=[flow]", "sampling.shared=false", data=timed) == {}


@pytest.mark.parametrize(("size", "expected"), [((24, 20), {}), ((12, 10), {"crop": 2})])
def test_stored_flow_of_another_size(found: Any, tmp_path: Path, size: tuple[int, int], expected: Any) -> None:
    frames = write_frames(tmp_path / "frames", "{:05d}.png", noise(6, 3))
    flow = write_flow(tmp_path / "flow", "{axis}_{:05d}.png", noise(5, 2, *size))
    media = {
        "frames": ImageSequence(frames, "{:05d}.png", 6, 10.0),
        "flow": ImageSequence(flow, "{axis}_{:05d}.png", 5, 10.0, layout="flow_pair"),
    }
    data = Dataset("d", {"train": [Record("v", media, {"label": 0})] * 24}, {"label": Head(("a", "b"))})
    assert found("modality=[flow]", data=data) == expected
    assert found("modality=[rgb,flow]", data=data) == {}


def test_the_fingerprint_of_a_run_that_no_change_has_reached_is_what_it_was(
    hydra: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fingerprint(*typed: str) -> str:
        cfg = compose("train", overrides=[*typed, "paths.output_dir=out"])
        return runs_fingerprint.fingerprint(cfg, videos(), START)

    now = {mode: fingerprint(f"sampling={mode}") for mode in ("uniform", "dense", "random", "strided")}
    with monkeypatch.context() as patch:
        patch.setattr(runs_fingerprint, "revisions", lambda *_: {})
        before = {mode: fingerprint(f"sampling={mode}") for mode in now}
    assert {mode for mode in now if now[mode] == before[mode]} == {"uniform"}


def test_a_run_that_an_earlier_version_began_is_not_continued_unseen(hydra: None, tmp_path: Path) -> None:
    cfg = compose("train", overrides=["sampling=random", "paths.output_dir=out"])
    data = videos()
    described = {"data": {"fingerprint": data.fingerprint(), "decoder": None}}
    (told,) = data_differences(described, tmp_path, cfg, data)
    assert told == "an earlier version began it and did otherwise (draws: docs/revisions.md)"
    assert data_differences({**described, "revisions": {"draws": 2}}, tmp_path, cfg, data) == []
