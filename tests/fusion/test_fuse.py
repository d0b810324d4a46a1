"""Several outputs to one."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning.fusion.fuse import average, present_as_gate


@given(st.integers(1, 4), st.integers(0, 1000))
def test_average_is_the_mean_of_those_that_count(peers: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = {str(n): torch.randn(5, 2, 3, generator=rng, dtype=torch.float64) for n in range(peers)}
    present = {name: torch.rand(5, generator=rng) < 0.6 for name in logits}
    hidden = {name: torch.where(present[name][:, None, None], value, torch.nan) for name, value in logits.items()}
    fused = average(hidden, present_as_gate(present, 2))
    for row in range(5):
        seen = [logits[name][row] for name in logits if present[name][row]]
        if seen:
            torch.testing.assert_close(fused[row], torch.stack(seen).mean(0))
        else:
            assert fused[row].isnan().all()


def test_a_gate_weighs_clips() -> None:
    logits = {"rgb": torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), "flow": torch.tensor([[[0.0, 3.0], [0.0, 3.0]]])}
    gate = {"flow": torch.tensor([[0.5, 0.0]]), "rgb": torch.tensor([[0.25, 1.0]])}
    torch.testing.assert_close(average(logits, gate), torch.tensor([[[1 / 3, 2.0], [1.0, 0.0]]]))
