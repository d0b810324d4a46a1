"""Peers side by side: to the bit what they are in turn on as many threads, whoever is done first."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from mml_lightning.backbones import own_draws, tsm_resnet
from mml_lightning.backbones.peer import PeerOutput
from mml_lightning.training.execution import StepSettings
from mml_lightning.training.side_by_side import InTurn, SideBySide, choose
from mml_lightning.utils.errors import UserError
from tests.training.test_cohort import (
    FLOW,
    MUTUAL,
    QUIET,
    RGB,
    assert_same_weights,
    batches,
    make_cohort,
    network,
    separate_processes,
    train,
)
from tests.training.test_missing import fit, masked

CPU = torch.device("cpu")
TWO = {"rgb": RGB, "flow": FLOW}
THREE = {"rgb": RGB, "rgb_1": RGB, "flow": FLOW}
ATTENTION = [{"students": ["rgb"], "teachers": ["flow"], "lesson": "attention"}]
BOTH_LEARN = [{"students": ["rgb"], "teachers": ["flow"], "lesson": "kl", "detach": False}]


def beside(cohort: Any) -> Any:
    cohort.beside = SideBySide(list(cohort.peers), 2)
    return cohort


def in_thread(call: Any) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_of_a_thread_is_torchs_to_the_bit(p: float, dtype: torch.dtype) -> None:
    x = torch.randn(6, 5, 4, 3).to(dtype, memory_format=torch.channels_last).requires_grad_()

    def drawn() -> tuple[torch.Tensor, torch.Tensor]:
        own_draws.seed(7, CPU)
        made = own_draws.dropout(x, p, True)
        return made, torch.autograd.grad(made.sum(), x)[0]

    def own() -> tuple[torch.Tensor, torch.Tensor]:
        own_draws.begin()
        return drawn()

    torch.manual_seed(7)
    expected = functional.dropout(x, p, True)
    torch.manual_seed(1)
    state = torch.default_generator.get_state()
    made = in_thread(own)
    assert torch.equal(torch.default_generator.get_state(), state)  # nobody else's numbers were taken
    assert torch.equal(made[0], expected) and torch.equal(made[1], torch.autograd.grad(expected.sum(), x)[0])
    assert all(torch.equal(one, two) for one, two in zip(made, drawn(), strict=True))
    assert own_draws.dropout(x, p, False) is x


@pytest.mark.parametrize(
    ("peers", "edges", "more"),
    [
        (TWO, (), {}),
        (TWO, MUTUAL, {}),
        (THREE, MUTUAL, {}),
        (TWO, ATTENTION, {}),
        (TWO, BOTH_LEARN, {}),
        (TWO, MUTUAL, {"frozen": ["flow"]}),
    ],
    ids=["ce", "mutual", "three", "features", "teacher learns too", "frozen teacher"],
)
def test_side_by_side_is_in_turn_to_the_bit(peers: Any, edges: Any, more: Any, tmp_path: Path) -> None:
    cohorts = [make_cohort(peers, edges, **more) for _ in range(2)]
    beside(cohorts[1])
    for cohort in cohorts:
        train(cohort, tmp_path, validate=True)
    assert_same_weights(*cohorts)
    if edges in ((), MUTUAL) and not more:
        for name, net in separate_processes(peers, edges == MUTUAL).items():
            assert_same_weights(cohorts[1].peers[name], net)


@pytest.mark.parametrize("together", [1, 2, 3], ids=["a batch a step", "two", "a shorter last step"])
def test_steps_of_several_batches_and_missing_modalities(together: int, tmp_path: Path) -> None:
    cohorts = [make_cohort(TWO, MUTUAL) for _ in range(2)]
    beside(cohorts[1])
    for cohort in cohorts:
        fit(cohort, tmp_path, masked("1111", "1010", "0000", "0111"), together)
    assert_same_weights(*cohorts)


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_the_precision_of_a_run_is_that_of_its_threads(precision: str, tmp_path: Path) -> None:
    cohorts = [make_cohort(TWO, MUTUAL).float() for _ in range(2)]
    beside(cohorts[1])
    kinds: set[torch.dtype] = set()
    for cohort in cohorts:
        cohort.peers["rgb"].net.layer1.register_forward_hook(lambda *told: kinds.add(told[2].dtype))
        trainer = pl.Trainer(max_epochs=1, default_root_dir=tmp_path, **{**QUIET, "precision": precision})
        trainer.fit(cohort, DataLoader(batches(), batch_size=None))
    assert kinds == {torch.bfloat16 if precision == "bf16-mixed" else torch.float32}
    assert_same_weights(*cohorts)


def test_a_continued_run_is_the_uncut_one(tmp_path: Path) -> None:
    whole, begun, continued = (beside(make_cohort(TWO, MUTUAL)) for _ in range(3))
    train(whole, tmp_path)
    trainer = pl.Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET)
    trainer.fit(begun, DataLoader(batches(), batch_size=None))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(99)
    trainer = pl.Trainer(max_epochs=2, default_root_dir=tmp_path, **QUIET)
    trainer.fit(continued, DataLoader(batches(), batch_size=None), ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert_same_weights(whole, continued)


def test_threads_are_shared_out_and_the_others_keep_theirs() -> None:
    torch.set_num_threads(5)
    two, six = SideBySide(["a", "b"], 5), SideBySide([*"abcdef"], 5)
    seen: dict[str, int] = {}

    def compute(name: str) -> PeerOutput:
        functional.relu(torch.zeros(1 << 20))  # torch asks for its threads at the first parallel work
        seen[name] = torch.get_num_threads()
        return PeerOutput({}, {})

    two.outputs(["a", "b"], compute)
    assert seen == {"a": 2, "b": 2} and two.told == "peers side by side on 2 threads each"
    six.outputs(list("abcdef"), compute)
    assert set(seen.values()) == {1} and len(seen) == 6
    assert torch.get_num_threads() == in_thread(torch.get_num_threads) == 5


def test_an_error_of_a_peer_comes_when_all_have_ended() -> None:
    slow, ended = threading.Event(), threading.Event()

    def compute(name: str) -> PeerOutput:
        if name == "b":
            slow.wait(60)
            ended.set()
            return PeerOutput({}, {})
        threading.Timer(0.05, slow.set).start()
        raise ArithmeticError("of a")

    with pytest.raises(ArithmeticError, match="of a"):
        SideBySide(["a", "b"], 2).outputs(["a", "b"], compute)
    assert ended.is_set()


class Noisy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


@pytest.mark.parametrize(
    ("more", "device", "ranks", "why"),
    [
        (nn.Dropout(0.1), CPU, 1, "flow has a Dropout, whose random numbers would depend on the other networks"),
        (nn.LSTM(3, 3, 2, dropout=0.5), CPU, 1, "flow has a LSTM with dropout"),
        (Noisy(), CPU, 1, "the random numbers of flow might depend on the other networks, it has a Noisy"),
        (nn.LSTM(3, 3), torch.device("cuda"), 1, "it is for a CPU, and this is a cuda device"),
        (nn.ReLU(), CPU, 2, "it is for one process, and here are several"),
    ],
)
def test_what_speaks_against_it_is_told_where_it_was_asked_for(more: Any, device: Any, ranks: int, why: str) -> None:
    nets = {"rgb": network(RGB, 1), "flow": network(FLOW, 2)}
    nets["flow"].more = more
    torch.set_num_threads(2)
    assert type(choose("auto", nets, device, ranks)) is type(choose(False, nets, device, ranks)) is InTurn
    with pytest.raises(UserError, match=re.escape(f"step.side_by_side=true: {why}") + ".*; set it to auto"):
        choose(True, nets, device, ranks)
    assert type(choose(True, {"flow": nets["flow"]}, device, ranks)) is InTurn  # a pipeline has runs of one network


def test_auto_needs_two_threads() -> None:
    nets = {"rgb": network(RGB, 1), "flow": network(FLOW, 2)}
    nets["flow"].more = nn.LSTM(3, 3)
    assert type(choose("auto", nets, CPU, 1)) is InTurn and type(choose(True, nets, CPU, 1)) is SideBySide
    torch.set_num_threads(2)
    assert type(choose("auto", nets, CPU, 1)) is SideBySide and type(choose(False, nets, CPU, 1)) is InTurn


def test_auto_leaves_no_peer_waiting_and_few_threads_idle() -> None:
    def chosen(threads: int, nets: dict[str, Any], all_learn: bool = True) -> type[InTurn]:
        torch.set_num_threads(threads)
        assert type(choose(True, nets, CPU, 1, all_learn)) is SideBySide
        return type(choose("auto", nets, CPU, 1, all_learn))

    two = {"rgb": network(RGB, 1), "flow": network(FLOW, 2)}
    three = {**two, "more": network(RGB, 3)}
    uneven = {"rgb": network(RGB, 1), "flow": tsm_resnet(18, in_channels=10)}
    assert chosen(2, two) is chosen(2, three) is chosen(4, three) is chosen(5, two) is SideBySide
    assert chosen(3, two) is chosen(5, three) is chosen(2, uneven) is chosen(2, two, all_learn=False) is InTurn
    torch.set_num_threads(2)
    frozen = make_cohort(TWO, MUTUAL, frozen=["flow"])
    assert StepSettings().arrange(frozen, CPU, 1) == ""
    assert StepSettings(side_by_side=True).arrange(frozen, CPU, 1) != ""


@pytest.mark.parametrize("other", [{"compile": "eager"}, {"checkpointing": True}])
def test_networks_that_are_compiled_or_computed_twice_are_in_turn(other: Any) -> None:
    cohort = make_cohort(TWO)
    torch.set_num_threads(2)
    assert "side by side" not in StepSettings(**other).settle(cohort, CPU, 1) and type(cohort.beside) is InTurn
    with pytest.raises(UserError, match=r"step\.side_by_side=true and step\..* exclude each other"):
        StepSettings(**other, side_by_side=True)
    assert StepSettings().settle(cohort, CPU, 1).endswith(", peers side by side on 1 thread each")


def test_a_run_is_that_of_as_many_threads(train: Any, same_weights: Any, tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO")
    words = ["stage=mml", "modality=[rgb,rgbdiff]", "init=scratch", "schedule.epochs=1", "test=false"]
    words += ["trainer.limit_val_batches=1", "trainer.limit_train_batches=2"]
    told = [train(*words, f"trainer.num_threads={threads}", run=f"on{threads}") for threads in (2, 1)]
    assert caplog.text.count(", 2 threads, contiguous, peers side by side on 1 thread each") == 1
    assert caplog.text.count("side by side") == 1
    assert told[0]["fingerprint"] == told[1]["fingerprint"]
    for peer in ("rgb", "rgbdiff"):
        same_weights(*(tmp_path / "single" / run / "peers" / f"{peer}.pt" for run in ("on2", "on1")))
