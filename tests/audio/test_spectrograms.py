"""Spectrograms against numbers that librosa 0.11.0 made (librosa.json; the sound is `wave`), and their edge cases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mml_lightning.audio import SPECTROGRAMS, Spectrogram, _mel_bank
from mml_lightning.modalities import Modality

VECTORS = json.loads((Path(__file__).parent / "librosa.json").read_text())
SILENCE = {"log_stft": -13.8155, "log_mel": -100.0, "log_mel_small": -80.0}


def wave(rate: int, count: int) -> np.ndarray:
    """A rising tone, a steady one and noise, int16 [count]."""
    t = np.arange(count) / rate
    tones = 0.4 * np.sin(2 * np.pi * (440 + 300 * t) * t) + 0.2 * np.sin(2 * np.pi * 3000 * t)
    noise = 0.05 * np.random.default_rng(0).standard_normal(count)
    return np.clip(np.round((tones + noise) * 32768), -32768, 32767).astype(np.int16)


@pytest.fixture(params=list(SPECTROGRAMS))
def named(request: pytest.FixtureRequest) -> tuple[str, Spectrogram]:
    return request.param, SPECTROGRAMS[request.param]


def test_values_are_those_of_librosa(named: tuple[str, Spectrogram]) -> None:
    name, spectrogram = named
    image = spectrogram(torch.from_numpy(wave(spectrogram.rate, spectrogram.samples)))
    assert list(image.shape) == VECTORS[name]["shape"] == list(spectrogram.shape)
    assert float(image.mean()) == pytest.approx(VECTORS[name]["mean"], abs=1e-5)
    worst = max(abs(float(image[row, column]) - value) for row, column, value in VECTORS[name]["cells"])
    assert worst < 2e-4


def test_the_mel_bank_is_htk_without_norm() -> None:
    bank = _mel_bank(16000, 1024, 128)
    assert list(bank.shape) == VECTORS["bank"]["shape"]
    assert float(bank.sum()) == pytest.approx(VECTORS["bank"]["sum"], rel=1e-6)
    for row, total in VECTORS["bank"]["rows"]:
        assert float(bank[row].sum()) == pytest.approx(total, rel=1e-5)


def test_silence_has_one_value(named: tuple[str, Spectrogram]) -> None:
    name, spectrogram = named
    image = spectrogram(torch.zeros(spectrogram.samples, dtype=torch.int16))
    assert float(image.min()) == pytest.approx(SILENCE[name], abs=1e-3) and float(image.max()) == float(image.min())
    assert spectrogram.silence == pytest.approx(SILENCE[name], abs=1e-3)


def test_a_batch_is_its_rows_and_half_precision_changes_nothing(named: tuple[str, Spectrogram]) -> None:
    name, spectrogram = named
    rows = torch.from_numpy(np.stack([wave(spectrogram.rate, spectrogram.samples) // n for n in (1, 2, 3, 4)]))
    modality = Modality("sound", "audio", 1, 1, [2.0], [4.0], name)
    made = modality(rows.view(2, 1, 2, -1))
    assert made.shape == (2, 1, 2, *modality.input_shape((spectrogram.samples,)))
    alone = (spectrogram(rows[3]) - 2.0) / 4.0
    assert torch.allclose(made[1, 0, 1, 0], alone, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(modality(rows.view(2, 1, 2, -1)), made)


def test_sound_takes_one_item_and_one_channel() -> None:
    with pytest.raises(ValueError, match="modality audio: prepare=log_stft takes sound: window=1 and item_channels=1"):
        Modality("audio", "audio", 2, 1, prepare="log_stft")
