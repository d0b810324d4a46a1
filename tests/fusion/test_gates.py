"""Random gates: keyed by video and epoch, the same in any company."""

from __future__ import annotations

import torch

from mml_lightning.fusion.gates import Look, RandomGate

IDS = tuple(f"v{n}" for n in range(400))


def look(ids: tuple[str, ...], epoch: int | None = None, views: int = 5) -> Look:
    present = {name: torch.ones(len(ids), dtype=torch.bool) for name in ("rgb", "flow")}
    return Look({}, present, ids, views, epoch)


def test_draws_are_keyed_by_video_and_epoch() -> None:
    gate = RandomGate(["rgb", "flow"], 0.5, seed=1)
    both = gate(look(IDS, 3))
    assert torch.equal(gate(look(IDS[::-1], 3))["rgb"].flip(0), both["rgb"])
    assert torch.equal(RandomGate(["flow"], 0.5, seed=1)(look(IDS, 3))["flow"], both["flow"])
    assert not torch.equal(both["rgb"], both["flow"])
    for other in (gate(look(IDS, 4)), gate(look(IDS)), RandomGate(["rgb"], 0.5, seed=2)(look(IDS, 3))):
        assert not torch.equal(other["rgb"], both["rgb"])
    assert torch.equal(gate(look(IDS))["rgb"], gate(look(IDS))["rgb"]), "evaluation draws the same every time"


def test_rates() -> None:
    for threshold in (0.0, 0.25, 0.5, 1.0):
        rate = float(RandomGate(["rgb"], threshold)(look(IDS))["rgb"].mean())
        assert abs(rate - (1 - threshold)) < (0.03 if 0 < threshold < 1 else 1e-9)


def test_one_decision_for_all() -> None:
    found = RandomGate(["rgb", "flow"], 0.5, joint=True)(look(IDS))
    assert torch.equal(found["rgb"], found["flow"]) and 0.4 < float(found["rgb"].mean()) < 0.6
