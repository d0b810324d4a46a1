"""Phases that take turns: whose epoch it is; each goes on with its own optimiser and schedule, resumed or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from mml_lightning.config.phases import lengths_of
from mml_lightning.objectives import Objective
from mml_lightning.training import phases
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.phases import Phase
from mml_lightning.training.turns import KEY
from mml_lightning.utils.errors import UserError
from tests.training.test_cohort import QUIET, batches, network
from tests.training.test_phases import PEERS, Spy, plan

WHOLE = ("",)


def in_turns(**options: Any) -> Cohort:
    """rgb for an epoch; rgb and flow by turns, three epochs each; rgb again."""
    nets: Any = {name: network(modality, seed, 0.0) for seed, (name, modality) in enumerate(PEERS.items(), 5)}
    declared = [("rgb", 0, 1, 1), ("rgb", 1, 3, 2), ("flow", 2, 3, 2), ("rgb", 7, 1, 1)]
    made = []
    for number, (name, first, epochs, stride) in enumerate(declared):
        graph = Objective(list(PEERS), frozen=[peer for peer in PEERS if peer != name])
        rate = 0.1 if name == "flow" else 0.02
        made.append(
            Phase(f"p{number}", first, epochs, graph, plan(rate, epochs), {name: WHOLE}, (name,), stride, **options)
        )
    ids = [name for batch in batches() for name in batch["id"]]
    return Cohort(nets, PEERS, made[0].objective, made[0].plan, {"val": ids}, {"label": False}, phases=made)


def fitted(cohort: Cohort, folder: Path, epochs: int = 8, start: Path | None = None) -> tuple[Spy, pl.Trainer]:
    spy = Spy()
    trainer = pl.Trainer(max_epochs=epochs, default_root_dir=folder, callbacks=[spy], **QUIET)
    trainer.fit(cohort, DataLoader(batches(), batch_size=None), ckpt_path=start, weights_only=False)
    return spy, trainer


def test_whose_epoch_it_is() -> None:
    made = in_turns().phases
    assert [made.index(phases.phase_of(made, epoch)) for epoch in range(10)] == [0, 1, 2, 1, 2, 1, 2, 3, 3, 3]
    assert [phases.rounds(made, "flow", epoch) for epoch in range(9)] == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert [made[2].begun(epoch) for epoch in (2, 4, 6)] == [0, 1, 2]
    assert "every second one" in phases.describe(made[1])


def test_rates_drop_where_a_phase_says_and_momenta_go_on(tmp_path: Path) -> None:
    """Each side has its own schedule, which goes on while the other learns, and begins anew with a phase."""
    spy, _ = fitted(in_turns(), tmp_path)
    steps = len(batches())
    first = [next(iter(rates.items())) for rates, _ in spy.before[::steps]]
    assert [name.partition("/")[0] for name, _ in first] == ["rgb", "rgb", "flow", "rgb", "flow", "rgb", "flow", "rgb"]
    assert [rate for _, rate in first] == pytest.approx([0.02, 0.02, 0.1, 0.01, 0.05, 0.005, 0.025, 0.02])
    fresh = [number for number, (_, kept) in enumerate(spy.before) if kept == 0]
    assert fresh == [0, steps, 2 * steps, 7 * steps], "momenta begin anew with a phase, and not with a turn"
    for epoch in range(1, 8):
        moved = {key for key, value in spy.seen[epoch].items() if not torch.equal(value, spy.seen[epoch - 1][key])}
        own = "peers.flow." if epoch in (2, 4, 6) else "peers.rgb."
        assert moved and all(key.startswith(own) for key in moved), "the other side stays, batch norms and all"


@pytest.mark.parametrize("epoch", [1, 3, 4, 7])  # in every phase
def test_a_run_that_is_cut_after_any_epoch_is_one_that_was_not(tmp_path: Path, epoch: int) -> None:
    whole = in_turns()
    fitted(whole, tmp_path / "whole")
    _, trainer = fitted(in_turns(), tmp_path / "cut", epoch)
    trainer.save_checkpoint(tmp_path / "cut.ckpt")
    kept = torch.load(tmp_path / "cut.ckpt", weights_only=True)
    assert (KEY in kept) == (epoch in range(3, 8))
    again = in_turns()
    fitted(again, tmp_path / "again", start=tmp_path / "cut.ckpt")
    for key, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_a_frozen_half_may_stay_in_training_mode_as_released(tmp_path: Path) -> None:
    """Then its batch norms go on moving, and nothing else of it does (B14)."""
    spy, _ = fitted(in_turns(frozen_trains=True), tmp_path, 2)
    moved = {key for key, value in spy.seen[1].items() if not torch.equal(value, spy.seen[0][key])}
    flow = {key for key in moved if key.startswith("peers.flow.")}
    assert flow and all("running" in key or "tracked" in key for key in flow)


@pytest.mark.parametrize(
    ("epochs", "expected"), [(55, [5, 20, 20, 10]), (11, [1, 4, 4, 2]), (12, [1, 4, 4, 3]), (4, [1, 1, 1, 1])]
)
def test_shares_of_the_epochs(epochs: int, expected: list[int]) -> None:
    """As published for 55; two that take turns are always equally long."""
    declared = [{"share": 1}, {"share": 4}, {"share": 4, "alternate": True}, {"share": 2}]
    assert lengths_of(declared, epochs) == expected


@pytest.mark.parametrize(
    "declared",
    [
        [{"epochs": 2}, {"epochs": 3, "alternate": True}],
        [{"share": 1}, {"share": 2, "alternate": True}],
        [{}, {"alternate": True}, {"epochs": 9}],
    ],
)
def test_unequal_turns_are_refused(declared: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match=r"takes turns|don't add up"):
        lengths_of(declared, 10)
