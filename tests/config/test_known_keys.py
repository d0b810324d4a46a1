"""Whatever a plus adds and nothing reads is refused by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig

from mml_lightning.config import groups, known_keys, values
from mml_lightning.config.compose import compose
from mml_lightning.config.key_roles import ROLES
from mml_lightning.config.settings import Settings
from mml_lightning.utils.errors import UserError
from tests.conftest import CONF

Composed = Callable[..., tuple[Settings, list[str]]]
GROUPS = sorted({key.partition(".")[0] for key in ROLES} - {*known_keys.OPEN} | {"trainer"})
TABLES = [group for group in GROUPS if (CONF / group).is_dir() or group in ("batch_norm", "loading", "metrics", "step")]


@pytest.mark.parametrize("group", [*TABLES, "checkpoint", "nonfinite", "statistics", ""])
def test_an_unknown_key_of_any_group_is_refused(composed: Composed, group: str) -> None:
    value = "{a: 1}" if len(group) % 2 else "3"
    key = f"{group}.nothing_reads_this".lstrip(".")
    with pytest.raises(UserError, match=rf"^unknown setting {key}"):
        values.check_job(composed(f"+{key}={value}")[0])


@pytest.mark.parametrize("group", ["callbacks", "logger"])
@pytest.mark.parametrize("word", ["early.patience=3", "early=true", "early={monitor: val/rgb/top1}", "early=[1]"])
def test_a_callback_or_logger_without_a_target_is_refused(composed: Composed, group: str, word: str) -> None:
    with pytest.raises(
        UserError, match=rf"^unknown setting {group}\.early: nothing reads it; .*{group}\.early\._target_="
    ):
        values.check_job(composed(f"+{group}.{word}")[0])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("+experiment.lr=1", r"^unknown setting experiment\.lr: an experiment has no settings of its own"),
        ("+resume.x=1", r"^unknown setting resume\.x: nothing reads it; leave it out"),
    ],
)
def test_a_key_of_something_else_is_refused(composed: Composed, word: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        values.check_job(composed(word)[0])


@pytest.mark.parametrize("group", ["mix", "step", "batch_norm", "metrics", "nonfinite", "flow"])
def test_what_is_made_of_a_group_does_not_see_a_key_that_only_a_config_looks_up(composed: Composed, group: str) -> None:
    cfg, _ = composed(f"+{group}.mine=8", f"data.eval_batch_size=${{{group}.mine}}")
    values.check_job(cfg)
    assert cfg.get(f"{group}.mine") == 8 and "mine" not in known_keys.taken(cfg, group)
    assert known_keys.taken(cfg, group) == composed()[0].plain(group)


def test_no_key_is_listed_twice() -> None:
    for group, names in known_keys.MORE.items():
        own = {field.name for field in dataclasses.fields(groups.GROUPS[group])} if group in groups.GROUPS else set()
        assert not set(names) & (own | {key.partition(".")[2] for key in ROLES if key.startswith(f"{group}.")}), group


def test_the_key_that_was_meant_is_named(composed: Composed) -> None:
    with pytest.raises(UserError, match=r"did you mean callbacks\.epoch_lines\?"):
        values.check_job(composed("+callbacks.epochlines=false")[0])


@pytest.mark.parametrize("word", ["mine", "data.mine"])
def test_a_key_that_the_config_looks_up_is_read(composed: Composed, word: str) -> None:
    values.check_job(composed(f"+{word}=4", f"data.batch_size=${{{word}}}")[0])


def test_every_key_of_conf_is_known(hydra: None) -> None:
    """A key that conf/ brings along is read; give code that reads a new one its dataclass, or name it in MORE."""
    unknown = []
    for file in sorted(CONF.rglob("*.yaml")):
        group, text = file.parent.relative_to(CONF).as_posix(), file.read_text()
        content = yaml.safe_load(text) or {}
        if group.startswith("hydra"):
            continue
        shared = group == "." or "@package _global_" in text
        own = {key: table for key, table in content.items() if isinstance(table, dict)} if shared else {group: content}
        for name, table in own.items():
            known = known_keys.keys_of(name)
            if name not in known_keys.OPEN:
                unknown += [f"{file.name}: {name}.{key}" for key in table if _unread(name, key, table[key], known)]
    assert not unknown


def _unread(group: str, key: str, value: object, known: set[str]) -> bool:
    modality = (CONF / "modality" / f"{key}.yaml").is_file()
    called = isinstance(value, dict) and "_target_" in value
    return not (key in known or key == "defaults" or called or (group == "init" and modality))


def test_every_run_that_conf_declares_passes(hydra: None) -> None:
    for experiment in sorted(path.stem for path in Path(CONF / "experiment").glob("*.yaml")):
        known_keys.check(compose("train", [f"experiment={experiment}", *_needed(experiment)]))


def _needed(experiment: str) -> list[str]:
    return ["data.root=x"] if experiment not in ("none", "rgb_peer") else []


def test_what_is_checked_elsewhere_is_open(hydra: None, composed: Callable[..., tuple[DictConfig, list[str]]]) -> None:
    known_keys.check(composed("+aliases.mine={run: x, peer: rgb}", "+catalogue.mine={stage: ce}")[0])  # type: ignore[arg-type]
