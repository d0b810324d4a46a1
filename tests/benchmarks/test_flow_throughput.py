"""Pairs per second in batches, and the bytes that operations move."""

from __future__ import annotations

import pytest
import torch

from mml_lightning.benchmarks.flow_throughput import OperandBytes, throughput
from mml_lightning.cli.main import main


def test_operands_are_counted_and_views_are_free() -> None:
    a, b = torch.ones(10, 8), torch.ones(10, 8)
    with OperandBytes() as counted:
        a.view(-1)[:40].add_(b.view(-1)[:40])  # reads two, writes one
        torch.add(a, b, out=b)  # the same
    assert counted.moved == 3 * 160 + 3 * 320


def test_twice_the_pairs_move_twice_the_bytes() -> None:
    one, two = (throughput("fast", pairs, (32, 48), repeats=1, copied=2**16) for pairs in (1, 2))
    moved = [found.gb_per_s / found.pairs_per_s for found in (one, two)]
    assert moved[1] == pytest.approx(moved[0], rel=0.05) and min(one.peak_gb_per_s, two.pairs_per_s) > 0


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "flow", "--engines", "tvl1-fast", "--batch", "2", "--size", "48x32", "--repeats", "1"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "| tvl1-fast |" in told and "2 pairs at once on cpu; " in told and "bottleneck" in told
    assert main([*words[:3], "dis", *words[4:]]) == 2 and main([*words[:5], "0"]) == 2
