"""A step that is not finite: the peer stays as it was, the others go on, and it is told."""

from __future__ import annotations

import csv
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from mml_lightning.cohort import Cohort
from mml_lightning.errors import UserError
from mml_lightning.nonfinite import NonFinite, NonFiniteSettings, finite_gradients
from tests import test_cohort as lab


def spoilt(cohort: Cohort, peer: str, *videos: str) -> Cohort:
    """The first activations of `peer` become NaN in batches with one of `videos`: the network's fault, so that its
    running statistics see them too."""
    poison: list[bool] = [False]

    def begin(module: Any, inputs: Any) -> None:
        poison[0] = bool(set(videos) & set(cohort.told))  # type: ignore[operator]

    step = cohort.training_step

    def training_step(batch: Any, batch_idx: int) -> Any:
        cohort.told = batch["id"]  # type: ignore[assignment]
        return step(batch, batch_idx)

    cohort.training_step = training_step  # type: ignore[method-assign]
    cohort.peers[peer].register_forward_pre_hook(begin)
    stem = cohort.peers[peer].get_submodule(cohort.peers[peer].stem_name)  # type: ignore[arg-type]
    stem.register_forward_hook(lambda module, inputs, output: output * float("nan") if poison[0] else output)
    return cohort


def fit(cohort: Cohort, folder: Path, batches: list[Any], settings: Any = None, **more: Any) -> NonFinite:
    callback = NonFinite(folder, settings or NonFiniteSettings())
    trainer = pl.Trainer(**{**lab.QUIET, "max_epochs": 1, **more}, callbacks=[callback])
    trainer.fit(cohort, DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch))  # type: ignore[arg-type]
    return callback


def state(cohort: Cohort) -> dict[str, torch.Tensor]:
    optimiser = cohort.optimizers().optimizer  # type: ignore[union-attr]
    momenta = {f"momentum {i}": s["momentum_buffer"] for i, s in enumerate(optimiser.state.values())}
    return {**cohort.state_dict(), **momenta}


def assert_equal(one: Cohort, other: Cohort) -> None:
    first, second = state(one), state(other)
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "nonfinite.csv").open() as handle:
        return list(csv.DictReader(handle))


def test_a_spoilt_step_leaves_no_trace(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The run is that without the batch, to the last bit: weights, momenta, running statistics."""
    one, other = (lab.make_cohort({"rgb": lab.RGB}, dropout=0.0) for _ in range(2))
    callback = fit(spoilt(one, "rgb", "v2_1"), tmp_path, lab.batches(4))
    fit(other, tmp_path, [batch for batch in lab.batches(4) if "v2_1" not in batch["id"]])
    assert_equal(one, other)
    assert callback.skipped == {"rgb": 1} and callback.row == {"rgb": 0}
    [row] = rows(tmp_path)
    where = {"epoch": "1", "step": "3", "peers": "rgb", "rank": "0"}
    assert row == {**where, "loss": "nan", "videos": "v2_0 v2_1 v2_2 v2_3"}
    assert "epoch 1, step 3: the gradients of rgb are not finite; the step is left out (rgb: 1)" in caplog.text
    assert not (tmp_path / "nonfinite").exists()


def test_peers_without_lessons_do_not_hear_of_it(tmp_path: Path) -> None:
    """Joint training still equals separate training: the other peer takes every step."""
    both = lab.make_cohort({"rgb": lab.RGB, "flow": lab.FLOW}, dropout=0.0)
    nets = {"flow": lab.network(lab.FLOW, 6, 0.0)}
    alone = lab.make_cohort({"flow": lab.FLOW}, dropout=0.0, nets=nets)
    assert fit(spoilt(both, "rgb", "v1_0"), tmp_path, lab.batches(3)).skipped == {"rgb": 1}
    fit(alone, tmp_path, lab.batches(3))
    for name, value in alone.peers["flow"].state_dict().items():
        assert torch.equal(value, both.peers["flow"].state_dict()[name]), name


def test_who_learns_from_a_spoilt_peer_is_left_out_too(tmp_path: Path) -> None:
    one, other = (lab.make_cohort({"rgb": lab.RGB, "flow": lab.FLOW}, lab.MUTUAL, dropout=0.0) for _ in range(2))
    callback = fit(spoilt(one, "flow", "v0_0"), tmp_path, lab.batches(3))
    fit(other, tmp_path, lab.batches(3)[1:])
    assert_equal(one, other)
    assert callback.skipped == {"rgb": 1, "flow": 1} and rows(tmp_path)[0]["peers"] == "rgb flow"


def test_one_bad_batch_of_an_accumulated_step(tmp_path: Path) -> None:
    """The whole step is left out; the batch that did it is named alone, and kept if asked."""
    one, other = (lab.make_cohort({"rgb": lab.RGB}, dropout=0.0) for _ in range(2))
    settings = NonFiniteSettings(keep_batch=True)
    fit(spoilt(one, "rgb", "v2_1"), tmp_path, lab.batches(6), settings, accumulate_grad_batches=2)
    rest = lab.batches(6)[:2] + lab.batches(6)[4:]
    fit(other, tmp_path, rest, accumulate_grad_batches=2)
    assert_equal(one, other)
    assert [row["videos"] for row in rows(tmp_path)] == ["v2_0 v2_1 v2_2 v2_3"]
    kept = [torch.load(file, weights_only=True) for file in sorted((tmp_path / "nonfinite").iterdir())]
    assert [batch["id"][0] for batch in kept] == ["v2_0", "v3_0"]
    assert torch.equal(kept[0]["clips"]["rgb"], lab.batches(6)[2]["clips"]["rgb"])


def test_too_many_in_a_row_end_the_run(tmp_path: Path) -> None:
    every = [f"v{i}_0" for i in range(9)]
    message = (
        r"epoch 1, step 4: the gradients of rgb are not finite, as in the 3 steps before \(nonfinite\.stop_after\); "
        r"see .*nonfinite\.csv; lower optimizer\.lr, or set optimizer\.clip_norm"
    )
    settings = NonFiniteSettings(stop_after=3)
    with pytest.raises(UserError, match=message):
        fit(spoilt(lab.make_cohort({"rgb": lab.RGB}), "rgb", *every), tmp_path, lab.batches(9), settings)
    assert len(rows(tmp_path)) == 4
    apart = spoilt(lab.make_cohort({"rgb": lab.RGB}), "rgb", *every[::2])
    assert fit(apart, tmp_path, lab.batches(9), NonFiniteSettings(stop_after=1)).skipped == {"rgb": 5}
    with pytest.raises(UserError, match=r"step 1: .* or nonfinite\.policy=skip"):
        first = spoilt(lab.make_cohort({"rgb": lab.RGB}), "rgb", "v0_0")
        fit(first, tmp_path, lab.batches(2), NonFiniteSettings("stop"))


def test_counts_survive_a_resume(tmp_path: Path) -> None:
    before = fit(spoilt(lab.make_cohort({"rgb": lab.RGB}), "rgb", "v0_0"), tmp_path, lab.batches(1))
    after = NonFinite(tmp_path, NonFiniteSettings())
    after.load_state_dict(before.state_dict())
    assert (after.skipped, after.row, after.rows) == ({"rgb": 1}, {"rgb": 1}, before.rows)


def test_large_gradients_are_finite() -> None:
    net = torch.nn.Linear(2, 2)
    assert finite_gradients([net]) == [True]
    net.weight.grad = torch.full((2, 2), 3e38)  # the sum of their squares is not
    assert finite_gradients([net]) == [True]
    net.weight.grad[0, 1] = float("inf")
    assert finite_gradients([net, torch.nn.Linear(1, 1)]) == [False, True]


def test_a_diverging_run_ends_with_one_line(train: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gradients of rgb are not finite, as in the 2 steps before"):
        train("optimizer.lr=1e30", "nonfinite.stop_after=2", run="wild")
    told = json.loads((tmp_path / "single" / "wild" / "result.json").read_text())
    assert told["status"] == "failed" and "not finite" in told["error"] and not (tmp_path / "zoo").exists()
    assert train(run="tame")["skipped_steps"] == {}
    for wrong in ("policy=hope", "stop_after=0", "keep_batch=1"):
        with pytest.raises(UserError, match=rf"nonfinite\.{wrong.partition('=')[0]}="):
            train(f"nonfinite.{wrong}", run="wrong")
    assert not (tmp_path / "single" / "wrong").exists()


def test_two_ranks_decide_alike(tmp_path: Path) -> None:
    """One rank's batch is spoilt: both leave the step out, and end with the same weights."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_rank, (str(tmp_path), str(port)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
    assert [(row["rank"], row["step"], row["videos"]) for row in rows(tmp_path)] == [("1", "2", "v1_0 v1_1 v1_2 v1_3")]


def _rank(rank: int, folder: str, port: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": "2", "NODE_RANK": "0", "TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0"}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    cohort = lab.make_cohort({"rgb": lab.RGB}, dropout=0.0)
    if rank == 1:
        spoilt(cohort, "rgb", "v1_0")
    more = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
    callback = fit(cohort, Path(folder), lab.batches(3), **more)
    assert callback.skipped == {"rgb": 1}
    weights = {key: value for key, value in cohort.state_dict().items() if not key.endswith(("mean", "var", "tracked"))}
    torch.save(weights, Path(folder) / f"{rank}.pt")
