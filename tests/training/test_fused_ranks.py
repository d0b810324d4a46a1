"""What peers are fused to, where videos lack a modality: it does not depend on the ranks that share a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from mml_lightning.zoo.fusions import FILE, load_fusion
from tests.training.test_missing_ranks import TWO, Shell, losses, own, weights

__all__ = ["own"]  # a fixture


@pytest.mark.slow
def test_two_ranks_are_one_process(
    shell: Shell, own: Sequence[str], tmp_path: Path, one_directory: Callable[..., Path]
) -> None:
    """Videos without flow, peers that are skipped at random, and a weight that decays."""
    words = [word for word in own if not word.startswith("stage=")]
    words += ["stage=fusion", "init=scratch", "fusion=random", "fusion.weight_decay=0.01"]
    found = {}
    for name, more in (("alone", ()), ("two", TWO)):
        done = shell("train", *words, *more, f"name={name}", plain=True)
        assert done.returncode == 0, done.stdout + done.stderr
        found[name] = one_directory(tmp_path / "single", f"*_{name}")
    for one, other in zip(losses(found["alone"]), losses(found["two"]), strict=True):
        assert one.keys() == other.keys() and "train/fused/ce" in one
        for key in one:
            assert one[key] == pytest.approx(other[key], abs=2e-4), key
    for peer in ("rgb", "flow"):
        first, second = (weights(found[name], peer) for name in ("alone", "two"))
        for key in first:
            torch.testing.assert_close(first[key], second[key], atol=3e-5, rtol=1e-3, msg=f"{peer} {key}")
    one, other = (load_fusion(found[name] / "peers" / FILE)["state_dict"] for name in ("alone", "two"))
    for key in one:
        torch.testing.assert_close(one[key], other[key], atol=1e-5, rtol=1e-4)
        assert float(one[key]) != 0.5
