"""Phases: what is frozen stays to the bit, each begins with a fresh optimiser and schedule, and equals a plain loop."""

from __future__ import annotations

import copy
import csv
import functools
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mml_lightning.backbones.batch_norm import batch_norms
from mml_lightning.backbones.cost import kept_for_backward
from mml_lightning.config.compose import save
from mml_lightning.objectives import Objective
from mml_lightning.report import details
from mml_lightning.training import checkpoints, phases
from mml_lightning.training.arithmetic import in_phase, training_operations
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.optimiser_plan import OptimiserPlan
from mml_lightning.training.parameter_groups import SGD
from mml_lightning.training.phases import Phase, modules_of
from mml_lightning.training.weight_average import AverageWeights
from mml_lightning.utils.errors import UserError
from tests.conftest import weights
from tests.training.test_cohort import FLOW, MUTUAL, QUIET, RGB, batches, network

HEAD = ("dropout", "heads")
PEERS = {"rgb": RGB, "flow": FLOW}
Train = Callable[..., dict[str, Any]]


def plan(lr: float, epochs: int, **options: Any) -> OptimiserPlan:
    made = functools.partial(SGD, momentum=0.9, fused=True)
    return OptimiserPlan(made, "tsn", lr, 5e-4, lambda epoch: 0.5**epoch, epochs, clip_norm=0.1, **options)


def in_phases(*declared: tuple[Mapping[str, tuple[str, ...]], float, int], edges: Any = ()) -> Cohort:
    """A cohort of rgb and flow without dropout, whose phases are (what they train, rate, epochs)."""
    nets: Any = {name: network(modality, seed, 0.0) for seed, (name, modality) in enumerate(PEERS.items(), 5)}
    made, first = [], 0
    for number, (trains, lr, epochs) in enumerate(declared):
        graph = Objective(list(PEERS), edges, frozen=[name for name in PEERS if name not in trains])
        made.append(Phase(f"p{number}", first, epochs, graph, plan(lr, epochs), trains, tuple(trains)))
        first += epochs
    ids = [name for batch in batches() for name in batch["id"]]
    return Cohort(nets, PEERS, made[0].objective, made[0].plan, {"val": ids}, {"label": False}, phases=made)


class Spy(pl.Callback):
    """Keeps weights and the optimiser of every step, as they were before it and after the first of an epoch."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []
        self.before: list[tuple[dict[str, float], float]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen.append({key: value.clone() for key, value in pl_module.state_dict().items()})

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        kept = [
            value.abs().sum() for state in optimizer.state.values() for value in state.values() if value is not None
        ]
        self.before.append((rates, float(sum(kept))))


def fitted(cohort: Cohort, tmp_path: Path, *more: pl.Callback) -> Spy:
    spy = Spy()
    epochs = sum(phase.epochs for phase in cohort.phases)
    trainer = pl.Trainer(max_epochs=epochs, default_root_dir=tmp_path, callbacks=[spy, *more], **QUIET)
    trainer.fit(cohort, DataLoader(batches(), batch_size=None))
    return spy


def test_a_frozen_trunk_stays_to_the_bit_and_the_next_phase_begins_afresh(tmp_path: Path) -> None:
    cohort = in_phases(({"rgb": HEAD}, 0.05, 2), ({"rgb": ("",), "flow": ("",)}, 0.01, 2))
    start = {key: value.clone() for key, value in cohort.state_dict().items()}
    spy = fitted(cohort, tmp_path)
    for key, value in start.items():
        head, statistics = key.startswith("peers.rgb.heads."), "running" in key or "tracked" in key
        assert torch.equal(spy.seen[1][key], value) != head, key  # batch norms and all of flow among what stays
        if statistics or "weight" in key:
            assert not torch.equal(spy.seen[3][key], value), key
    steps = len(batches())
    rates = [step[0] for step in spy.before]
    assert {name.partition("/")[0] for name in rates[0]} == {"rgb"} and len(rates[0]) == 2, "the head alone"
    assert {name.partition("/")[0] for name in rates[2 * steps]} == {"rgb", "flow"}
    assert [rate["rgb/weight"] for rate in rates[::steps]] == pytest.approx([0.05, 0.025, 0.01, 0.005])
    fresh = [kept == 0 for _, kept in spy.before]
    assert [number for number, kept in enumerate(fresh) if kept] == [0, 2 * steps], "momenta, at both beginnings"


def test_linear_probing_then_fine_tuning_is_what_a_plain_loop_does(tmp_path: Path) -> None:
    cohort = in_phases(({"rgb": HEAD}, 0.05, 2), ({"rgb": ("",)}, 0.01, 1))
    net: Any = copy.deepcopy(cohort.peers["rgb"])
    net.requires_grad_(True)
    fitted(cohort, tmp_path)
    optimizer: Any = None
    for epoch in range(3):
        probing = epoch < 2
        net.train(not probing)
        if epoch in (0, 2):
            learn = list(net.heads.parameters()) if probing else list(net.parameters())
            for parameter in net.parameters():
                parameter.requires_grad_(any(parameter is one for one in learn))
            made = plan(0.05 if probing else 0.01, 1)
            optimizer = made.optimizer(made.parameter_groups("rgb", net))
            base = [group["lr"] for group in optimizer.param_groups]
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = lr * 0.5 ** (epoch % 2)
        for batch in batches():
            optimizer.zero_grad()
            logits = net(RGB(batch["clips"]["rgb"].flatten(0, 1)).double()).logits["label"]
            torch.nn.functional.cross_entropy(logits, batch["target"]["label"]).backward()
            torch.nn.utils.clip_grad_norm_(learn, 0.1)
            optimizer.step()
    for (name, ours), (_, theirs) in zip(
        cohort.peers["rgb"].state_dict().items(), net.state_dict().items(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_averages_are_of_all_that_learns_in_some_phase(tmp_path: Path) -> None:
    """One peer after the other: each has its averages in the end, and what was frozen all along is what it was."""
    cohort = in_phases(({"rgb": HEAD}, 0.05, 1), ({"flow": ("",)}, 0.05, 1))
    start = {key: value.clone() for key, value in cohort.state_dict().items()}
    averages = AverageWeights(0.9)
    fitted(cohort, tmp_path, averages)
    assert averages.averages.keys() == start.keys() and averages.updates == 2 * len(batches())
    for key, value in averages.averages.items():
        learns = key.startswith(("peers.flow.", "peers.rgb.heads."))
        assert torch.equal(value, start[key]) or learns, key
        assert not torch.equal(value, cohort.state_dict()[key]) or not (learns and value.is_floating_point()), key


def test_one_phase_that_trains_all_is_a_stage_without_phases(tmp_path: Path) -> None:
    """To the bit, lessons and all; and two halves of it differ by their fresh momenta."""
    whole = {name: ("",) for name in PEERS}
    one, halves = (in_phases(*parts, edges=MUTUAL) for parts in ([(whole, 0.05, 2)], [(whole, 0.05, 1)] * 2))
    first = in_phases((whole, 0.05, 2), edges=MUTUAL).phases[0]
    ids = [name for batch in batches() for name in batch["id"]]
    nets: Any = {name: network(modality, seed, 0.0) for seed, (name, modality) in enumerate(PEERS.items(), 5)}
    plain = Cohort(nets, PEERS, first.objective, first.plan, {"val": ids}, {"label": False})
    for number, cohort in enumerate((one, halves, plain)):
        fitted_plain = pl.Trainer(max_epochs=2, default_root_dir=tmp_path / str(number), **QUIET)
        fitted_plain.fit(cohort, DataLoader(batches(), batch_size=None))
    states = [cohort.state_dict() for cohort in (plain, one, halves)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not all(torch.equal(states[0][key], states[2][key]) for key in states[0])


@pytest.mark.parametrize(
    "parts", [("head",), ("trunk",), ("net.conv1",), ("net.layer1", "heads.label"), ("heads",), ("dropout", "net")]
)
@pytest.mark.parametrize("freeze", ["none", "partial", "all"])
def test_gradients_and_modes_are_those_of_the_parts(parts: tuple[str, ...], freeze: str) -> None:
    net: Any = network(RGB, 1)
    known = dict(net.named_modules())
    named = tuple(name for part in parts for name in modules_of(net, part))
    phase = Phase("x", 0, 1, Objective(["rgb"]), plan(0.1, 1), {"rgb": named})
    phase.set_gradients({"rgb": net}, phases.learnable({"rgb": net}))
    phase.set_modes({"rgb": net}, freeze)
    inside = {id(module) for name in named for module in known[name].modules()}
    norms = {id(norm) for norm in batch_norms(net)}
    for name, module in net.named_modules():
        if id(module) not in norms or freeze == "none":
            assert module.training == (id(module) in inside), name
        elif module.training:
            assert id(module) in inside, name
    learn = {id(p) for module in net.modules() if id(module) in inside for p in module.parameters(recurse=False)}
    for name, parameter in net.named_parameters():
        assert not parameter.requires_grad or id(parameter) in learn, name
        if freeze == "none":
            assert parameter.requires_grad == (id(parameter) in learn), name


def test_every_module_of_a_network_is_a_part_and_no_other_word_is() -> None:
    net: Any = network(RGB, 1)
    for name, _ in net.named_modules():
        assert modules_of(net, name) == (name,)
    with pytest.raises(ValueError, match=r"there is no nett; there are head, trunk, net, dropout, heads, projections"):
        modules_of(net, "nett")
    with pytest.raises(ValueError, match=r"there is no heads\.action; there are heads\.label$"):
        modules_of(net, "heads.action")
    with pytest.raises(ValueError, match=r"there is no dropout\.x below dropout"):
        modules_of(net, "dropout.x")


def test_a_parameter_that_never_learned_does_not_begin_to() -> None:
    """A network of a user's own may have some; a phase lets go of gradients, too."""
    cohort = in_phases(({"rgb": ("",)}, 0.1, 1))
    net: Any = network(RGB, 1)
    net.net.conv1.weight.requires_grad_(False)
    learn = phases.learnable({"rgb": net})
    net.heads["label"].weight.grad = torch.ones_like(net.heads["label"].weight)
    cohort.phases[0].set_gradients({"rgb": net}, learn)
    assert not net.net.conv1.weight.requires_grad and net.heads["label"].weight.grad is None


def test_what_is_frozen_costs_a_forward_pass_and_keeps_nothing() -> None:
    """Counted for a phase that is yet to come as for one that is on."""
    whole: dict[str, tuple[str, ...]] = {name: ("",) for name in PEERS}
    heads = dict.fromkeys(PEERS, HEAD)
    shapes = {"rgb": (4, 3, 32, 32), "flow": (4, 10, 32, 32)}
    plain, both, last = (
        in_phases((whole, 0.1, 3)),
        in_phases((heads, 0.1, 1), (whole, 0.1, 3)),
        in_phases((heads, 0.1, 1)),
    )
    all_learn, mixed, probe = (training_operations(cohort.float(), shapes) for cohort in (plain, both, last))
    assert all_learn / 3 < probe < 1.02 * all_learn / 3
    assert mixed == pytest.approx((probe + 3 * all_learn) / 4)

    def kept(cohort: Cohort, number: int) -> int:
        net = cohort.peers["rgb"]
        return kept_for_backward(net, (2, 4, 3, 32, 32), in_phase(cohort, cohort.phases[number], "rgb"))

    assert kept(both, 1) == kept(plain, 0) > 20 * kept(both, 0) == 20 * kept(last, 0) > 0
    assert both.phase is both.phases[0] and not both.peers["rgb"].net.conv1.weight.requires_grad  # type: ignore[union-attr]


WRONG = [
    ("phases.0.train=[rgb.nett]", r"phases\.0 \(head\): train=rgb\.nett: there is no nett; there are head, trunk, net"),
    ("phases.0.train=[rgb.dropout]", r"train=rgb\.dropout has nothing to learn"),
    ("+phases.0.optimizer.optimizer={_target_: torch.optim.SGD, momentum: -1, _partial_: true}", r"phases\.0 \(head\)"),
    ("+phases.0.optimizer.optimizer={_target_: os.system, _partial_: true}", r"configs may only call"),
    ("+phases.0.objective={headed: [rgb], edges: [], frozen: [rgb]}", r"objective\.frozen=\['rgb'\] leaves no peer"),
    ("+phases.1.objective={headed: [rgb], wait: 3}", r"unknown setting phases\.1\.objective\.wait"),
]


@pytest.mark.parametrize(("word", "said"), WRONG)
def test_a_wrong_phase_is_told_before_anything_is_written(train: Train, tmp_path: Path, word: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        train("stage=lp_ft", "init=scratch", word)
    assert not (tmp_path / "single").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("stage=mars",), r"lesson=feature_mse compares features of rgb, whose trunk is not trained here"),
        (("stage=mars", "phases.0.train=[flow.head]"), r"phases\.0\.train: flow\.head is frozen by objective=mars"),
        (("stage=mml", "phases.0.train=[rgb.trunk]", "objective.headed=[rgb]"), r"labels teach the head of rgb alone"),
        (
            ("stage=mml", "placement=peer", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"),
            r"placement=peer trains a peer on each rank, flow only teaches in a phase; use placement=shared",
        ),
    ],
)
def test_lessons_that_a_phase_can_not_teach_are_named(
    train: Train, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    two = "phases=[{name: a, train: [rgb.head]}, {name: b}]"
    with pytest.raises(UserError, match=said):
        train(words[0], "modality=[rgb,flow]", "init=scratch", two, *words[1:])
    assert not (tmp_path / "single").exists()


def test_a_linear_probe_of_two_modalities(train: Train, composed: Any, tmp_path: Path) -> None:
    """What is exported has the trunks of the networks that it began with, and says what was trained."""
    small = ("modality=[rgb,flow]", "schedule.epochs=1", "trainer.validations=1")
    train(*small, run="ce")
    ce = tmp_path / "single/ce/peers"
    result = train("stage=linear_probe", *small, f"init.rgb={ce}/rgb.pt", f"init.flow={ce}/flow.pt", run="probe")
    told = dict(result["phases"][0])
    assert told.pop("objective")["frozen"] == []
    assert told == {"name": "head", "first_epoch": 0, "epochs": 1, "train": ["rgb.head", "flow.head"]}
    for peer in ("rgb", "flow"):
        before, after = weights(ce / f"{peer}.pt"), weights(tmp_path / f"single/probe/peers/{peer}.pt")
        assert before.keys() == after.keys()
        for key, value in before.items():
            assert torch.equal(value, after[key]) != key.startswith("heads."), key
    told = torch.load(tmp_path / "single/probe/peers/rgb.pt", weights_only=True)["provenance"]
    assert told["phases"][0]["train"] == ["rgb.head", "flow.head"]
    run = tmp_path / "single/probe"
    save(composed("stage=linear_probe", *small)[0], run / ".hydra/config.yaml")  # as a job leaves it
    assert "head: epoch 1 to 1, trains rgb.head, flow.head" in details.graph(result | {"path": str(run)})
    with (tmp_path / "single/probe/logs/metrics.csv").open() as handle:
        rows = [row for row in csv.DictReader(handle) if row["train/loss_epoch"] or row["val/rgb/top1"]]
    assert rows and {row["phase"] for row in rows} == {"0.0"}


@pytest.mark.slow
def test_two_ranks_go_through_phases_as_one(
    shell: Callable[..., subprocess.CompletedProcess[str]],
    train: Train,
    tmp_path: Path,
    demo: Path,
    one_directory: Callable[..., Path],
    same_weights: Callable[[Path, Path], None],
) -> None:
    """Gradients of what a phase lets go are averaged too; and a start at the boundary gives the same bits."""
    own = ("stage=lp_ft", "init=scratch", "backbone.net.dropout=0", "batch_norm.freeze=stats", "optimizer.lr=0.5")
    two = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.num_threads=1", "name=two")
    done = shell("train", *own, *two)
    assert done.returncode == 0, done.stdout + done.stderr
    run = one_directory(tmp_path / "single", "*_two")
    assert done.stdout.count("phase 2 of 2, all") == 1
    train(*own, run="alone")
    one, other = weights(tmp_path / "single/alone/peers/rgb.pt"), weights(run / "peers/rgb.pt")
    for key, value in one.items():
        assert torch.allclose(value, other[key], atol=1e-5), key
    assert checkpoints.read(run / "checkpoints/previous.ckpt")["phase"]["name"] == "head"
    shutil.copyfile(run / "peers/rgb.pt", tmp_path / "rgb.pt")
    (run / "checkpoints/last.ckpt").unlink()
    shutil.rmtree(run / "peers")
    again = shell("train", f"resume={run}", f"paths.cache={demo / 'cache'}", plain=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads((run / "result.json").read_text())["resumed"][0]["step"] == 3
    same_weights(run / "peers/rgb.pt", tmp_path / "rgb.pt")


@pytest.mark.slow
def test_a_peer_per_rank_goes_through_phases_as_one_process(
    shell: Callable[..., subprocess.CompletedProcess[str]],
    train: Train,
    tmp_path: Path,
    one_directory: Callable[..., Path],
    same_weights: Callable[[Path, Path], None],
) -> None:
    own = ("stage=lp_ft", "modality=[rgb,flow]", "init=scratch", "objective=mutual", "schedule.epochs=2")
    train(*own, run="together")
    two = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.num_threads=1", "name=apart")
    done = shell("train", *own, *two, "placement=peer")
    assert done.returncode == 0, done.stdout + done.stderr
    apart = one_directory(tmp_path / "single", "*_apart")
    for peer in ("rgb", "flow"):
        same_weights(apart / f"peers/{peer}.pt", tmp_path / f"single/together/peers/{peer}.pt")
