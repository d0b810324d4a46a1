"""Sound beside frames through a whole run: trained, measured, evaluated again, predicted; absent where it is absent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mml_lightning
from mml_lightning.config.compose import compose
from mml_lightning.config.settings import Settings
from mml_lightning.engine import train
from mml_lightning.engine.evaluate import evaluate
from mml_lightning.utils.process import quieten_libraries
from tests.data.sounds import RATE, write_audible, write_sound
from tests.data.videos import FPS, counted, write_video

Composed = Callable[..., tuple[Settings, list[str]]]
FRAMES = 8
MUTE = ["train3", "val2", "test1", "test4"]
BESIDE = ["train2", "test3"]  # their sound is in a file of its own


def tone(number: int) -> np.ndarray:
    """Low in even videos, high in odd ones, int16."""
    t = np.arange(round(FRAMES / FPS * RATE)) / RATE
    return (np.sin(2 * np.pi * (400 if number % 2 == 0 else 3000) * t) * 8000).astype(np.int16)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tones")
    lines = ["path,sound,label,split"]
    for split, count in (("train", 12), ("val", 4), ("test", 7)):
        for n in range(count):
            name, sound = f"{split}{n}", ""
            if name in BESIDE:
                write_video(folder / f"{name}.mp4", counted(FRAMES)).rename(folder / f"{name}.mkv")
                sound = write_sound(folder / f"{name}.wav", tone(n)).name
            else:
                write_audible(folder / f"{name}.mkv", FRAMES, None if name in MUTE else tone(n))
            lines.append(f"{name}.mkv,{sound},{'high' if n % 2 else 'low'},{split}")
    (folder / "tones.csv").write_text("\n".join(lines) + "\n")
    return folder / "tones.csv"


@pytest.fixture
def own(small: list[str], hydra: None, table: Path, tmp_path: Path) -> Composed:
    """own(*overrides): a small run on the table."""
    quieten_libraries()

    def make(*overrides: str, program: str = "train", run: str = "run") -> tuple[Settings, list[str]]:
        kept = [word for word in small if not word.startswith(("data.videos", "data.root"))]
        typed = ["data=csv", f"data.index={table}", *kept, "data.batch_size=4", f"paths.root={tmp_path}", *overrides]
        return compose(program, overrides=[*typed, f"paths.output_dir={tmp_path / 'single' / run}"]), typed

    return make


BOTH = ["modality=[rgb,audio]", "data.missing=mask", "sampling.num_segments=2"]


def test_rgb_and_sound_teach_each_other(table: Path, tmp_path: Path, own: Composed) -> None:
    result = train.stage(*own(*BOTH, "stage=mml", "init=scratch", "schedule.epochs=8", "optimizer.lr=0.05"))
    assert result["metrics"]["test"]["audio"]["top1"] == 100
    run = tmp_path / "single" / "run"
    with np.load(run / "predictions/test.npz") as file:
        scores = {video: file["logits/audio"][n] for n, video in enumerate(file["ids"])}
        assert not np.isnan(file["logits/rgb"]).any()
    assert [video for video, score in scores.items() if np.isnan(score).any()] == ["test1", "test4"]
    again = evaluate(*own(*BOTH, f"ckpt={run}", program="eval", run="eval"))
    assert again["metrics"] == {"test": result["metrics"]["test"]}
    predictor = mml_lightning.load(run / "peers" / "audio.pt", overrides=["data.missing=error"])
    heard = predictor.predict([table.parent / f"{name}.mkv" for name in ("test0", "test1")])
    assert np.allclose(heard[0].logits["audio"], scores["test0"], atol=1e-5)
    assert "it has no audio stream" in str(heard[1].error)


def test_without_masks_a_mute_video_is_unreadable(own: Composed, tmp_path: Path) -> None:
    words = ["modality=[audio]", "data.max_bad_share=0.3", "schedule.epochs=1", "sampling.num_segments=1"]
    result = train.stage(*own(*words))
    assert {video for split in result["unreadable"].values() for video in split} == {"val2", "test1", "test4"}
    assert "train3" in (tmp_path / "single/run/quarantine.csv").read_text(), "another took its place"
