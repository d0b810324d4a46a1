"""Every option of every group composes, every `_target_` takes its arguments, and no key is unknown."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from hydra.errors import ConfigCompositionException
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from mml_lightning.config import compose as config_compose
from mml_lightning.config import data as config_data
from mml_lightning.config import peers, training
from mml_lightning.engine import plan
from mml_lightning.utils.errors import UserError

CONF = Path(__file__).parents[1] / "conf"
OPTIONS = sorted((file.parent.name, file.stem) for file in CONF.glob("*/*.yaml"))
# What an option can't be composed without.
NEEDED = {(g, n): ["data.root=videos"] for g, n in OPTIONS if g in ("data", "setup") and not n.startswith("demo")}
NEEDED[("data", "csv")] = ["data.index=videos.csv"]
SWEEPER = "hydra/sweeper/optuna.yaml"  # tests/pipelines/test_optuna_sweeper.py
# Missing from partial targets: given by build.py.
LATER: dict[str, dict[str, Any]] = {
    "mml_lightning.backbones": {"in_channels": 3, "num_classes": {"label": 2}},
    "mml_lightning.training.schedules": {"epoch": 0, "epochs": 10},
    "torch.optim": {"params": []},
    "mml_lightning.pipelines.sweep_callback": {},
    "pytorch_lightning": {},
    "mml_lightning.data.records.readers": {},
    "mml_lightning.data.records.readers.charades": {},
}


def option(group: str, name: str) -> list[str]:
    value = f"[{name}]" if group == "modality" else name
    return [f"{group}={value}", *NEEDED.get((group, name), ())]


def targets(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value)


def test_no_config_file_escapes_these_tests() -> None:
    files = {path.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml")}
    assert files == {f"{group}/{name}.yaml" for group, name in OPTIONS} | {"train.yaml", "eval.yaml", SWEEPER}
    groups = {group for group, _ in OPTIONS}
    assert len(groups) >= 20 and len(OPTIONS) >= 55
    assert groups == {path.name for path in CONF.iterdir() if path.is_dir()}


@pytest.mark.parametrize("group, name", OPTIONS)
@pytest.mark.parametrize("program", ["train", "eval"])
def test_option_composes(hydra: None, program: str, group: str, name: str) -> None:
    overrides = [*option(group, name), "paths.output_dir=out"] + (["ckpt=ce"] if program == "eval" else [])
    cfg = compose(program, overrides=overrides)
    values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    if group not in ("paths", "hydra", "experiment"):
        assert group in values, f"conf/{group}/{name}.yaml sets nothing under {group}"


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_file_says_what_it_is(file: Path) -> None:
    comments = [line for line in file.read_text().splitlines()[:3] if line.startswith("# ") and "@package" not in line]
    assert comments, f"{file} opens without a line that says what it is"


def test_every_target_binds_its_arguments(hydra: None) -> None:
    seen = set()
    for group, name in OPTIONS:
        cfg = compose("train", overrides=[*option(group, name), "paths.output_dir=out"], return_hydra_config=True)
        values = OmegaConf.to_container(cfg, resolve=False)
        assert isinstance(values, dict)
        own = values["hydra"].pop("callbacks")
        for key in [key for key in values["hydra"]]:
            values["hydra"].pop(key)  # Hydra's own targets
        for node in targets({"conf": values, "callbacks": own}):
            target = node["_target_"]
            later = next(extra for prefix, extra in LATER.items() if target.startswith(prefix))
            given = {key: value for key, value in node.items() if not key.startswith("_")}
            inspect.signature(get_method(target) if "." in target else target).bind(**{**later, **given})
            seen.add((target, tuple(sorted(given))))
    assert len({target for target, _ in seen}) >= 10, seen


def test_a_wrong_argument_of_a_target_would_be_seen() -> None:
    with pytest.raises(TypeError):
        inspect.signature(get_method("mml_lightning.training.schedules.cosine")).bind(epoch=0, epochs=1, gamma=3)


ALIKE = (
    "balance",
    "fusion",
    "optimizer",
    "schedule",
    "sampling",
    "transforms",
    "views",
    "objective",
    "callbacks",
    "trainer",
)


@pytest.mark.parametrize("group", ALIKE)
def test_options_of_a_group_have_the_same_keys(hydra: None, group: str) -> None:
    keys = {}
    for name in [name for g, name in OPTIONS if g == group]:
        cfg = compose("train", overrides=[f"{group}={name}", "paths.output_dir=out"])
        called = {key for key, value in cfg[group].items() if OmegaConf.is_dict(value) and "_target_" in value}
        if called != set(cfg[group]):  # others stand in a list beside one of these
            keys[name] = set(cfg[group]) - called
    assert len({frozenset(found) for found in keys.values()}) == 1, keys


@pytest.mark.parametrize("override", ["optimizer.lrr=1", "stage.copy=2", "modality.rgb.chanels=3", "init.audio=ce"])
def test_unknown_key_is_refused_by_name(hydra: None, override: str) -> None:
    with pytest.raises(ConfigCompositionException, match=override.split("=")[0].split(".")[-1]):
        compose("train", overrides=[override])


def test_a_new_field_of_a_modality_is_refused(composed: Callable[..., tuple[DictConfig, list[str]]]) -> None:
    cfg, _ = composed("+modality.rgb.chanels=3")
    with pytest.raises(UserError, match="chanels"):
        config_data.modalities(cfg)


@pytest.mark.parametrize(
    "value, order", [("[rgb,flow]", "rgb flow"), ("[flow,rgb]", "flow rgb"), ("rgbdiff", "rgbdiff")]
)
def test_modalities_keep_the_order_typed(hydra: None, value: str, order: str) -> None:
    assert list(compose("train", overrides=[f"modality={value}"]).modality) == order.split()


@pytest.mark.parametrize(
    "overrides, name",
    [
        (["stage=mml", "modality=[rgb,flow]", "init=ce"], "mml_rgb+flow_from_ce"),
        (["stage=mml", "modality=[rgb,flow]", "init.rgb=ce"], "mml_rgb+flow_from_ce+scratch"),
        (["stage=ml", "init.rgb='/zoo/epoch=3.pt'"], "ml_rgb_from_epoch_3"),
        (["stage=mml", "modality=[rgb,flow]", "init=own", "init.flow=ce:rgb_1"], "mml_rgb+flow_from_own+ce-rgb_1"),
        (["stage=reduced_mml", "modality=[rgb,flow]"], "reduced_mml_rgb+flow_from_ce"),
        (["pipeline=mml"], "pipeline_mml"),
    ],
)
def test_names_tell_the_lineage(hydra: None, overrides: list[str], name: str) -> None:
    assert compose("train", overrides=overrides).name == name


def test_command_line_beats_stage_beats_setup(hydra: None) -> None:
    assert compose("train", overrides=["setup=ssv2"]).init.all == "imagenet"
    assert compose("train", overrides=["setup=ssv2", "stage=reduced_mml"]).init.all == "ce"
    assert compose("train", overrides=["setup=ssv2", "stage=reduced_mml", "init=scratch"]).init.all == "scratch"
    assert compose("train", overrides=["stage=mml", "objective=cross_entropy"]).objective.name == "cross_entropy"


def test_plan_says_which_columns_were_taken(hydra: None, tmp_path: Path) -> None:
    lines = "".join(f"{n}.mp4,{n % 2},{'train' if n < 8 else 'val' if n < 10 else 'test'},0,1,x\n" for n in range(12))
    (tmp_path / "mine.csv").write_text("video,y,split,start_sec,stop_sec,two\\lines\n" + lines)
    cfg = config_compose.compose("train", ["data=csv", f"data.index={tmp_path / 'mine.csv'}"])
    said = plan._data(cfg, config_data.records(cfg))
    assert said.startswith("csv_mine: 8 train, 2 val, 2 test videos, 2 classes; decord ")
    assert said.endswith(
        "; columns path from 'video', label from 'y', split, parts from 'start_sec' and 'stop_sec' (seconds); "
        r"not used 'two\\lines'"
    )


def test_plan_is_a_line_per_noun_with_the_lessons(
    composed: Callable[..., tuple[DictConfig, list[str]]],
) -> None:
    cfg, typed = composed("stage=mml", "modality=[rgb,flow,rgbdiff]", "schedule.epochs=1")
    specs = peers.peer_specs(cfg, typed)
    data = config_data.dataset(cfg)
    nets, origins = peers.peers(cfg, specs, data)
    cohort = training.cohort(cfg, specs, nets, origins, data)
    lines = plan.describe(cfg, data, cohort.phases, dict.fromkeys(nets, 1_000_000), origins)
    assert len(lines) == 11 and all("\n" not in line for line in lines)
    text = "\n".join(lines)
    assert "rgb <- flow+rgbdiff (kl)" in text and "labels -> rgb, flow, rgbdiff" in text
    assert "1 epoch x 3 steps of 8 videos" in text and "24 train, 11 val, 11 test videos, 10 classes" in text
