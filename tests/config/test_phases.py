"""Phases of the config: epochs that add up, settings of their own, mistakes by name, one identity."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning.config import objective, phases, values
from mml_lightning.config.compose import compose
from mml_lightning.config.phases import identity, settings_of_phase, shared_out, spans
from mml_lightning.runs.fingerprint import config_that_decides_weights
from mml_lightning.utils.errors import UserError

LP_FT = ("stage=lp_ft", "schedule.epochs=10")


@given(st.lists(st.none() | st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 60))
def test_epochs_add_up_or_are_refused(declared: list[int | None], epochs: int) -> None:
    try:
        found = shared_out(declared, epochs)
    except UserError as error:
        waiting = declared.count(None)
        least = sum(filter(None, declared)) + waiting
        assert least > epochs or (not waiting and least != epochs)
        assert f"schedule.epochs={least}" in str(error)
        assert shared_out(declared, least) == [1 if one is None else one for one in declared], "the advice helps"
        return
    assert sum(found) == epochs and min(found) >= 1 and len(found) == len(declared)
    assert all(one in (None, two) for one, two in zip(declared, found, strict=True))
    shares = [two for one, two in zip(declared, found, strict=True) if one is None]
    assert shares == sorted(shares, reverse=True) and (not shares or shares[0] - shares[-1] <= 1)


def test_a_phase_has_the_settings_of_the_run_but_its_own(hydra: None) -> None:
    adamw = "{groups: plain, lr: 0.1, optimizer: {_target_: torch.optim.AdamW, _partial_: true}}"
    words = [*LP_FT, "phases.0.epochs=3", f"+phases.1.optimizer={adamw}"]
    words += ["+phases.1.schedule={interval: epoch, factor: {warmup_epochs: 2}}", "+phases.1.objective={headed: [rgb]}"]
    cfg = compose("train", words)
    values.check_job(cfg)
    assert [(one.name, one.first, one.epochs) for one in spans(cfg)] == [("head", 0, 3), ("all", 3, 7)]
    head, rest = (settings_of_phase(cfg, number) for number in (0, 1))
    assert head.optimizer == cfg.optimizer and head.objective == cfg.objective and head.schedule.epochs == 3
    assert (rest.optimizer.groups, rest.optimizer.lr, rest.optimizer.weight_decay) == ("plain", 0.1, 0.0005)
    assert rest.plain("optimizer.optimizer") == {"_target_": "torch.optim.AdamW", "_partial_": True}, "no momentum"
    assert (rest.schedule.epochs, rest.schedule.interval) == (7, "epoch")
    factor = cfg.plain("schedule.factor")
    assert rest.plain("schedule.factor") == {**factor, "warmup_epochs": 2}
    assert rest.plain("objective.headed") == ["rgb"] and not rest.phases


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["phases=null"], r"^phases=None must be a list of tables"),
        (["phases=[1]"], r"^phases\.0=1 must be a table with name, train, epochs"),
        (["phases=[{epochs: 2}]"], r"^phases\.0\.name is missing"),
        (["phases=[{name: a/b}]"], r"^phases\.0\.name='a/b' must be a word"),
        (["phases=[{name: a}, {name: a}]"], r"^phases\.1\.name=a is already the name of another phase"),
        (["phases=[{name: a, epochs: 1.5}]"], r"^phases\.0\.epochs=1\.5 must be a whole number from 1"),
        (["phases=[{name: a, epochs: true}]"], r"^phases\.0\.epochs=True must be"),
        (["phases=[{name: a, train: []}]"], r"^phases\.0\.train=\[\] must be a list of parts"),
        (["phases=[{name: a, train: rgb}]"], r"^phases\.0\.train=rgb must be a list of parts"),
        (
            ["phases=[{name: a, train: [rest.head]}]"],
            r"^phases\.0\.train: rest\.head matches no peer; the run has rgb: use",
        ),
        (["phases=[{name: a, optimizer: 3}]"], r"^phases\.0\.optimizer=3 must be a table"),
        (["phases=[{name: a, schedule: {epochs: 3}}]"], r"^phases\.0\.schedule\.epochs: say how long"),
        (["phases=[{name: a, optimizer: {rate: 3}}]"], r"^phases\.0 \(a\): unknown setting phases\.0\.optimizer\.rate"),
        (["phases=[{name: a, optimizer: {lr: fast}}]"], r"^phases\.0 \(a\): optimizer\.lr=fast must be a number"),
        (["phases=[{name: a, schedule: {interval: day}}]"], r"^phases\.0 \(a\): schedule\.interval='day' is unknown"),
        (["phases=[{name: a, epochs: 3}]"], r"^phases: their epochs \(3\) don't add up to the schedule\.epochs=36"),
        (["phases=[{name: a, objective: {edges: [{lesson: kl}]}}]"], r"needs two peers, the run has one"),
    ],
)
def test_a_mistake_is_named(hydra: None, words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        values.check_job(compose("train", words))


@pytest.mark.parametrize("stage", ["linear_probe", "lp_ft"])
@pytest.mark.parametrize("modality", ["[rgb]", "[rgb,flow]"])
def test_the_stages_train_the_heads_of_all_first(hydra: None, stage: str, modality: str) -> None:
    cfg = compose("train", [f"stage={stage}", f"modality={modality}"])
    values.check_job(cfg)
    peers = phases.names_of_peers(cfg)
    first, *more = objective.lessons(cfg, peers)
    assert first.words == tuple(f"{peer}.head" for peer in peers) and cfg.init.new_head
    assert [one.words for one in more] == ([tuple(peers)] if stage == "lp_ft" else [])


def test_what_is_not_trained_in_a_phase_only_teaches(hydra: None) -> None:
    declared = "phases=[{name: a, train: [flow.trunk, flow.head]}, {name: b, train: [rgb, rgb_1]}]"
    cfg = compose("train", ["stage=mml", "modality=[rgb,flow]", "stage.copies=2", "schedule.epochs=2", declared])
    peers = phases.names_of_peers(cfg)
    first, second = objective.lessons(cfg, peers)
    assert peers == ["rgb", "rgb_1", "flow", "flow_1"] and first.parts == {"flow": ["trunk", "head"]}
    assert first.graph.frozen == {"rgb", "rgb_1", "flow_1"} and {edge.student for edge in first.graph.edges} == {"flow"}
    assert second.graph.frozen == {"flow", "flow_1"} and objective.never_trained(cfg, peers) == {"flow_1"}


def test_words_mean_the_peers_that_learn(hydra: None) -> None:
    """A frozen teacher is no part of `all`; named, it is a contradiction."""
    kd = ["stage=kd", "modality=[rgb,flow]"]
    cfg = compose("train", [*kd, "phases=[{name: a, train: [all.head]}, {name: b}]"])
    assert [one.words for one in objective.lessons(cfg, ["rgb", "flow"])] == [("rgb.head",), ("rgb",)]
    with pytest.raises(UserError, match=r"^phases\.0\.train: flow is frozen by objective=kd"):
        objective.lessons(compose("train", [*kd, "phases=[{name: a, train: [flow]}]"]), ["rgb", "flow"])


def decides(*words: str) -> dict[str, Any]:
    return config_that_decides_weights(compose("train", [*words]).plain())


def test_phases_are_known_by_what_they_do(hydra: None) -> None:
    """Epochs that are counted are those that are typed; what differs in any other way, or in order, is another run."""
    assert "phases" not in decides("stage=ce") and identity({"phases": [], "schedule": {}}) == identity({}) == {}
    counted = decides(*LP_FT)
    assert counted == decides(*LP_FT, "phases.0.epochs=5") == decides(*LP_FT, "phases.0.epochs=5", "phases.1.epochs=5")
    assert counted["phases"]["1"] == {"name": "all", "train": ["all"], "epochs": 5, "optimizer": {"lr": 0.05}}
    others = ("phases.0.epochs=4", "phases.1.train=[rgb.net.layer4]", "phases.1.optimizer.lr=0.1", "phases=[]")
    turned = "phases=[{name: all, train: [all], epochs: 5}, {name: head, train: [all.head], epochs: 5}]"
    found = [decides(*LP_FT, word) for word in (*others, turned)]
    assert all(one != counted for one in found) and found[-1]["phases"]["0"]["name"] == "all"
