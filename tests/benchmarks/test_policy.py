"""`mml bench policy`: skipped and masked scores agree, and what is not used costs nothing."""

from __future__ import annotations

import pytest
import torch

from mml_lightning.benchmarks import policy
from mml_lightning.benchmarks.commands import BENCHES
from mml_lightning.benchmarks.commands.policy import BENCH
from mml_lightning.utils.errors import UserError


def test_the_table_has_the_three_ways() -> None:
    table = policy.measure({"rgb": 0.5, "audio": 0.0}, 1, 2, 32, 18, 32, 1)
    assert [row["way"] for row in table.rows] == ["all peers", "policy and chosen peers", "chosen peers alone"]
    assert table.rows[2]["vs_first"] > 1.2 and "used: rgb 50%, audio 0%" in table.sentence
    assert BENCHES["policy"] is BENCH


def test_gates_open_as_often_as_asked() -> None:
    opened = policy.gates({"rgb": 0.3, "audio": 1.0}, 4, 5)
    assert opened["rgb"].shape == (4, 5) and float(opened["rgb"].sum()) == 6 and bool(opened["audio"].all())


@pytest.mark.parametrize("numbers", [{"rgb": 1.5}, {"videos": 0}, {"depth": 20}, {"size": 8}])
def test_numbers_out_of_range_are_refused(numbers: dict[str, float]) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    BENCH.arguments(parser)
    args = parser.parse_args([word for key, value in numbers.items() for word in (f"--{key}", str(value))])
    with pytest.raises(UserError):
        BENCH.check(args)


def test_segments_that_a_closed_gate_skips_are_not_computed() -> None:
    """Chosen rows alone are forwarded; none where nothing is chosen."""
    model, seen = policy.networks(18, 32), {"rgb": 0, "audio": 0}
    for name, peer in model.peers.items():
        peer.register_forward_hook(lambda _, inputs, __, name=name: seen.update({name: seen[name] + len(inputs[0])}))
    clips = {
        "rgb": torch.zeros(2, 3, 2, 3, 32, 32, dtype=torch.uint8),
        "audio": torch.zeros(2, 3, 1, 30_720, dtype=torch.int16),
    }
    gate = {"rgb": torch.tensor([[1.0, 0, 0], [0, 1, 1]]), "audio": torch.zeros(2, 3)}
    with torch.inference_mode():
        said = model.chosen(clips, gate)
        assert model.fusion is not None
        fused = model.fusion({n: o.logits for n, o in said.items()}, {n: torch.zeros(2, 3) for n in gate})["label"]
    assert seen == {"rgb": 3, "audio": 0}
    assert not said["audio"].logits["label"].any() and not said["rgb"].logits["label"][0, 1:].any()
    assert not fused.any(), "all skipped: logits of 0"
