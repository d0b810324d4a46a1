"""A composed config in types: what is kept, what is missing, what follows a change, and the way to another process."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mml_lightning.config import instantiate
from mml_lightning.config.compose import changed, compose, load, save, sweep_of
from mml_lightning.config.groups import GROUPS
from mml_lightning.config.resolve import DEPENDENT, resolve
from mml_lightning.config.settings import Settings, settings_of
from mml_lightning.utils.errors import UserError


def test_groups_say_what_the_config_says(hydra: None) -> None:
    cfg = compose("train", ["stage=mml", "modality=[rgb,flow]", "logger=wandb", "trainer=smoke"])
    for group, kind in GROUPS.items():
        for one in dataclasses.fields(kind):
            key = f"{group}.{one.name}"
            if cfg.get(key) is not None:
                assert getattr(getattr(cfg, group), one.name) == cfg.plain(key), key
    assert cfg.init.peers == {"all": "scratch", "rgb": "scratch", "flow": "scratch"} or cfg.init.of("flow")
    assert list(cfg.modality) == ["rgb", "flow"]


def test_a_group_has_no_field_that_no_option_sets(hydra: None) -> None:
    """A field with a default that conf/ never had would be a setting that nobody can find."""
    cfg = compose("train", ["logger=wandb", "data=csv", "data.index=x.csv"])
    extra = {"trainer.max_steps", "trainer.max_time", "init.peers", "backbone.peers", "backbone.option"}
    # a plus adds them; made of the rest
    unknown = {
        f"{group}.{one.name}"
        for group, kind in GROUPS.items()
        for one in dataclasses.fields(kind)
        if cfg.get(f"{group}.{one.name}", KeyError) is KeyError
    }
    assert unknown - extra <= {"data.labels", "data.interval_ends"}, "of data with timed labels"


def test_nobody_changes_the_settings_of_others(hydra: None) -> None:
    cfg = compose("train")
    cfg.plain()["data"]["reader"].clear()
    cfg.plain("statistics.mean").append(1)
    assert cfg.data.reader and len(cfg.plain("statistics.mean")) == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.data.workers = 3  # type: ignore[misc]


def test_a_required_value_is_missed_where_it_is_needed(hydra: None) -> None:
    cfg = compose("train", ["data=pack"])
    assert cfg.data.workers is not None and cfg.plain("sampling")
    for part in ("", "data", "data.root"):
        with pytest.raises(UserError, match=r"^data\.root is required: data\.root=\.\.\.$"):
            cfg.plain(part)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["~data.workers"], "data.workers is missing in the config"),
        (["~loading"], "loading is missing in the config"),
        (["loading=3"], "loading=3 must be a table"),
        (["data.decoder=${nothing}"], "Interpolation key 'nothing' not found"),
    ],
)
def test_a_config_that_is_none_is_one_line(hydra: None, words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        compose("train", words)


def test_what_is_made_of_a_changed_value_follows_it(hydra: None) -> None:
    cfg = compose("train", ["stage=ml"])
    again = changed(cfg, {"repeat": 1, "init.rgb": "ce", "sampling.stride": 3, "tables": {"a": {"rows": [1]}}})
    assert (cfg.name, again.name) == ("ml_rgb_from_scratch", "ml_rgb_from_ce_again")
    assert again.views.stride == 3 and again.tables == {"a": {"rows": [1]}} and cfg.tables == {}
    assert changed(again, {"tables": {}}).tables == {}, "replaced, not merged"


def test_settings_travel(hydra: None, tmp_path: Any) -> None:
    cfg = changed(compose("train", ["stage=mml", "modality=[rgb,flow]"]), {"paths.output_dir": "out"})
    save(cfg, tmp_path / "config.yaml")
    for other in (pickle.loads(pickle.dumps(cfg)), load(tmp_path / "config.yaml")):
        assert isinstance(other, Settings) and other == cfg and other.plain() == cfg.plain()


def test_outside_of_a_job_there_is_no_directory_of_a_run(hydra: None) -> None:
    assert compose("train").paths.output_dir == ""
    assert compose("train", ["paths.output_dir=here"]).paths.output_dir == "here"


def test_gaps_are_kept_in_lists_and_tables() -> None:
    cfg = OmegaConf.create({"a": {"b": "???", "c": [1, "???", "${a.b}"], "d": None}, "e": "${a.c}"})
    assert resolve(cfg) == {"a": {"b": "???", "c": [1, "???", DEPENDENT], "d": None}, "e": [1, "???", DEPENDENT]}


def test_a_sweep_is_told_by_the_config_of_its_callback() -> None:
    bare = OmegaConf.create({"hydra": {"sweep": {"dir": "x"}}})
    assert not sweep_of(bare).logger.wandb
    told = sweep_of(OmegaConf.merge(bare, {"logger": {"wandb": True, "project": "p"}}))
    assert (str(told.folder), told.logger.wandb, told.logger.project) == ("x", True, "p")


@given(st.text(alphabet="${}\\a:.'\" ", max_size=12))
def test_what_was_resolved_is_not_looked_up_again(text: str) -> None:
    """A value may look like an interpolation: a file name, or what an escape has left."""
    values = {"_target_": "collections.OrderedDict", "a": text, "b": [text], "c": {"d": text}}
    assert instantiate.instantiate(values, ["collections"]) == {"a": text, "b": [text], "c": {"d": text}}


def test_a_modality_without_a_start_is_named(hydra: None) -> None:
    cfg = settings_of(OmegaConf.merge(compose("train").node, {"init": {"rgb": "ce"}}))  # type: ignore[arg-type]
    assert cfg.init.of("rgb") == "ce"
    with pytest.raises(UserError, match=r"init\.touch is missing"):
        cfg.init.of("touch")
