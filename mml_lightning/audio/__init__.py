"""Pictures of sound for 2-D networks: logarithmic spectrograms of windows of a waveform, computed on the device.

Legend: L samples of a window, F frequencies (rows), T columns in time.

Two are built in as published: `log_stft` (linear frequencies; AdaMML, Panda et al., ICCV 2021, supplement) and
`log_mel` (mel scale; Radevski et al., Multimodal Distillation, ICCV 2023). `log_mel_small` is for small networks.
Another is another :class:`Spectrogram`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

FULL_SCALE = 32768.0  # of 16-bit samples: the waveform is in [-1, 1)


@dataclass(frozen=True)
class Spectrogram:
    """Logarithm of the power of a short-time Fourier transform, of the mel scale where `mels` asks for it.

    Args:
        rate: samples per second that the waveform comes at.
        samples: L, of a window.
        n_fft: points of the transform; F = n_fft // 2 + 1 without mels.
        width, hop: of the (periodic) Hann window and of its steps, in samples; frames are centred.
        edge: how the window is continued at its two ends: by silence or mirrored.
        mels: F of the HTK mel bank from 0 Hz to rate / 2, its triangles of height 1; 0 for linear frequencies.
        floor: power below which nothing is told apart; `log` says how.
        log: "ln_plus", ln(power + floor); "decibel", 10 log10(max(power, floor)).
    """

    rate: int
    samples: int
    n_fft: int
    width: int
    hop: int
    edge: Literal["constant", "reflect"]
    mels: int
    floor: float
    log: Literal["ln_plus", "decibel"]

    @property
    def shape(self) -> tuple[int, int]:
        """F and T."""
        return self.mels or self.n_fft // 2 + 1, self._padded // self.hop + 1

    @property
    def _padded(self) -> int:
        return self.samples + 2 * (self.n_fft // 2) - self.n_fft

    @property
    def silence(self) -> float:
        """The value of a window without any sound: ln 1e-6 = -13.8 of `log_stft`, -100 dB of `log_mel`."""
        return math.log(self.floor) if self.log == "ln_plus" else 10 * math.log10(self.floor)

    def __call__(self, waveform: Tensor) -> Tensor:
        """Samples int16 [..., L] -> float32 [..., F, T]."""
        with torch.autocast(waveform.device.type, enabled=False):
            sound = waveform.reshape(-1, waveform.shape[-1]).float() / FULL_SCALE
            window = torch.hann_window(self.width, device=sound.device)
            spectrum = torch.stft(
                sound, self.n_fft, self.hop, self.width, window, pad_mode=self.edge, return_complex=True
            )
            power = spectrum.real.square() + spectrum.imag.square()
            if self.mels:
                power = _mel_bank(self.rate, self.n_fft, self.mels).to(power.device) @ power
            plus = self.log == "ln_plus"
            image = (power + self.floor).log() if plus else 10 * power.clamp_min(self.floor).log10()
        return image.view(*waveform.shape[:-1], *image.shape[-2:])


@functools.lru_cache(maxsize=4)
def _mel_bank(rate: int, n_fft: int, mels: int) -> Tensor:
    """Triangles float32 [mels, n_fft // 2 + 1] between neighbours of mels + 2 points that are even on the HTK scale."""
    with torch.inference_mode(False):
        top = 2595 * math.log10(1 + rate / 2 / 700)
        points = 700 * (10 ** (torch.linspace(0, top, mels + 2, dtype=torch.float64) / 2595) - 1)
        bins = torch.linspace(0, rate / 2, n_fft // 2 + 1, dtype=torch.float64)
        left, centre, right = points[:-2, None], points[1:-1, None], points[2:, None]
        rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
        return torch.minimum(rising, falling).clamp_min(0).float()


LOG_STFT = Spectrogram(24000, 30720, 511, 240, 120, "constant", 0, 1e-6, "ln_plus")
"""256 x 256, of 1.28 s at 24 kHz."""

LOG_MEL = Spectrogram(16000, 17856, 1024, 160, 80, "reflect", 128, 1e-10, "decibel")
"""128 x 224, of 1.116 s at 16 kHz."""

LOG_MEL_SMALL = Spectrogram(8000, 9920, 512, 512, 320, "reflect", 32, 1e-8, "decibel")
"""32 x 32, of 1.24 s at 8 kHz."""

SPECTROGRAMS = {"log_stft": LOG_STFT, "log_mel": LOG_MEL, "log_mel_small": LOG_MEL_SMALL}
