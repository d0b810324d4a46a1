"""backbone.<modality>=: which networks a config has, however it says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException

from mml_lightning.config import backbones, guard
from mml_lightning.config.compose import compose
from mml_lightning.config.overrides import holding, modalities_in
from mml_lightning.config.settings import Settings
from mml_lightning.config.values import check_values
from mml_lightning.utils.errors import UserError
from tests.conftest import CONF

BOTH = "modality=[rgb,flow]"


def made(*words: str) -> Settings:
    return compose("train", [*words, "paths.output_dir=out"])


def identity(*words: str) -> Any:
    return backbones.identity(made(*words).plain())


def test_a_config_without_any_is_as_it_was(hydra: None) -> None:
    cfg = made(BOTH)
    assert set(cfg.plain("backbone")) == {"name", "net"} and identity(BOTH) == cfg.plain("backbone")
    assert backbones.label(cfg) == "tiny" and backbones.of(cfg, "flow") is cfg.backbone


def test_an_option_and_its_settings(hydra: None) -> None:
    cfg = made(BOTH, "backbone.flow.net.dropout=0.8", "backbone.flow=i3d_tiny", "transforms.output=64")
    flow = backbones.of(cfg, "flow")
    assert (flow.name, *(flow.net[key] for key in ("kind", "dropout", "crop"))) == ("i3d_tiny", "i3d", 0.8, 64)
    assert backbones.of(cfg, "rgb") is cfg.backbone and backbones.label(cfg) == "rgb=tiny, flow=i3d_tiny"
    assert backbones.word(cfg, "flow") == "backbone.flow" and backbones.word(cfg, "rgb") == "backbone"


def test_a_setting_alone_is_of_a_copy_of_the_network_of_all(hydra: None) -> None:
    cfg = made(BOTH, "backbone=tsm_resnet18", "backbone.net.width=32", "backbone.flow.net.dropout=0.8")
    flow = backbones.of(cfg, "flow").net
    assert (flow["width"], flow["dropout"], cfg.backbone.net["dropout"]) == (32, 0.8, 0.5)
    added = made(BOTH, "+backbone.flow.net.nonlocal_blocks=true")
    assert backbones.of(added, "flow").net["nonlocal_blocks"] is True
    assert "nonlocal_blocks" not in added.backbone.net


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("backbone=tsm_resnet18",), ("backbone.rgb=tsm_resnet18",)),
        (("backbone=tsm_resnet18", BOTH), (BOTH, "backbone.rgb=tsm_resnet18", "backbone.flow=tsm_resnet18")),
        ((BOTH,), (BOTH, "backbone.flow=tiny")),
        ((BOTH,), (BOTH, "backbone.flow=null")),
        ((BOTH, "backbone.net.width=8"), (BOTH, "backbone.net.width=8", "backbone.flow.net.width=8")),
        (
            (BOTH, "backbone.flow=tsm_resnet18"),
            (BOTH, "backbone=tsm_resnet18", "backbone.rgb=tiny"),
        ),
    ],
)
def test_what_is_said_in_two_ways_is_one_network(hydra: None, one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert identity(*one) == identity(*other)


def test_and_other_networks_are_others(hydra: None) -> None:
    ways = [(), ("backbone.flow=tsm_resnet18",), ("backbone.rgb=tsm_resnet18",), ("backbone.flow.net.width=8",)]
    found = [identity(BOTH, *words) for words in ways]
    assert all(one != other for n, one in enumerate(found) for other in found[:n])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("backbone.rgb=tsm_resnet81",),
            r"backbone\.rgb=tsm_resnet81 is unknown \(did you mean tsm_resnet18\?\); use one of",
        ),
        (("backbone.rgb=../data/demo",), r"backbone\.rgb=\.\./data/demo is unknown"),
        (("backbone.rgb={net: {width: 4}}",), r"is unknown; use one of"),
        (("backbone.rgb=18",), r"backbone\.rgb=18 is unknown"),
        (("backbone.flow=tiny",), r"backbone\.flow is set, but the run uses rgb only: .*modality=\[rgb,flow\]"),
        (("backbone.flow.net.width=8",), r"backbone\.flow is set, but the run uses rgb only"),
        (("backbone.flow=null",), r"backbone\.flow is set, but the run uses rgb only"),
        (("backbone.flwo=tiny", BOTH), r"unknown setting backbone\.flwo \(did you mean backbone\.flow\?\)"),
        (
            ("backbone.flow.net.widht=8", BOTH),
            r"unknown setting backbone\.flow\.net\.widht .*did you mean backbone\.flow\.net\.width\?",
        ),
        (
            ("backbone.flow=i3d_tiny", "backbone.flow.net.shift=true", BOTH),
            r"unknown setting .*flow\.net\.shift of i3d_tiny",
        ),
    ],
)
def test_mistakes_are_one_line(hydra: None, words: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        made(*words)
    assert "\n" not in str(caught.value)


def test_errors_of_hydra_name_what_was_typed(hydra: None) -> None:
    with pytest.raises(HydraException, match=r"'backbone\.rgb=a,b'"):
        made("backbone.rgb=a,b")
    with pytest.raises(UserError, match=r"backbone\.rgb\.name='\.\.' must be a folder name"):
        check_values(made("backbone.rgb.name='..'"))


@pytest.fixture
def conf(tmp_path: Path) -> Iterator[Callable[[str, str], None]]:
    """conf("setup/mine", yaml) adds a file of configs to those of the project."""
    GlobalHydra.instance().clear()
    guard.install()

    def add(name: str, text: str) -> None:
        file = tmp_path / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield add


def from_files(tmp_path: Path, *words: str) -> Settings:
    return made(f"hydra.searchpath=[{tmp_path}]", *words)


def test_a_setup_chooses_it_where_the_run_has_the_modality(conf: Callable[[str, str], None], tmp_path: Path) -> None:
    setup = "# @package _global_\ndefaults: [demo, _self_]\nbackbone: {flow: tsm_resnet18}\n"
    conf("setup/mine", setup)
    assert backbones.label(from_files(tmp_path, "setup=mine", BOTH)) == "rgb=tiny, flow=tsm_resnet18"
    assert backbones.label(from_files(tmp_path, "setup=mine")) == "tiny"
    assert (
        backbones.label(from_files(tmp_path, "setup=mine", BOTH, "backbone.flow=i3d_tiny")) == "rgb=tiny, flow=i3d_tiny"
    )
    assert backbones.label(from_files(tmp_path, "setup=mine", BOTH, "backbone.flow=null")) == "tiny"
    narrow = backbones.of(from_files(tmp_path, "setup=mine", BOTH, "backbone.flow.net.width=8"), "flow")
    assert (narrow.name, narrow.net["width"]) == ("tsm_resnet18", 8)


def test_an_option_of_the_user_with_defaults_of_its_own(conf: Callable[[str, str], None], tmp_path: Path) -> None:
    conf("backbone/mine", "defaults: [tsm_resnet18, _self_]\nname: mine\nnet: {width: 16}\n")
    flow = backbones.of(from_files(tmp_path, BOTH, "backbone.flow=mine"), "flow")
    assert (flow.name, flow.net["depth"], flow.net["width"]) == ("mine", 18, 16)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("backbone: {flwo: tiny}", r"backbone\.flwo=tiny: no modality flwo \(did you mean flow\?\)"),
        ("backbone: {flow: tinny}", r"backbone\.flow=tinny is unknown \(did you mean tiny\?\)"),
        ("backbone: {flow: {net: {width: 8}}}", r"backbone\.flow=.* is unknown"),
        ("backbone: {flow: '${oc.env:HOME}'}", r"is unknown"),
        ("backbone: {_typed_: 3}", r"unknown setting backbone\._typed_"),
        ("backbone: {_typed_: {flow: 3}}", r"unknown setting backbone\._typed_"),
        ("backbone: {_typed_: {flow: {added: {net: {_target_: os.system}}}}}", r"os\.system"),
    ],
)
def test_mistakes_of_files(conf: Callable[[str, str], None], tmp_path: Path, text: str, told: str) -> None:
    conf("setup/mine", f"# @package _global_\ndefaults: [demo, _self_]\n{text}\n")
    with pytest.raises(UserError, match=told):
        from_files(tmp_path, "setup=mine", BOTH)


def test_words_hold_where_the_run_has_their_modality() -> None:
    words = ["backbone=tiny", "backbone.net.width=8", "backbone.name=x", "backbone.flow=tiny", "+backbone.flow.net.a=1"]
    words += ["modality.flow.window=3", "+backbone.mine=1", "seed=1"]
    assert holding(words, ["rgb", "flow"], ["rgb", "flow"]) == words
    assert holding(words, ["rgb", "flow"], ["rgb"]) == [word for word in words if "flow" not in word]
    assert modalities_in(["modality=[rgb]", "seed=1", "modality=[rgb,flow]"]) == ["rgb", "flow"]
    assert modalities_in(["modality.flow.window=3"]) is None


def test_what_was_typed_is_what_a_run_keeps(hydra: None) -> None:
    words = [BOTH, "backbone.flow=i3d_tiny", "backbone.flow.net.width=4"]
    loader = GlobalHydra.instance().config_loader()
    from hydra.types import RunMode

    assert list(loader.load_configuration("train", words, RunMode.RUN).hydra.overrides.task) == words
    swept = [BOTH, "backbone.flow=tiny,i3d_tiny"]
    assert list(loader.load_configuration("train", swept, RunMode.MULTIRUN).hydra.overrides.task) == swept
