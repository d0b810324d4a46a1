"""What a network looks at: how the items of a source become the input of one peer.

Legend: B batch, V views, T frames (segments), W window, c channels of one source item, C channels, H height, W width.

A *source* is decoded once per sample and may serve several modalities (`rgb` and `rgbdiff` share `frames`). Clips of
images travel as uint8 with the W items of a window side by side in the channel axis; normalising and differencing
happen on the device. Sound travels as int16, a window of L samples per segment; the network sees its spectrogram.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mml_lightning.audio import SPECTROGRAMS, Spectrogram
from mml_lightning.optical_flow import PRESETS, tvl1_pairs

FLOW_BOUND = 20.0  # pixels of motion at the ends of 0..1, as in the flow cache
GREY = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601), as OpenCV has it
PAIRS_AT_ONCE = {"cpu": 1}  # one pair fits a core's cache
PAIRS_AT_ONCE_GPU = 64


def normalise(clip: Tensor, modality: Modality) -> Tensor:
    """uint8 [..., W*c, H, W] -> float [..., W*c, H, W]: scaled to 0..1, then (x - mean) / std per channel."""
    scaled = clip.to(torch.float32, copy=True).div_(255.0)  # in place: a clip of flow is large
    return scaled.sub_(_per_channel(modality.mean, clip, scaled)).div_(_per_channel(modality.std, clip, scaled))


def difference(clip: Tensor, modality: Modality) -> Tensor:
    """uint8 [..., W*c, H, W] -> float [..., (W-1)*c, H, W]: normalised frame k+1 minus k, in time order (TSN)."""
    frames = normalise(clip, modality).unflatten(-3, (modality.window, modality.item_channels))
    return (frames[..., 1:, :, :, :] - frames[..., :-1, :, :, :]).flatten(-4, -3)


def tvl1(clip: Tensor, modality: Modality) -> Tensor:
    """uint8 RGB [..., W*3, H, W] -> float [..., (W-1)*2, H, W]: TV-L1 flow (preset `fast`) within a window.

    x then y of each pair, clipped to +-20 px, scaled to 0..1 and normalised by the first of `mean` and `std`. It is the
    flow of the cropped and resized image, in its pixels: resizing by s scales motion by s. No gradient.
    """
    height, width = clip.shape[-2:]
    with torch.no_grad(), torch.autocast(clip.device.type, enabled=False):
        frames = clip.float().reshape(-1, modality.window, 3, 1, height, width)
        grey = GREY[0] * frames[:, :, 0] + GREY[1] * frames[:, :, 1] + GREY[2] * frames[:, :, 2]
        size = PAIRS_AT_ONCE.get(clip.device.type, PAIRS_AT_ONCE_GPU)
        pairs = zip(*(part.flatten(0, 1).split(size) for part in (grey[:, :-1], grey[:, 1:])), strict=True)
        flow = torch.cat([tvl1_pairs(first, second, PRESETS["fast"]) for first, second in pairs])
        scaled = (flow.clamp(-FLOW_BOUND, FLOW_BOUND) + FLOW_BOUND) / (2 * FLOW_BOUND)
    return ((scaled - modality.mean[0]) / modality.std[0]).view(*clip.shape[:-3], modality.channels, height, width)


@dataclass(frozen=True)
class Preparation:
    """What happens to a clip on the device before a network sees it.

    Args:
        function: (stored clip, modality) -> input of the network.
        least_window: items that a window must have.
        channels: (window, item channels) -> channels of the input, which stand behind the segments: [..., T, C, ...].
        spectrogram: what is made of a waveform; None of other clips.
    """

    function: Callable[[Tensor, Modality], Tensor]
    least_window: int = 1
    channels: Callable[[int, int], int] = operator.mul
    spectrogram: Spectrogram | None = None


def hear(clip: Tensor, modality: Modality) -> Tensor:
    """int16 [..., L] -> float [..., 1, F, T]: the spectrogram of the modality, normalised by `mean` and `std`."""
    spectrogram = modality.preparation.spectrogram
    if spectrogram is None:
        raise ValueError(f"modality {modality.name}: its preparation has no spectrogram")
    return ((spectrogram(clip) - modality.mean[0]) / modality.std[0]).unsqueeze(-3)


PREPARE: dict[str, Preparation] = {
    "normalise": Preparation(normalise),
    "difference": Preparation(difference, 2, lambda window, channels: (window - 1) * channels),
    "tvl1": Preparation(tvl1, 2, lambda window, channels: (window - 1) * 2),
    **{name: Preparation(hear, spectrogram=spectrogram) for name, spectrogram in SPECTROGRAMS.items()},
}
FLIPS = ("mirror", "mirror_negate_x")


@dataclass(frozen=True)
class Modality:
    """One modality, as declared in `conf/modality/<name>.yaml`.

    Args:
        name: key in configs, metric names and tables.
        source: what is read or computed once per sample: "frames", "flow", or one of `sources` of the config.
        window: consecutive source items in one input step (rgb 1, flow 5, rgbdiff 6).
        item_channels: channels of one source item (frames 3, flow 2: x then y).
        mean, std: statistics of 0..1 values, one number or one per item channel.
        prepare: what happens to its clips on the device, a name in :data:`PREPARE` or a function of another package.
        flip: what a horizontal mirror does: "mirror", or "mirror_negate_x" for flow.

    Raises:
        ValueError: unknown `prepare` or `flip`, a window too short to difference, statistics of the wrong length, or a
            std that is not positive.
    """

    name: str
    source: str
    window: int
    item_channels: int
    mean: list[float] = field(default_factory=lambda: [0.0])
    std: list[float] = field(default_factory=lambda: [1.0])
    prepare: str | Preparation = "normalise"
    flip: str = "mirror"

    def __post_init__(self) -> None:
        if not isinstance(self.prepare, Preparation) and self.prepare not in PREPARE:
            raise ValueError(f"modality {self.name}: prepare={self.prepare!r} is unknown; use one of {sorted(PREPARE)}")
        if self.flip not in FLIPS:
            raise ValueError(f"modality {self.name}: flip={self.flip!r} is unknown; use one of {list(FLIPS)}")
        if self.window < self.preparation.least_window:
            raise ValueError(f"modality {self.name}: window={self.window} is too short for prepare={self.prepare}")
        if self.prepare == "tvl1" and (self.item_channels, self.flip) != (3, "mirror"):
            raise ValueError(f"modality {self.name}: prepare=tvl1 takes frames: item_channels=3 and flip=mirror")
        for key in ("mean", "std"):
            if len(getattr(self, key)) not in (1, self.item_channels):
                raise ValueError(f"modality {self.name}: {key} needs 1 or {self.item_channels} numbers")
        if self.preparation.spectrogram is not None and (self.window, self.item_channels) != (1, 1):
            raise ValueError(f"modality {self.name}: prepare={self.prepare} takes sound: window=1 and item_channels=1")
        if min(self.std) <= 0:
            raise ValueError(f"modality {self.name}: std={list(self.std)} must be positive")

    @property
    def channels(self) -> int:
        """Channels the network sees: 3 for rgb, 10 for flow and liveflow, 15 for rgbdiff, 1 for audio."""
        return self.preparation.channels(self.window, self.item_channels)

    def __call__(self, clip: Tensor) -> Tensor:
        """A stored clip -> float [..., channels, ...], on the device of `clip`: of images uint8 [..., W*c, H, W] ->
        float [..., channels, H, W]."""
        return self.preparation.function(clip, self)

    def input_shape(self, segment: Sequence[int]) -> tuple[int, ...]:
        """What the network sees of a segment, [C, ...], of one that is stored as `segment`: [C, H, W] of pictures."""
        spectrogram = self.preparation.spectrogram
        return (self.channels, *(segment[1:] if spectrogram is None else spectrogram.shape))

    @property
    def preparation(self) -> Preparation:
        """What happens to its clips on the device."""
        return self.prepare if isinstance(self.prepare, Preparation) else PREPARE[self.prepare]


def _per_channel(values: list[float], clip: Tensor, like: Tensor) -> Tensor:
    return _column(tuple(values) * (clip.shape[-3] // len(values)), like.dtype, like.device)


@functools.lru_cache(maxsize=64)  # a copy to a GPU in every step would make the host wait for it
def _column(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """[C, 1, 1], usable in and out of inference mode."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)
