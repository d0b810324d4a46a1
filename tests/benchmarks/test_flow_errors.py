"""Errors of flow stored as images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mml_lightning.benchmarks import flow_errors
from mml_lightning.benchmarks.flow_errors import CODINGS
from mml_lightning.cli.main import main
from mml_lightning.data.packs.encode import Coding, encode_item
from tests.data.videos import real

DEFAULT = "short side 128, quality 90"


def test_images_without_loss_give_the_flow_back() -> None:
    pair = np.random.default_rng(0).integers(0, 256, (40, 60, 2), np.uint8)
    files = [encode_item("flow", pair, (60, 40), Coding(flow_short_side=0, flow_quality="png"))] * 2
    restored = flow_errors._restored(files, (60, 40))
    assert restored.shape == (2, 40, 60, 2) and (restored == pair).all()
    assert flow_errors._restored(files, (120, 80)).shape == (2, 80, 120, 2)


def test_a_constant_field_has_the_error_of_rounding_only() -> None:
    field = np.full((2, 256, 300, 2), 2 * 0.157, np.float32)
    motion, rounding, errors, sizes = flow_errors._errors(field)
    assert motion == pytest.approx(np.sqrt(2) * 2 * 0.157, rel=1e-5) and rounding < 0.12
    assert set(errors) == set(sizes) == set(CODINGS)
    assert all(error == pytest.approx(rounding) for error in errors.values())


def test_prints_and_writes_what_codings_add(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_errors, "PAIRS", 1)
    monkeypatch.setattr(flow_errors, "SYNTHETIC", 1)
    assert main(["bench", "data", "--errors", "--json", str(tmp_path / "errors.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "rounding to 8 bits 0.0" in lines[3 + len(CODINGS)]
    for told in json.loads((tmp_path / "errors.json").read_text())["tables"][0]["errors"]:
        full, half = ([c for c in CODINGS if c.startswith(size)] for size in ("full", "short side 128, q"))
        for group in (full, half):  # from fine to coarse
            assert sorted(group, key=told["added"].get) == group == sorted(group, key=told["bytes"].get)[::-1]
        assert told["bytes"][DEFAULT] < told["bytes"]["full size, quality 90"]


@pytest.mark.real
def test_the_documented_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [real(f"clips/{name}") for name in ("tiny-ucf101/abseiling_k400.mp4", "mmaction2/demo.mp4")]
    monkeypatch.setattr(flow_errors, "ENGINES", ("dis-medium",))
    (found,) = flow_errors.compare(clips)
    assert found.rounding == pytest.approx(0.075, abs=0.002)
    assert found.added[DEFAULT] == pytest.approx(0.015, abs=0.002)


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "no.mp4").write_bytes(b"no video")
    assert main(["bench", "data", "--errors", str(tmp_path / "no.mp4")]) == 2
    assert "mml: error: --errors: " in capsys.readouterr().err.splitlines()[-1]
