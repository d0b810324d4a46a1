"""One peer per rank: the losses and weights of one process that trains both."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mml_lightning.training.peer_parallel import OnePeerPerRank, _on
from mml_lightning.utils.errors import UserError
from tests.training.test_batch_norm import in_processes

Shell = Callable[..., subprocess.CompletedProcess[str]]
PLACED = ("placement=peer", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.num_threads=1")
MML = ("stage=mml", "modality=[rgb,flow]")


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "logs" / "metrics.csv").open() as handle:
        return [{key: value for key, value in row.items() if "time" not in key} for row in csv.DictReader(handle)]


@pytest.mark.slow
def test_two_ranks_with_a_peer_each_are_one_process_with_both(
    shell: Shell,
    train: Callable[..., Any],
    tmp_path: Path,
    one_directory: Callable[..., Path],
    same_weights: Callable[[Path, Path], None],
) -> None:
    """To the last bit, with batch norms, dropout, clipping, momentum and a lesson; and after a resume in the middle."""
    own = (*MML, "schedule=constant", "schedule.epochs=2", "optimizer.clip_norm=0.5", "backbone.net.dropout=0.3")
    together = train(*own, run="together")
    done = shell("train", *own, *PLACED, "name=apart")
    assert done.returncode == 0, done.stdout + done.stderr
    apart = one_directory(tmp_path / "single", "*_apart")
    told = json.loads((apart / "result.json").read_text())
    assert told["metrics"] == together["metrics"] and told["steps"] == together["steps"]
    for peer in ("rgb", "flow"):
        same_weights(apart / "peers" / f"{peer}.pt", tmp_path / "single" / "together" / "peers" / f"{peer}.pt")
    losses = [
        [{k: v for k, v in row.items() if k.startswith("train/")} for row in rows(run)]
        for run in (apart, tmp_path / "single" / "together")
    ]
    assert losses[0] == losses[1] and any(row["train/flow/kl"] for row in losses[0])
    # the optimiser's state of both peers has come along, and the run goes on from it
    more = shell("train", f"resume={apart}", "schedule.epochs=3", plain=True)
    assert more.returncode == 0, more.stdout + more.stderr
    train(*own, "schedule.epochs=3", run="longer")
    same_weights(apart / "peers" / "flow.pt", tmp_path / "single" / "longer" / "peers" / "flow.pt")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("placement=near",), r"placement='near' is unknown; use one of \['shared', 'peer'\]"),
        (("placement=peer",), r"the run has 2 \(rgb, flow\): use trainer=ddp trainer\.devices=2"),
        (("placement=peer", "trainer.devices=2", "objective.frozen=[flow]"), r"flow only teaches"),
        (
            ("placement=peer", "trainer.devices=2", "objective.edges=[{students: all, lesson: feature_mse}]"),
            r"sends logits only, lesson feature_mse of rgb needs features; use placement=shared",
        ),
        (("placement=peer", "trainer.devices=2", "batch_norm.precise=2"), r"every peer sees the whole batch; remove"),
    ],
)
def test_what_can_not_be_placed_so_is_said(
    train: Callable[..., Any], tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(*MML, *words)
    assert not (tmp_path / "single").exists()


class Started(OnePeerPerRank):
    """The strategy of a rank whose processes know each other already."""

    global_rank = property(lambda self: torch.distributed.get_rank())  # type: ignore[assignment]
    root_device = property(lambda self: torch.device("cpu"))  # type: ignore[assignment]


def _trained(rank: int, store: str, told: Any) -> None:
    """Each rank makes as many steps with its peer as its number tells, and one."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    peers = nn.ModuleDict({name: nn.Linear(3, 2) for name in ("rgb", "flow")})
    optimizer = torch.optim.Adam(peers.parameters(), fused=True)
    for step in range(rank + 1):
        optimizer.zero_grad()
        peers[("rgb", "flow")[rank]](torch.full((4, 3), step + 1.0)).square().sum().backward()
        optimizer.step()
    strategy = Started(("rgb", "flow"))
    strategy._lightning_module = SimpleNamespace(peers=peers)  # type: ignore[assignment]
    strategy.optimizers = [optimizer]
    strategy.share()
    state = {
        name: [{key: value.tolist() for key, value in optimizer.state[p].items()} for p in (*peers[name].parameters(),)]
        for name in peers
    }
    told.put((rank, state, [p.tolist() for p in peers.parameters()]))
    torch.distributed.destroy_process_group()


def test_the_state_of_a_fused_adam_comes_along(tmp_path: Path) -> None:
    one, other = in_processes(_trained, 2, tmp_path)
    assert one[1:] == other[1:], "to the bit"
    assert [[state["step"] for state in one[1][name]] for name in ("rgb", "flow")] == [[1.0, 1.0], [2.0, 2.0]]
    assert any(map(any, one[1]["flow"][0]["exp_avg"]))


class Moves(TorchFunctionMode):
    """Shapes of the tensors that are sent to a device: there is no second one here to find them on."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") == "to":
            self.shapes.append(tuple(args[0].shape))
        return function(*args, **(kwargs or {}))


def test_all_that_lay_on_the_device_of_the_sender_moves_to_the_own_one() -> None:
    """The count of steps has no dimensions; where the optimiser is not fused it lies on the host, and stays there."""
    fused = {"step": torch.zeros((), device="meta"), "exp_avg": torch.zeros(2, device="meta"), "kept": None}
    usual = {**fused, "step": torch.zeros(())}
    with Moves() as moves:
        _on(fused, torch.device("meta", 0))
        assert moves.shapes == [(), (2,)]
        assert _on(usual, torch.device("meta", 0))["step"] is usual["step"]
