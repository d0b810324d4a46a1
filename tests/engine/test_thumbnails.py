"""Pictures are of what the networks are given, and what can't be pictured is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from mml_lightning.audio import SPECTROGRAMS
from mml_lightning.config import data as config_data
from mml_lightning.engine import load
from mml_lightning.engine.thumbnails import Strip, _strip, thumbnails
from mml_lightning.evaluation import predictions
from mml_lightning.modalities import Modality
from mml_lightning.optical_flow.colours import colour_wheel, fastest
from mml_lightning.utils.errors import UserError


@pytest.fixture(scope="module")
def ids(trained: Path) -> tuple[str, ...]:
    return predictions.load(trained / "predictions" / "test.npz").ids


def pixels(strip: Strip) -> np.ndarray:
    """RGB float [H, W, 3]"""
    image = cv2.imdecode(np.frombuffer(strip.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None and image.shape[:2] == (strip.height, strip.width)
    return image[..., ::-1].astype(float)


def test_strips_show_the_clips_of_the_test_split(trained: Path, ids: tuple[str, ...]) -> None:
    found = thumbnails(trained, "test", ids[2:4], 10**7)
    assert list(found.strips) == list(ids[2:4])
    assert len(found.notes) == 1 and "hue is direction" in found.notes[0]  # the data are those of the run
    cfg, _, _ = load.settings(str(trained), [], None)
    modalities = config_data.modalities(cfg)
    data = config_data.dataset(cfg, ["test"])
    clips = config_data.clip_datasets(cfg, data, config_data.flow_cache(cfg, modalities), list(modalities.values()))
    place = [record.id for record in clips["test"].records].index(ids[2])
    rgb, flow = (clips["test"][(0, place)]["clips"][name][0] for name in ("rgb", "flow"))
    strips = {strip.modality: strip for strip in found.strips[ids[2]]}
    assert {name: (s.frames, s.width, s.height) for name, s in strips.items()} == {
        "rgb": (4, 128, 32),
        "flow": (4, 128, 32),
    }
    expected = np.concatenate(list(rgb.permute(0, 2, 3, 1).numpy()), axis=1).astype(float)
    assert np.abs(pixels(strips["rgb"]) - expected).mean() < 6  # of 255: what JPEG loses
    motion = flow.unflatten(1, (5, 2))[:, 2].float() / 255 * 40 - 20
    wheel = colour_wheel(motion, fastest(motion)).permute(0, 2, 3, 1).numpy()
    assert np.abs(pixels(strips["flow"]) - np.concatenate(list(wheel), axis=1)).mean() < 10


def test_no_more_bytes_than_asked_for(trained: Path, ids: tuple[str, ...]) -> None:
    whole = thumbnails(trained, "test", ids[:5], 10**7)
    most = whole.size - 1
    less = thumbnails(trained, "test", ids[:5], most)
    assert list(less.strips) == list(ids[:4]) and less.size <= most
    assert any(f"the limit: 1 video ({ids[4]}) have none" in note for note in less.notes)


def test_other_modalities_have_their_own_pictures(trained: Path, ids: tuple[str, ...]) -> None:
    found = thumbnails(trained, "test", ids[:1], 10**7, ["modality=[rgbdiff]"])
    (strip,) = found.strips[ids[0]]
    image = pixels(strip)
    assert strip.modality == "rgbdiff" and "around grey" in found.notes[0]
    assert abs(float(np.median(image)) - 128) < 12 and image.std() > 1
    found = thumbnails(trained, "test", ids[:1], 10**7, ["modality=[liveflow]"])
    assert pixels(found.strips[ids[0]][0]).std() > 1


@pytest.mark.parametrize("name", list(SPECTROGRAMS))
def test_sound_is_shown_as_its_spectrogram(name: str) -> None:
    spectrogram = SPECTROGRAMS[name]
    heard = Modality("audio", "audio", 1, 1, prepare=name)
    time = torch.arange(spectrogram.samples) / spectrogram.rate
    tones = torch.stack([torch.sin(2 * torch.pi * hertz * time) for hertz in (500.0, 5000.0)])
    image = pixels(_strip((tones * 20_000).to(torch.int16), heard)).mean(axis=2)
    low, high = np.split(image, 2, axis=1)
    rows = [int(part.mean(axis=1).argmax()) for part in (low, high)]
    assert rows[0] > rows[1] and rows[0] > len(image) / 2  # high tones above


@pytest.fixture
def of_a_table(trained: Path, demo: Path, tmp_path: Path) -> Path:
    """The run as if its videos were those of a table in a folder of this test."""
    dump = predictions.load(trained / "predictions" / "test.npz")
    files = {path.stem: path for path in (demo / "data").rglob("videos/*")}
    (tmp_path / "videos").mkdir()
    lines = ["path,id,label,split"]
    for video, label in zip(dump.ids, dump.target.tolist(), strict=True):
        copy = Path(shutil.copy(files[video], tmp_path / "videos"))
        lines.append(f"{copy},{video},{dump.classes[label]},test")
    (tmp_path / "my.csv").write_text("\n".join(lines) + "\n")
    run = Path(shutil.copytree(trained, tmp_path / "single" / "run"))
    saved = [w for w in (run / ".hydra" / "overrides.yaml").read_text().splitlines() if "data." not in w]
    saved += ["- data=csv", f"- data.index={tmp_path / 'my.csv'}", f"- data.root={tmp_path}"]
    (run / ".hydra" / "overrides.yaml").write_text("\n".join(saved) + "\n")
    return run


def test_videos_that_are_gone_or_broken_are_said(of_a_table: Path, ids: tuple[str, ...], tmp_path: Path) -> None:
    gone, broken = (next((tmp_path / "videos").glob(f"{video}.*")) for video in ids[:2])
    gone.unlink()
    broken.write_text("no video")
    found = thumbnails(of_a_table, "test", [*ids[:4], "never"], 10**7, [f"paths.cache={tmp_path / 'cache'}"])
    assert list(found.strips) == list(ids[2:4]) and len(found.strips[ids[2]]) == 2
    assert any("the data are not those of the run any more" in note for note in found.notes)
    assert any("not in the data any more, without a picture: 1 video (never)" in note for note in found.notes)
    assert any(f"can't be read any more, without a picture: 2 videos ({ids[0]}, {ids[1]})" in n for n in found.notes)


def test_a_run_whose_data_can_not_be_had_has_no_pictures(trained: Path, ids: tuple[str, ...], tmp_path: Path) -> None:
    lost = Path(shutil.copytree(trained, tmp_path / "single" / "lost"))
    (lost / ".hydra" / "overrides.yaml").write_text("- data=csv\n- data.index=/nowhere/my.csv\n- modality=[rgb,flow]\n")
    found = thumbnails(lost, "test", ids, 10**7)
    assert not found.strips and len(found.notes) == 1 and found.notes[0].startswith("no pictures: ")
    shutil.rmtree(lost / ".hydra")
    (lost / "result.json").unlink()
    found = thumbnails(lost, "test", ids, 10**7)
    assert not found.strips and "does not tell its data" in found.notes[0]


def test_a_wrong_setting_is_the_users(trained: Path, ids: tuple[str, ...]) -> None:
    with pytest.raises(UserError):
        thumbnails(trained, "test", ids, 10**7, ["data.nothing=3"])


def test_networks_and_processes_are_left_alone(trained: Path, ids: tuple[str, ...]) -> None:
    """No weights are read: pictures don't need them."""
    before: Callable[..., Any] = torch.load
    read: list[Any] = []
    torch.load = lambda *args, **kwargs: read.append(args) or before(*args, **kwargs)  # type: ignore[assignment]
    try:
        thumbnails(trained, "test", ids[:1], 10**7)
    finally:
        torch.load = before
    assert not read
