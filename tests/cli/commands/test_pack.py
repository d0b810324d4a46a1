"""`mml pack` as a user meets it, and training from what it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from mml_lightning.cli.main import main
from mml_lightning.config.compose import compose
from mml_lightning.engine.train import stage
from mml_lightning.utils.process import quieten_libraries
from tests.conftest import CONF
from tests.tiny import edit, make_clips, table


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return table(tmp_path / "mine", make_clips(tmp_path / "clips"))


def pack(csv: Path, out: Path, *more: str) -> int:
    words = ["data=csv", f"data.index={csv}", f"paths.root={csv.parent}", f"paths.cache={csv.parent / 'cache'}"]
    return main(["pack", *words, "modality=[rgb,flow]", "--out", str(out), "--workers", "1", *more])


@pytest.fixture(autouse=True)
def no_global_hydra() -> None:
    GlobalHydra.instance().clear()


def test_pack_verifies_and_continues(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pack"
    assert pack(csv, out, "--verify") == 0
    printed = capsys.readouterr().out
    assert f"{out}: 12 videos, " in printed and f"train on it with data=pack data.root={out}" in printed
    assert "verified: 132 images, 132 byte-identical" in printed
    told = json.loads((out / "manifest.json").read_text())
    assert told["source"]["words"][0] == "data=csv" and told["source"]["reader"]["name"] == "decord"
    assert told["flow"]["algorithm"] == "dis" and told["flow"]["bound"] == 20.0
    assert pack(csv, out) == 0 and "pack: 0 videos" in capsys.readouterr().out
    assert pack(csv, out, "--quality", "50") == 2
    assert "holds a pack with another coding; choose another --out" in capsys.readouterr().err


def test_verify_fails_where_the_pack_is_damaged(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pack(csv, tmp_path / "pack") == 0
    shard = tmp_path / "pack" / "shard-00000.zip"
    content = bytearray(shard.read_bytes())
    content[500] ^= 1
    shard.write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        pack(csv, tmp_path / "pack", "--verify")
    assert stop.value.code == 1
    printed = capsys.readouterr().out
    assert "1 video differs from the source" in printed
    assert "v0: frames" in printed and "is damaged" in printed


def test_unreadable_videos_are_listed(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (csv.parent / "videos" / "3.mp4").write_bytes(b"no video")
    assert pack(csv, tmp_path / "pack") == 0
    printed = capsys.readouterr().out
    assert "2 sources of videos could not be read and are skipped:" in printed
    assert "  v3 (frames): " in printed and "  v3 (flow): " in printed


def test_mistakes_are_one_line(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pack(csv, tmp_path / "pack", "--short-side", "3") == 2
    edit(csv, "videos/7.mp4", "videos/77.mp4")
    assert pack(csv, tmp_path / "pack") == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("mml: error: ") for line in lines] == [True, True]
    assert "--short-side 3 is too small" in lines[0] and "77.mp4" in lines[1]
    assert not (tmp_path / "pack").exists()


def test_training_from_a_pack_is_training_from_its_source(small: list[str], tmp_path: Path) -> None:
    """Same draws, same labels, same order: only the encoding of the images differs."""
    out = tmp_path / "pack"
    demo = [word for word in small if word.startswith(("data.root", "data.videos", "paths.cache"))]
    words = [*demo, "modality=[rgb,flow]", "--out", str(out), "--quality", "98", "--flow-quality", "png"]
    assert main(["pack", *words]) == 0
    rest = [word for word in small if word not in demo]

    def train(run_name: str, *own: str) -> dict[str, Any]:
        typed = [*rest, f"paths.root={tmp_path}", "stage=mml", "modality=[rgb,flow]", "schedule.epochs=1", *own]
        quieten_libraries()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", [*typed, f"paths.output_dir={tmp_path / run_name}"])
        return stage(cfg, typed)

    source = train("source", *demo)
    packed = train("packed", "data=pack", f"data.root={out}", "data.workers=2")
    assert packed["decoder"]["name"] == "opencv" and packed["data_fingerprint"] != source["data_fingerprint"]
    with (
        np.load(tmp_path / "source/predictions/test.npz") as one,
        np.load(tmp_path / "packed/predictions/test.npz") as other,
    ):
        assert one["ids"].tolist() == other["ids"].tolist() and one["target"].tolist() == other["target"].tolist()
        for peer in ("rgb", "flow"):
            logits = one[f"logits/{peer}"]
            assert 0 < np.abs(logits - other[f"logits/{peer}"]).max() < 0.2 * logits.std(), peer
