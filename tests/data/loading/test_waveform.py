"""Windows of sound stand around the frames of the draw; sound that is not there is absent, never silence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mml_lightning.audio import LOG_MEL, LOG_STFT
from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.data.loading.draws import FixedCrops, TrainTemporalSampler, ViewsTemporalSampler
from mml_lightning.data.loading.ram_cache import RamCache
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.records.records import Head, Record
from mml_lightning.modalities import Modality
from mml_lightning.transforms import TestGeometry as FixedGeometry
from mml_lightning.utils.errors import UserError
from tests.data.sounds import clicks, onsets, write_audible, write_sound
from tests.data.videos import FPS, counted, numbers, write_video

RGB = Modality("rgb", "frames", 1, 3, [0.5], [0.25])
AUDIO = Modality("audio", "audio", 1, 1, prepare="log_stft")
MEL = Modality("mel", "audio", 1, 1, prepare="log_mel")
FRAMES = 30  # 2.5 s


def load(record: Record, modalities: Sequence[Modality], missing: str = "mask", **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "starts": ViewsTemporalSampler(3, 1, 0, 8, "fixed"),
        "geometries": FixedCrops(FixedGeometry(16, 16, 1)),
        "seed": 0,
        "replace": False,
        "missing": missing,
        "opener": SourceOpener("pyav"),
    }
    heads = {"label": Head(("a", "b"))}
    return ClipDataset([record], modalities, heads, **(fields | changes))[0, 0]


def centre(window: torch.Tensor, rate: int, onset_after_middle: float) -> bool:
    """Whether a burst begins there."""
    found = onsets(window.numpy(), rate)
    return any(abs(one - len(window) / 2 / rate - onset_after_middle) < 3e-3 for one in found)


@pytest.fixture(scope="module")
def audible(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A click with every third frame."""
    at = [n / FPS for n in range(0, FRAMES, 3)]
    return write_audible(tmp_path_factory.mktemp("sound") / "v.mkv", FRAMES, clicks(FRAMES / FPS, at))


def record(path: Path, sound: Path | None = None, **fields: Any) -> Record:
    media = {"frames": path} if sound is None else {"frames": path, "audio": sound}
    return Record("v", media, {"label": 0}, **fields)


@pytest.mark.parametrize(("modality", "spectrogram"), [(AUDIO, LOG_STFT), (MEL, LOG_MEL)])
def test_the_middle_of_a_window_is_the_frame_that_is_seen(modality: Modality, spectrogram: Any, audible: Path) -> None:
    for seed in range(4):
        draw = TrainTemporalSampler(3, "uniform", 8, "fixed")
        sample = load(record(audible), [RGB, modality], starts=draw, seed=seed)
        clip = sample["clips"][modality.name]
        assert clip.shape == (1, 3, spectrogram.samples) and clip.dtype == torch.int16
        half = spectrogram.samples / spectrogram.rate / 2
        for frame, window in zip(numbers(sample["clips"]["rgb"][0], (1, 2, 3)), clip[0], strict=True):
            if half < frame / FPS < FRAMES / FPS - half:  # elsewhere it is moved inside
                assert centre(window, spectrogram.rate, -(frame % 3) / FPS), (seed, frame)


def test_windows_are_moved_inside_and_short_sound_is_repeated(tmp_path: Path) -> None:
    video = write_audible(tmp_path / "long.mkv", FRAMES, clicks(FRAMES / FPS, [0.0, 2.4]))
    first, *_, last = load(record(video), [AUDIO], starts=ViewsTemporalSampler(30, 1, 0, 8, "fixed"))["clips"]["audio"][
        0
    ]
    assert onsets(first.numpy(), 24000) == pytest.approx([0.0], abs=3e-3)
    assert onsets(last.numpy(), 24000) == pytest.approx([LOG_STFT.samples / 24000 - 0.1], abs=3e-3)
    short = write_audible(tmp_path / "short.mkv", 6, clicks(0.5, [0.1]))
    window = load(record(short), [AUDIO])["clips"]["audio"][0, 0]
    assert onsets(window.numpy(), 24000) == pytest.approx([0.1, 0.6, 1.1], abs=3e-3)


def test_a_part_is_heard_where_it_is_seen(audible: Path) -> None:
    sample = load(record(audible, span=(1.0, 1.5)), [RGB, AUDIO])
    frames = numbers(sample["clips"]["rgb"][0], (1, 2, 3))
    assert frames.min() >= 12 and frames.max() < 18
    assert centre(sample["clips"]["audio"][0, 0], 24000, -(int(frames[0]) % 3) / FPS)


def test_two_rates_share_one_reading_and_crops_repeat_it(audible: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mml_lightning.data.loading import waveform

    read = []
    real_read = waveform.read_sound
    monkeypatch.setattr(waveform, "read_sound", lambda media: read.append(media) or real_read(media))
    sample = load(record(audible), [AUDIO, MEL], geometries=FixedCrops(FixedGeometry(16, 20, 3)))
    assert len(read) == 1
    assert sample["clips"]["audio"].shape[0] == 3 and torch.equal(*sample["clips"]["audio"][:2])


@pytest.mark.parametrize(
    ("seconds", "start", "span", "reason"),
    [
        (0.0, 0.0, None, "no audio stream"),
        (1.0, 0.0, None, r"sound from 0\.00 to 1\.00 s only, its pictures are those from 0\.00 to 2\.42 s"),
        (1.5, 1.0, None, r"sound from 1\.00 to 2\.50 s only"),
        (1.0, 0.0, (1.8, 2.4), r"sound from 0\.00 to 1\.00 s only"),
    ],
)
def test_sound_that_is_not_there_is_absent(
    seconds: float, start: float, span: Any, reason: str, tmp_path: Path
) -> None:
    sound = clicks(seconds, []) if seconds else None
    video = write_audible(tmp_path / "v.mkv", FRAMES, sound, start)
    sample = load(record(video, span=span), [RGB, AUDIO])
    assert sample["present"] == {"rgb": True, "audio": False}
    assert sample["clips"]["audio"].shape == (1, 3, LOG_STFT.samples)
    ((_, told),) = load(record(video, span=span), [RGB, AUDIO], "error")["failures"]
    assert np.array_equal(load(record(video, span=span), [RGB])["clips"]["rgb"], sample["clips"]["rgb"])
    assert re.search(reason, told), told


def test_a_part_that_is_heard_counts_alone(tmp_path: Path) -> None:
    video = write_audible(tmp_path / "v.mkv", FRAMES, clicks(1.0, [0.5]))
    assert load(record(video, span=(0.2, 0.9)), [RGB, AUDIO])["present"]["audio"]


def test_a_sound_file_beside_the_video_is_taken(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", counted(FRAMES))
    sound = write_sound(tmp_path / "v.wav", clicks(FRAMES / FPS, [1.25]))
    window = load(record(video, sound), [AUDIO], starts=ViewsTemporalSampler(1, 1, 0, 8, "fixed"))["clips"]["audio"][
        0, 0
    ]
    assert len(onsets(window.numpy(), 24000)) == 1
    alone = Record("s", {"audio": sound}, {"label": 0})
    assert load(alone, [AUDIO])["clips"]["audio"].shape == (1, 3, LOG_STFT.samples), "without pictures, too"


def test_a_modality_that_makes_no_spectrogram_is_refused(audible: Path) -> None:
    with pytest.raises(UserError, match="modality odd: prepare=normalise is not made for sound; use one of"):
        load(record(audible), [Modality("odd", "audio", 1, 1)])


def test_with_a_cache_sound_is_read_and_resampled_once_and_is_the_same(
    audible: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mml_lightning.data.loading import waveform

    plain = load(record(audible), [RGB, AUDIO, MEL])["clips"]
    read, resampled = [], []
    real_read, real_resampled = waveform.read_sound, waveform.Sound.resampled
    monkeypatch.setattr(waveform, "read_sound", lambda media: read.append(media) or real_read(media))
    monkeypatch.setattr(
        waveform.Sound, "resampled", lambda sound, rate: resampled.append(rate) or real_resampled(sound, rate)
    )
    for megabytes, times in ((64, 1), (0, 3)):
        read.clear(), resampled.clear()
        ram = RamCache(megabytes)
        for _ in range(3):
            clips = load(record(audible), [RGB, AUDIO, MEL], opener=SourceOpener("pyav", ram=ram))["clips"]
            assert all(torch.equal(clips[name], plain[name]) for name in plain)
        assert (len(read), sorted(resampled)) == (times, sorted([16000, 24000] * times)), megabytes
        assert (ram.used > FRAMES * 16000) == (megabytes > 0)
