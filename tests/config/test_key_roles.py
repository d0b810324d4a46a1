from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from omegaconf import DictConfig

from mml_lightning.config import key_roles
from mml_lightning.config.key_roles import ROLES, Role, keys_with, role
from mml_lightning.runs.fingerprint import config_that_decides_weights, evaluation
from tests.conftest import CONF

GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())
SPLIT_UP = ("data", "trainer")  # groups whose keys have roles of their own
NEEDED = {"data": ["data.root=videos"], "csv": ["data.index=videos.csv"]}
ELSEWHERE = {"hydra", "experiment", "trainer.max_time"}
# not in a composed config: Hydra's own node, a group that leaves no node, a setting of Lightning's that a plus adds


def options(group: str) -> list[Path]:
    return sorted((CONF / group).glob("*.yaml"))


def keys(cfg: DictConfig) -> Iterator[str]:
    for key, node in cfg.items():
        yield from (f"{key}.{inner}" for inner in node) if key in SPLIT_UP else [str(key)]


@pytest.mark.parametrize("program, more", [("train", []), ("eval", ["ckpt=ce"])])
def test_every_key_of_conf_has_a_role(hydra: None, program: str, more: list[str]) -> None:
    unknown = {key for key in keys(compose(program, overrides=more)) if role(key) is None}
    assert not unknown, f"give {sorted(unknown)} a role in config/key_roles.py"


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_has_a_role(group: str) -> None:
    assert group in SPLIT_UP or role(group) is not None, f"give {group} a role in config/key_roles.py"


@pytest.mark.parametrize("group", SPLIT_UP)
def test_every_key_of_an_option_has_a_role(hydra: None, group: str) -> None:
    for path in options(group):
        words = [f"{group}={path.stem}", *NEEDED.get(group, ()), *NEEDED.get(path.stem, ())]
        unknown = {key for key in keys(compose("train", overrides=words)) if role(key) is None}
        assert not unknown, f"{path.name}: give {sorted(unknown)} a role in config/key_roles.py"


def test_no_role_is_of_a_key_that_is_gone(hydra: None) -> None:
    known = {*keys(compose("train")), *keys(compose("eval", overrides=["ckpt=ce"])), *GROUPS, *ELSEWHERE}
    for group in SPLIT_UP:
        for path in options(group):
            words = [f"{group}={path.stem}", *NEEDED.get(group, ()), *NEEDED.get(path.stem, ())]
            known |= set(keys(compose("train", overrides=words)))
    gone = {key for key in ROLES if key not in known and key.split(".")[0] not in set(GROUPS) - set(SPLIT_UP)}
    assert not gone


def test_a_key_that_nobody_knows_decides_weights(composed: Callable[..., tuple[DictConfig, list[str]]]) -> None:
    values: dict[str, Any] = {"data": {"own": 1, "workers": 2}, "trainer": {"own": 1, "accelerator": "cpu"}}
    kept = config_that_decides_weights({**values, "own": 1, "paths": {}})
    assert kept == {"own": 1, "data": {"own": 1}, "trainer": {"own": 1}}
    assert role("own") is None and role("data.own") is None


def test_the_longest_prefix_counts() -> None:
    assert Role.RESUMABLE in ROLES["flow.on_the_fly"] and role("flow.on_the_fly") == ROLES["flow.on_the_fly"]
    assert role("flow.bound") == role("flow") == Role.WEIGHTS | Role.SPEED
    assert role("sampling") == role("sampling.stride") and Role.MEASUREMENT in role("sampling.num_segments")  # type: ignore[operator]


def test_what_is_compared_of_a_measurement_is_what_the_table_says(
    composed: Callable[..., tuple[DictConfig, list[str]]],
) -> None:
    told = evaluation(composed("transforms.reduced_decode=auto", "modality=[rgb,flow]", "fusion=average")[0])
    words = set(told) - {"frames"} | set(told["frames"])
    of_table = {key.rpartition(".")[2] for key in keys_with(Role.MEASUREMENT)} - {
        "ckpt",
        "split",
    }  # which weights, videos
    assert words == of_table


@pytest.mark.parametrize(
    "word",
    ["seed=3", "paths.root=x", "data.workers=4", "hydra/launcher=joblib", "resume=auto", "callbacks.lr_monitor.x=1"],
)
def test_rows_of_a_table_do_not_differ_in_these(word: str) -> None:
    assert key_roles.COSMETIC_OVERRIDES.match(word.partition("=")[0])


@pytest.mark.parametrize(
    "word", ["data.name=x", "optimizer.lr=1", "resume_force=true", "seeds=3", "views=dense", "callbacks.x.patience=3"]
)
def test_and_do_in_these(word: str) -> None:
    assert not key_roles.COSMETIC_OVERRIDES.match(word.partition("=")[0])
