"""A stream says of a video what eval.py and `mml predict` say of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mml_lightning.config.compose import changed
from mml_lightning.engine import stream
from mml_lightning.engine.predict import Predictor, load_predictor
from mml_lightning.utils.errors import UserError
from mml_lightning.zoo.files import export_peer, load_peer
from tests.data.videos import moving, write_video


@pytest.fixture(scope="module")
def online(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The networks of the small run with the online shift: the same tensors, the channels of other frames."""
    folder = tmp_path_factory.mktemp("online")
    for peer in ("rgb", "flow"):
        entry = load_peer(trained / "peers" / f"{peer}.pt")
        export_peer(folder / f"{peer}.pt", {**entry, "arch": {**entry["arch"], "shift": "online"}})
    return folder


@pytest.fixture(scope="module")
def videos(demo: Path, trained: Path) -> list[Path]:
    told = {path.stem: path for path in (demo / "data").rglob("videos/*")}
    with np.load(trained / "predictions" / "test.npz") as file:
        return [told[name] for name in file["ids"]]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames, 12 a second."""
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    write_video(path, moving(24, 2, 1))
    return path


def loaded(file: Path, *words: str, **settings: Any) -> Predictor:
    predictor = load_predictor(file, overrides=["trainer.accelerator=cpu", *words])
    return dataclasses.replace(predictor, cfg=changed(predictor.cfg, settings)) if settings else predictor


def said(predictor: Predictor, video: Path, **rate: Any) -> list[stream.Said]:
    with stream.opened(predictor, str(video), **rate) as source:
        running = stream.VideoStream(predictor, source.size)
        running.warm_up()
        return [running.say(step) for step in source.steps]


@pytest.mark.parametrize("peer", ["rgb", "flow"])
@pytest.mark.parametrize("views", ["views.crops=1", "views.crops=3 views.pooling=probs"])
def test_the_last_line_is_the_prediction(
    online: Path, videos: list[Path], tmp_path: Path, peer: str, views: str
) -> None:
    predictor = loaded(online / f"{peer}.pt", f"paths.cache={tmp_path}", *views.split())
    for video, found in zip(videos[:4], predictor.predict(videos[:4]), strict=True):
        last = said(predictor, video)[-1]
        torch.testing.assert_close(last.mean["label"].probs(), found.probs, rtol=0, atol=1e-6)
        assert last.mean["label"].top(3)[0][0] == found.top(1)[0][0]


def test_steps_of_other_spacing(online: Path, video: Path) -> None:
    rgb = online / "rgb.pt"
    first = said(loaded(rgb), video, every=5)
    assert [max(one.step.frames) for one in first] == [0, 5, 10, 15, 20]
    assert torch.equal(first[0].frame["label"].probs(), first[0].mean["label"].probs())
    dense = loaded(rgb, **{"sampling.mode": "dense", "sampling.dense_length": 8})
    with stream.opened(dense, str(video)) as source:
        assert source.steps.items[:4, 0].tolist() == [0, 2, 4, 6]
        assert "every 2nd frame, as in training (sampling.mode=dense)" in source.told[-1]
    strided = loaded(rgb, **{"sampling.mode": "strided", "sampling.stride": 3})
    with stream.opened(strided, str(video)) as source:
        assert source.steps.items[:3, 0].tolist() == [0, 3, 6]
    flow = loaded(online / "flow.pt", "paths.cache=/nowhere/at/all")
    with stream.opened(flow, str(video), fps=6.0) as source:
        window = flow.modalities["flow"].window
        assert source.steps.items[1].tolist() == [*range(2, 2 + window)] and "6 steps a second" in source.told[-1]


def test_what_cannot_be_streamed_is_refused(online: Path, trained: Path, video: Path) -> None:
    for predictor, message in (
        (load_predictor(trained, ["rgb"]), r"rgb can't be streamed: .*backbone\.net\.shift=online"),
        (load_predictor(trained), "several networks, flow, rgb: choose one with --peer"),
        (loaded(online / "flow.pt", "flow.algorithm=mv", "flow.preset=default"), "flow.algorithm=mv, which reads"),
    ):
        with pytest.raises(UserError, match=message):
            stream.check(predictor)
    with pytest.raises(UserError, match="--fps 25 is more than the 12 frames a second of the video: use --every 1"):
        said(loaded(online / "rgb.pt"), video, fps=25.0)


def test_a_network_stays_what_it_was_trained_as(online: Path, trained: Path) -> None:
    for word in ("backbone.net.shift=online", "backbone.flow.net.shift=online backbone.rgb.net.shift=online"):
        with pytest.raises(UserError, match=r"shift=online: \w+ was trained with shift=true, .* leave it out"):
            load_predictor(trained, ["rgb"], overrides=word.split())
    with pytest.raises(UserError, match="rgb was trained with shift=online"):
        load_predictor(online / "rgb.pt", overrides=["backbone.net.shift=true"])
    assert load_predictor(trained, ["rgb"], overrides=["backbone.net.shift=true"]).networks
