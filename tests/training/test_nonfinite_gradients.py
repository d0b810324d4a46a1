"""A step that is not finite: the peer stays as it was, the others go on, and it is told."""

from __future__ import annotations

import csv
import dataclasses
import functools
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

from mml_lightning.training.cohort import Cohort
from mml_lightning.training.nonfinite_gradients import NonFinite, NonFiniteSettings, not_finite
from mml_lightning.training.parameter_groups import fused
from mml_lightning.utils.errors import UserError
from tests.training import test_cohort as lab


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


def by_flag(cohort: Cohort) -> Cohort:
    """Its optimiser as a run makes it: the host need not know whether a step is left out."""
    make = fused(cohort.plan.optimizer, "64-true")  # type: ignore[arg-type]
    cohort.plan = dataclasses.replace(cohort.plan, optimizer=make)
    return cohort


def at_once(cohort: Cohort) -> Cohort:
    """With an optimiser of torch's own the host must know first."""
    return cohort


WAYS = pytest.mark.parametrize("way", [by_flag, at_once])
Way = Callable[[Cohort], Cohort]


def fit(
    cohort: Cohort, folder: Path, batches: list[Any], settings: Any = None, callbacks: Any = (), **more: Any
) -> NonFinite:
    callback = NonFinite(folder, settings or NonFiniteSettings())
    trainer = pl.Trainer(**{**lab.QUIET, "max_epochs": 1, **more}, callbacks=[callback, *callbacks])
    trainer.fit(cohort, loader(batches))
    return callback


def loader(batches: list[Any]) -> Any:
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]


def state(cohort: Cohort) -> dict[str, torch.Tensor]:
    """Weights, buffers, and what the optimiser keeps."""
    optimiser = cohort.optimizers().optimizer  # type: ignore[union-attr]
    kept = {
        f"{key} of {name}": value
        for name, parameter in cohort.named_parameters()
        for key, value in optimiser.state[parameter].items()
    }
    return {**cohort.state_dict(), **kept}


def assert_equal(one: Cohort, *others: Cohort) -> None:
    first, second = state(one), {key: value for other in others for key, value in state(other).items()}
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "nonfinite.csv").open() as handle:
        return list(csv.DictReader(handle))


@WAYS
@pytest.mark.parametrize("bad", [0, 2, 3])
def test_a_spoilt_step_leaves_no_trace(bad: int, way: Way, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The run is that without the batch, to the last bit: weights, momenta, running statistics; be it the first step,
    before which there are no momenta, or the last one, after which there is none to hear of it in."""
    one, other = (way(lab.make_cohort({"rgb": lab.RGB}, dropout=0.0)) for _ in range(2))
    callback = fit(spoilt(one, "rgb", f"v{bad}_1"), tmp_path, lab.batches(4))
    fit(other, tmp_path, [batch for batch in lab.batches(4) if f"v{bad}_1" not in batch["id"]])
    assert_equal(one, other)
    assert callback.skipped == {"rgb": 1} and callback.row == {"rgb": int(bad == 3)}
    [row] = rows(tmp_path)
    where = {"epoch": "1", "step": f"{bad + 1}", "peers": "rgb", "rank": "0"}
    assert row == {**where, "loss": "nan", "videos": " ".join(f"v{bad}_{i}" for i in range(4))}
    assert f"epoch 1, step {bad + 1}: the gradients of rgb are not finite; the step is skipped (rgb: 1)" in caplog.text
    assert not (tmp_path / "nonfinite").exists()


@WAYS
def test_peers_without_lessons_do_not_hear_of_it(way: Way, tmp_path: Path) -> None:
    """Joint training still equals separate training: the other peer takes every step, and the spoilt one all but one.
    Norms are clipped: that of the spoilt one is no number."""
    both = way(lab.make_cohort({"rgb": lab.RGB, "flow": lab.FLOW}, dropout=0.0))
    rgb, flow = (
        way(lab.make_cohort({m.name: m}, dropout=0.0, nets={m.name: lab.network(m, seed, 0.0)}))
        for m, seed in ((lab.RGB, 5), (lab.FLOW, 6))
    )
    assert fit(spoilt(both, "rgb", "v1_0"), tmp_path, lab.batches(3)).skipped == {"rgb": 1}
    fit(flow, tmp_path, lab.batches(3))
    fit(rgb, tmp_path, lab.batches(3)[::2])
    assert_equal(both, rgb, flow)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_other_optimisers_that_take_a_flag(kind: Any, tmp_path: Path) -> None:
    one, other = (lab.make_cohort({"rgb": lab.RGB}, dropout=0.0) for _ in range(2))
    for cohort in (one, other):
        cohort.plan = dataclasses.replace(cohort.plan, optimizer=functools.partial(kind, betas=(0.9, 0.99)))
        assert by_flag(cohort).plan.optimizer(cohort.plan.parameter_groups("rgb", cohort.peers["rgb"])).heeds_flags()  # type: ignore[attr-defined]
    assert fit(spoilt(one, "rgb", "v1_0"), tmp_path, lab.batches(4)).skipped == {"rgb": 1}
    fit(other, tmp_path, lab.batches(4)[:1] + lab.batches(4)[2:])
    assert_equal(one, other)


def test_who_learns_from_a_spoilt_peer_is_left_out_too(tmp_path: Path) -> None:
    one, other = (
        by_flag(lab.make_cohort({"rgb": lab.RGB, "flow": lab.FLOW}, lab.MUTUAL, dropout=0.0)) for _ in range(2)
    )
    callback = fit(spoilt(one, "flow", "v0_0"), tmp_path, lab.batches(3))
    fit(other, tmp_path, lab.batches(3)[1:])
    assert_equal(one, other)
    assert callback.skipped == {"rgb": 1, "flow": 1} and rows(tmp_path)[0]["peers"] == "rgb flow"


@WAYS
def test_one_bad_batch_of_an_accumulated_step(way: Way, tmp_path: Path) -> None:
    """The whole step is left out; the batch that did it is named alone, and kept if asked."""
    one, other = (way(lab.make_cohort({"rgb": lab.RGB}, dropout=0.0)) for _ in range(2))
    settings = NonFiniteSettings(keep_batch=True)
    fit(spoilt(one, "rgb", "v2_1"), tmp_path, lab.batches(6), settings, accumulate_grad_batches=2)
    rest = lab.batches(6)[:2] + lab.batches(6)[4:]
    fit(other, tmp_path, rest, accumulate_grad_batches=2)
    assert_equal(one, other)
    assert [row["videos"] for row in rows(tmp_path)] == ["v2_0 v2_1 v2_2 v2_3"]
    kept = [torch.load(file, weights_only=True) for file in sorted((tmp_path / "nonfinite").iterdir())]
    assert [batch["id"][0] for batch in kept] == ["v2_0", "v3_0"]
    assert torch.equal(kept[0]["clips"]["rgb"], lab.batches(6)[2]["clips"]["rgb"])


@WAYS
def test_too_many_in_a_row_end_the_run(way: Way, tmp_path: Path) -> None:
    """With the weights of before, though the host hears of the step a step later."""
    every = [f"v{i}_0" for i in range(9)]
    message = (
        r"epoch 1, step 5: the gradients of rgb are not finite, as in the previous 3 steps \(nonfinite\.stop_after\); "
        r"see .*nonfinite\.csv; lower optimizer\.lr, or set optimizer\.clip_norm"
    )
    settings = NonFiniteSettings(stop_after=3)
    one, other = (way(lab.make_cohort({"rgb": lab.RGB}, dropout=0.0)) for _ in range(2))
    with pytest.raises(UserError, match=message):
        fit(spoilt(one, "rgb", *every[1:]), tmp_path, lab.batches(9), settings)
    assert len(rows(tmp_path)) == 4
    fit(other, tmp_path, lab.batches(1))
    assert all(torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True))
    apart = spoilt(way(lab.make_cohort({"rgb": lab.RGB})), "rgb", *every[::2])
    assert fit(apart, tmp_path, lab.batches(9), NonFiniteSettings(stop_after=1)).skipped == {"rgb": 5}


@WAYS
@pytest.mark.parametrize("last", [False, True])
def test_the_first_ends_the_run(last: bool, way: Way, tmp_path: Path) -> None:
    first = spoilt(way(lab.make_cohort({"rgb": lab.RGB})), "rgb", "v0_0")
    with pytest.raises(UserError, match=r"step 1: .* or nonfinite\.policy=skip"):
        fit(first, tmp_path, lab.batches(1 if last else 3), NonFiniteSettings("stop"))


def test_a_run_that_breaks_has_told(tmp_path: Path) -> None:
    class Break(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise KeyError("elsewhere")

    with pytest.raises(KeyError, match="elsewhere"):
        fit(
            spoilt(by_flag(lab.make_cohort({"rgb": lab.RGB})), "rgb", "v0_0"), tmp_path, lab.batches(2), None, [Break()]
        )
    assert [row["step"] for row in rows(tmp_path)] == ["1"]


def test_a_checkpoint_right_after_a_spoilt_step(tmp_path: Path) -> None:
    """It knows of the step; the run that goes on from it ends as the one that was never interrupted."""

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 1:
                trainer.save_checkpoint(tmp_path / "last.ckpt")

    made = (by_flag(lab.make_cohort({"rgb": lab.RGB}, dropout=0.0)) for _ in range(2))
    whole, resumed = (spoilt(cohort, "rgb", "v1_0", "v3_0") for cohort in made)
    before = fit(whole, tmp_path, lab.batches(4), None, [Save()])
    assert (before.skipped, before.row) == ({"rgb": 2}, {"rgb": 1})
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["NonFinite"]
    assert (saved["skipped"], saved["row"], len(saved["rows"])) == ({"rgb": 1}, {"rgb": 1}, 1)
    told = rows(tmp_path)
    (tmp_path / "nonfinite.csv").unlink()
    after = NonFinite(tmp_path, NonFiniteSettings())
    trainer = pl.Trainer(**lab.QUIET, max_epochs=1, callbacks=[after])
    left = lab.batches(4)[2:] + lab.batches(4)[:2]  # this loader knows nothing of where it was
    trainer.fit(resumed, loader(left), ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True)
    assert (after.skipped, after.row, rows(tmp_path)) == (before.skipped, before.row, told)
    assert_equal(whole, resumed)


def test_large_gradients_are_finite() -> None:
    net, other = torch.nn.Linear(2, 2), torch.nn.Linear(1, 1)
    device = torch.device("cpu")
    assert not_finite([net], device).tolist() == [0]
    net.weight.grad = torch.full((2, 2), 3e38)  # the sum of their squares is not
    net.bias.grad = torch.tensor([-0.0, 1e-45])
    before = [p.grad.clone().view(torch.int32) for p in net.parameters() if p.grad is not None]
    assert not_finite([net], device).tolist() == [0]
    after = [p.grad.view(torch.int32) for p in net.parameters() if p.grad is not None]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True)), "looking changes nothing"
    for value in ("inf", "-inf", "nan"):
        net.weight.grad[0, 1] = float(value)
        assert not_finite([net, other], device).tolist() == [1, 0]


def test_a_diverging_run_ends_with_one_line(train: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gradients of rgb are not finite, as in the previous 2 steps"):
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
    cohort = by_flag(lab.make_cohort({"rgb": lab.RGB}, dropout=0.0))
    if rank == 1:
        spoilt(cohort, "rgb", "v1_0")
    more = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
    callback = fit(cohort, Path(folder), lab.batches(3), **more)
    assert callback.skipped == {"rgb": 1}
    weights = {key: value for key, value in cohort.state_dict().items() if not key.endswith(("mean", "var", "tracked"))}
    torch.save(weights, Path(folder) / f"{rank}.pt")
