"""Attacks of every kind, each with every command that reads such a thing: no code runs, nothing else is written."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from mml_lightning.config import guard, made_by
from tests.attacks import forged
from tests.attacks.payloads import PAYLOADS
from tests.attacks.world import CRASHED, Outcome, World
from tests.fuzz import cases


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    place = tmp_path_factory.mktemp("world")
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        with initialize_config_dir(str(cases.CONF), version_base="1.3"):
            ground = cases.prepare(place / "ground")
    made = World(place, ground)
    yield made
    GlobalHydra.instance().clear()


@pytest.fixture(autouse=True)
def cleaned(world: World) -> Iterator[None]:
    world.clean()
    yield
    world.clean()


def survives(world: World, command: forged.Command) -> Outcome:
    outcome = world.tries(*command)
    assert not outcome.hits, f"{command}: {outcome.hits}\n{outcome.said}"
    assert "HIT" not in outcome.said, f"{command}\n{outcome.said}"
    assert outcome.code not in (CRASHED, -9) and "Traceback" not in outcome.said, f"{command}\n{outcome.said}"
    assert not set("\x1b\x07\u202e") & set(outcome.said), "it steers the terminal"
    if outcome.code:
        errors = [line for line in outcome.said.splitlines() if "error:" in line]
        assert len(errors) == 1 or "mml" not in command, f"{command}\n{outcome.said}"
    return outcome


def test_good_files_pass(world: World) -> None:
    """All commands do their work where nothing is forged: an attack is not refused for another reason."""
    world.forge()
    forged.make_zoo(world)
    for command in forged.commands(world):
        outcome = survives(world, command)
        if command[1] == "rerun":  # it stops where it would begin
            continue
        assert outcome.code == 0, f"{command}\n{outcome.said}"
    forged.make_pack(world)
    for command in forged.pack_commands(world):
        outcome = survives(world, command)
        assert outcome.code == 0, f"{command}\n{outcome.said}"
    forged.config("tags: [mine]")(world)
    for command in forged.config_commands(world):
        outcome = survives(world, command)
        assert outcome.code == 0, f"{command}\n{outcome.said}"


@pytest.mark.parametrize("name", ["interpolated callback", "callback", "log", "directory of the run", "root"])
def test_attacks_hit_where_the_gate_is_open(world: World, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch sees them all: without the checks the same files do what they were made for."""
    monkeypatch.setattr(made_by, "admitted", lambda items, source, typed=(): list(items))
    monkeypatch.setattr(guard, "check", lambda cfg, typed: None)
    forge(world, f"overrides: {name}")
    hits = world.tries("eval", f"ckpt={world.forged}").hits
    assert hits and all("outside" in hit or hit == "code ran" for hit in hits), hits


# Every fifth list of overrides each time, all of them with the slow tests: they take four minutes on an idle machine.
LATER = [name for number, name in enumerate(PAYLOADS) if number % 5]
MARKED = [
    pytest.param(name, marks=pytest.mark.slow if name.removeprefix("overrides: ") in LATER else ())
    for name in forged.RUNS
]


@pytest.mark.parametrize("name", MARKED)
def test_forged_runs(world: World, name: str) -> None:
    tried = forged.commands(world)
    for command in tried[: forged.OF_OVERRIDES] if name.startswith("overrides: ") else tried:
        world.clean()  # a run that goes on writes its settings anew
        forge(world, name)
        survives(world, command)


def forge(world: World, name: str) -> None:
    world.forge()
    forged.make_zoo(world)
    forged.RUNS[name](world)


@pytest.mark.parametrize("name", forged.PACKS)
def test_forged_packs(world: World, name: str) -> None:
    forged.PACKS[name](world)
    for command in forged.pack_commands(world):
        survives(world, command)


@pytest.mark.parametrize("name", forged.CONFIGS)
def test_forged_configs(world: World, name: str) -> None:
    forged.CONFIGS[name](world)
    for command in forged.config_commands(world):
        survives(world, command)
