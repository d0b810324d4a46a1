"""Setups: their numbers are the published ones, and Charades trains and is measured from its official files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from mml_lightning.backbones import video_resnet
from mml_lightning.config import data, training
from mml_lightning.config import objective as config_objective
from mml_lightning.config.compose import compose
from mml_lightning.config.settings import Settings
from mml_lightning.engine import train
from mml_lightning.objectives.graph import Objective
from tests.data.videos import real

CHARADES = ["charades", "charades_64x2", "charades_frozenbn", "charades_ptv"]
COMMON = {
    "backbone.net.kind": "i3d",
    "backbone.net.depth": 50,
    "backbone.net.dropout": 0.5,
    "backbone.net.eval_pool": "sliding",
    "backbone.net.activation": "sigmoid",
    "init.all": "kinetics",
    "data.name": "charades",
    "data.labels": "clip",
    "data.frames.fps": 24,
    "sampling.mode": "strided",
    "transforms.output": 224,
    "transforms.short_side": 256,
    "transforms.flip": 0.5,
    "transforms.antialias": False,
    "views.strided": 10,
    "views.crops": 3,
    "views.full_resolution": True,
    "views.pooling": "max",
    "optimizer.groups": "slowfast",
    "optimizer.weight_decay": 1e-4,
    "optimizer.clip_norm": None,
    "optimizer.optimizer.momentum": 0.9,
    "optimizer.optimizer.nesterov": True,
    "trainer.precision": "32-true",
    "statistics.mean": [0.45, 0.45, 0.45],
    "statistics.std": [0.225, 0.225, 0.225],
    "metrics.ap": "grouped",
    "metrics.empty_class": "drop",
}
OWN: dict[str, dict[str, Any]] = {
    "charades": {"sampling.num_segments": 8, "sampling.stride": 8, "data.batch_size": 16, "optimizer.lr": 0.0375},
    "charades_64x2": {"sampling.num_segments": 64, "sampling.stride": 2, "data.batch_size": 16, "optimizer.lr": 0.0375},
    "charades_frozenbn": {"batch_norm.freeze": "stats", "data.batch_size": 16, "optimizer.lr": 0.0375},
    "charades_ptv": {"sampling.num_segments": 8, "data.batch_size": 64, "optimizer.lr": 0.25},
}


def setup(name: str, *overrides: str) -> Settings:
    return compose("train", overrides=[f"setup={name}", "data.root=videos", "paths.output_dir=out", *overrides])


def rates(cfg: Settings, *epochs: float) -> list[float]:
    plan = training.optimiser_plan(cfg, {})
    assert plan.interval == "step", "the rate follows fractions of epochs"
    return [plan.lr * plan.factor(epoch) for epoch in epochs]


@pytest.mark.parametrize("name", CHARADES)
def test_numbers_of_charades(hydra: None, name: str) -> None:
    cfg = setup(name)
    for key, value in {**COMMON, **OWN[name]}.items():
        assert cfg.plain(key) == value, key
    low, high = (round(cfg.transforms.short_side * share) for share in cfg.plain("transforms.jitter"))
    assert (low, high, cfg.schedule.epochs) == (256, 340, 60 if name == "charades_ptv" else 57)
    assert cfg.plain("transforms.mode") == ("uniform_jitter" if name == "charades_ptv" else "inverse_uniform")


def test_rates_of_charades(hydra: None) -> None:
    published = [1e-4, 0.00945, 0.0188, 0.02815, 0.0375, 0.0375, 0.00375, 0.000375]
    assert rates(setup("charades"), 0, 1, 2, 3, 4, 40.99, 41, 49) == pytest.approx(published, rel=1e-6)
    assert rates(setup("charades_ptv"), 0, 5, 60) == pytest.approx([1e-4, 0.2457407, 1e-6], rel=1e-5)


def test_batch_norm_of_charades(hydra: None) -> None:
    assert setup("charades").plain("batch_norm") == {"freeze": "none", "sync": False, "group_size": 8, "precise": 200}
    frozen = {"freeze": "stats", "sync": False, "group_size": None, "precise": 0}
    assert setup("charades_frozenbn").plain("batch_norm") == frozen


def test_decay_of_charades_spares_the_norms_only(hydra: None) -> None:
    with torch.device("meta"):
        net = video_resnet("i3d", 50, num_classes={"label": 157})
    assert sum(p.numel() for p in net.parameters()) == 27_545_565
    rest, norm = training.optimiser_plan(setup("charades"), {}).parameter_groups("rgb", net)
    assert (rest["name"], rest["lr"], rest["weight_decay"]) == ("rgb/rest", 0.0375, 1e-4)
    assert (norm["name"], norm["lr"], norm["weight_decay"]) == ("rgb/norm", 0.0375, 0.0)
    assert len(norm["params"]) == 106 and all(p.ndim == 1 for p in norm["params"])
    assert len(rest["params"]) == 53 + 2, "convolutions, weight and bias of the head"


def test_lesson_of_charades_is_divided_by_batch_and_classes(hydra: None) -> None:
    cfg = setup("charades", "stage=mml", "modality=[rgb,flow]")
    edge = cfg.objective.edges[0]
    assert (edge["kind"], edge["weight"], edge["temperature"]) == ("softmax", 1.0, 1.0)
    logits = {"rgb": torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "flow": torch.tensor([[0.0, 1.0], [0.0, 0.0]])}
    outputs = {name: type("Output", (), {"logits": {"label": value}})() for name, value in logits.items()}
    objective = config_objective.objective(cfg, ["rgb", "flow"])
    assert isinstance(objective, Objective)
    terms = objective(outputs, {"label": torch.tensor([[1.0, 0.0], [0.0, 0.0]])})
    # KL((0.2689, 0.7311) || (0.7311, 0.2689)) = 0.4621 in one of two samples, over two classes
    assert float(terms["rgb"]["kl"]) == pytest.approx(0.46212 / 4, rel=1e-4)
    assert float(terms["rgb"]["bce"]) == pytest.approx((0.31326 + 3 * 0.69315) / 4, rel=1e-4)


def test_sixteen_frames_on_resnet101(hydra: None) -> None:
    cfg = setup("ssv2_r101_16f")
    assert (cfg.backbone.net["depth"], cfg.backbone.net["shift"], cfg.sampling.num_segments) == (101, True, 16)
    assert (cfg.views.uniform + cfg.views.dense, cfg.views.crops, cfg.views.full_resolution) == (3, 1, True)
    assert (cfg.data.batch_size, cfg.optimizer.lr, cfg.schedule.epochs, cfg.plain("init.all")) == (
        64,
        0.025,
        50,
        "imagenet",
    )
    assert cfg.backbone.name != setup("ssv2").backbone.name, "8 and 16 frames lie apart in the zoo"


# ------------------------------------------------------------------------------------------------ runs

TINY = [
    *("backbone=i3d_tiny", "backbone.net.width=8", "backbone.net.eval_pool=sliding", "backbone.net.activation=sigmoid"),
    *(
        "init=scratch",
        "sampling.num_segments=4",
        "sampling.stride=2",
        "transforms.output=32",
        "transforms.short_side=40",
    ),
    *("schedule.epochs=2", "schedule.factor.warmup_epochs=1", "data.batch_size=4", "batch_norm.group_size=2"),
    *("batch_norm.precise=1", "data.workers=0", "trainer.accelerator=cpu", "trainer.num_threads=1"),
]


def write_charades(root: Path) -> list[str]:
    """The official layout in small: 8 training videos and 4 to test of 12 to 15 frames, with their flow."""
    rng = np.random.default_rng(0)
    for split, videos in (("train", range(8)), ("test", range(8, 12))):
        rows = ["id,subject,actions,length"]
        for number in videos:
            name, count = f"VID{number:02d}", 12 + number % 4
            rows.append(f"{name},S,c000 0.00 0.20;c{number % 4:03d} 0.30 0.60,{count / 24:.2f}")
            for source, endings, items in (("rgb", ("",), count), ("flow", ("x", "y"), count - 1)):
                folder = root / f"Charades_v1_{source}" / name
                folder.mkdir(parents=True)
                for item in range(1, items + 1):
                    for ending in endings:
                        pixels = rng.integers(0, 256, (36, 48, 3) if source == "rgb" else (36, 48), dtype=np.uint8)
                        cv2.imwrite(str(folder / f"{name}-{item:06d}{ending}.jpg"), pixels)
        (root / f"Charades_v1_{split}.csv").write_text("\n".join(rows) + "\n")
    (root / "Charades_v1_classes.txt").write_text("".join(f"c{k:03d} Action {k}\n" for k in range(4)))
    return [f"data.root={root}", "data.flow.folder=Charades_v1_flow"]


@pytest.fixture
def charades(hydra: None, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run a stage with setup=charades on small files; its directory is <tmp_path>/run."""
    files = write_charades(tmp_path / "data")

    def stage(*overrides: str) -> dict[str, Any]:
        typed = ["setup=charades", *files, *TINY, f"paths.root={tmp_path}", *overrides]
        return train.stage(compose("train", overrides=[*typed, f"paths.output_dir={tmp_path / 'run'}"]), typed)

    return stage


def test_charades_trains_and_is_measured_by_its_views(charades: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    result = charades("stage=mml", "modality=[rgb,flow]")
    assert result["steps"] == 4 and set(result["metrics"]["test"]) == {"rgb", "flow", "ensemble"}
    for split, views in (("val", 1), ("test", 30)):
        stored = np.load(tmp_path / "run" / "predictions" / f"{split}.npz")
        assert stored["logits/rgb"].shape == stored["logits/flow"].shape == (4, views, 4)
        assert stored["target"].tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]]
        assert "map" in result["metrics"][split]["rgb"]
    config = json.loads((tmp_path / "run" / "result.json").read_text())
    assert config["status"] == "completed"


def test_training_sees_the_labels_of_clips_and_measuring_those_of_videos(hydra: None, tmp_path: Path) -> None:
    typed = ["setup=charades", *write_charades(tmp_path), *TINY, "paths.output_dir=out"]
    typed += ["sampling.num_segments=2", "sampling.stride=1"]

    def targets(split: str, *more: str) -> set[tuple[float, ...]]:
        cfg = compose("train", overrides=[*typed, *more])
        sets = data.clip_datasets(cfg, data.dataset(cfg), None, list(data.modalities(cfg).values()))
        return {tuple(sets[split][epoch, 1]["target"]["label"].tolist()) for epoch in range(40)}

    # the second video: class 0 until 0.2 s (frame 4), class 1 from 0.3 s (frame 8); clips of two frames
    assert targets("train") == {(1, 0, 0, 0), (0, 0, 0, 0), (0, 1, 0, 0)}
    assert targets("train", "data.labels=video") == targets("val") == targets("test") == {(1, 1, 0, 0)}


@pytest.mark.real
def test_a_few_steps_on_timed_words(hydra: None, tmp_path: Path) -> None:
    root = real("lips/charades_form")
    typed = [
        *("setup=charades", f"data.root={root}", "data.train=train.csv", "data.test=test.csv"),
        *("data.classes=classes.txt", "data.frames.folder=../videos", "data.frames.file='{id}.webm'"),
        *("data.frames.fps=null", "data.name=words", f"paths.root={tmp_path}", *TINY, "schedule.epochs=1"),
        *("trainer.limit_train_batches=3", "trainer.limit_val_batches=1", "test=false"),
    ]
    result = train.stage(compose("train", overrides=[*typed, f"paths.output_dir={tmp_path / 'run'}"]), typed)
    assert result["steps"] == 3 and 0 < result["metrics"]["val"]["rgb"]["map"] <= 100
