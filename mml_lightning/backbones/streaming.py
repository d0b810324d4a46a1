"""A network of the online shift, a frame at a time: what each shift needs of the previous frame is kept.

Legend: S streams computed together (crops of one video), C channels, H W height and width, K classes, N frames.
Source: Lin, Gan, Han, "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019, section 3.3.
"""

from __future__ import annotations

import copy
from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mml_lightning.backbones.peer import Peer
from mml_lightning.backbones.recognizer import Recognizer
from mml_lightning.backbones.temporal_2d import FrameNonLocal, TemporalPool
from mml_lightning.backbones.temporal_shift import ONLINE, TemporalShift


class StreamOutput(NamedTuple):
    """What a frame adds.

    Attributes:
        frame: {head: [S, K]}, logits of this frame.
        mean: {head: [S, K]}, their mean over the last N frames, this one included: after the T-th frame of a stream,
            the logits of the same network on a clip of these T frames (T up to N).
    """

    frame: dict[str, Tensor]
    mean: dict[str, Tensor]


class FrameStream:
    """Streams of frames through a network; its weights are shared with `net`, which stays as it is.

    Args:
        net: without a shift, or with the online one.
        average: N, how many frames the mean is over; T of its training is what its logits were trained as.

    Raises:
        ValueError: the network looks at later frames, or `average` is below 1.
    """

    def __init__(self, net: Peer, average: int) -> None:
        check_streamable(net)
        assert isinstance(net, Recognizer)
        if average < 1:
            raise ValueError(f"average={average}: the mean is over 1 frame or more")
        shared: dict[int, object] = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
        self.net = copy.deepcopy(net, shared).eval()
        self._shifts = [_keep(self.net.net, name) for name in _names(self.net.net)]
        self._last: deque[dict[str, Tensor]] = deque(maxlen=average)

    @torch.inference_mode()
    def push(self, frame: Tensor) -> StreamOutput:
        """The next frame, normalised as for the network, [S, C, H, W].

        Raises:
            ValueError: not as many streams, channels or pixels as the frame before.
        """
        self.net.check_clip(frame[:, None])
        *_, logits = self.net.by_frame(frame)
        self._last.append(logits)
        return StreamOutput(logits, {head: torch.stack([one[head] for one in self._last]).mean(0) for head in logits})

    def reset(self) -> None:
        """Forget all frames: the next one is the first of its stream."""
        self._last.clear()
        for shift in self._shifts:
            shift.kept = None


class _KeptShift(nn.Module):
    """An online shift of one frame: the channels that move come from the frame before, and are kept for the next."""

    def __init__(self, shift: TemporalShift) -> None:
        super().__init__()
        self.net, self.n_div = shift.net, shift.n_div
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[S, C, H, W] -> what the wrapped module returns for the shifted x."""
        moved = slice(0, x.shape[1] // self.n_div)
        now, shifted = x[:, moved].clone(), x.clone()
        if self.kept is None:
            shifted[:, moved] = 0
        elif self.kept.shape == now.shape:
            shifted[:, moved] = self.kept
        else:
            raise ValueError(
                f"a map of {tuple(now.shape)} follows one of {tuple(self.kept.shape)}: reset() before another video"
            )
        self.kept = now
        out: Tensor = self.net(shifted)
        return out


def check_streamable(net: nn.Module) -> None:
    """Raises:
    ValueError: the network looks at later frames, or is none that takes its frames one by one.
    """
    if not isinstance(net, Recognizer):
        raise ValueError(f"{type(net).__name__} sees a clip as a whole: choose a 2-D network, such as backbone=tsm_...")
    for module in net.net.modules():
        if isinstance(module, TemporalShift) and not module.online:
            raise ValueError(f"its temporal shift looks at the next frame: train it with backbone.net.shift={ONLINE}")
        if isinstance(module, TemporalPool | FrameNonLocal):
            kind = "temporal pooling" if isinstance(module, TemporalPool) else "non-local blocks"
            raise ValueError(
                f"its {kind} look at later frames: train it without them, with backbone.net.shift={ONLINE}"
            )


def _names(trunk: nn.Module) -> list[str]:
    return [name for name, module in trunk.named_modules() if isinstance(module, TemporalShift)]


def _keep(trunk: nn.Module, name: str) -> _KeptShift:
    """Put a shift that keeps its channels in the place of the one of this name."""
    shift = trunk.get_submodule(name)
    assert isinstance(shift, TemporalShift)
    made = _KeptShift(shift)
    trunk.set_submodule(name, made)
    return made
