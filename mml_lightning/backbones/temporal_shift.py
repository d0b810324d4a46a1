"""Temporal shift: mixing neighbouring frames inside a 2-D network at no arithmetic cost.

Legend: B batch, N segments (frames of one video), C channels, H W height and width.
Source: Lin, Gan, Han, "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019.

The shift is its own autograd function. Built from slices or `cat`, plain autograd allocates one full-size zero tensor
per slice in the backward pass and returns contiguous gradients, so a channels_last network converts at every block.
Before a convolution, where a TSM has it, nothing is copied but the channels that move: the block's input is shifted in
place, convolved and put back (`shifted_convolution`), so no shifted copy is kept for the backward pass either.

Online (section 3.3 there): only the first group moves, and it comes from the previous frame, so that no frame needs a
later one: :mod:`mml_lightning.backbones.streaming` takes such a network a frame at a time.

Naming: `TemporalShift` keeps what it wraps as its child `net`, so `layer1.0.conv1.weight` becomes
`layer1.0.conv1.net.weight`. `match_shift_names` maps a state dict between any two of these forms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

DEEP_STAGE = 23  # networks whose third stage has at least this many blocks shift every second block only
PLACES = ("blockres", "block")
ONLINE = "online"
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # since torch 2.7


def _groups(fold: int, online: bool, adjoint: bool = False) -> tuple[slice, slice, int]:
    """The channels that come from the next frame, those that come from the previous one, and where the others begin."""
    first, second = slice(0, 0 if online else fold), slice(0 if online else fold, fold if online else 2 * fold)
    return (second, first, second.stop) if adjoint else (first, second, second.stop)


def _shifted(x: Tensor, n_segments: int, fold: int, online: bool, adjoint: bool) -> Tensor:
    """Shift the first channel groups of x [B*N, C, H, W], zero-filled, layout kept."""
    out = torch.empty_like(x)
    source, target = x.unflatten(0, (-1, n_segments)), out.unflatten(0, (-1, n_segments))
    ahead, behind, rest = _groups(fold, online, adjoint)
    target[:, :-1, ahead] = source[:, 1:, ahead]
    target[:, -1, ahead] = 0
    target[:, 1:, behind] = source[:, :-1, behind]
    target[:, 0, behind] = 0
    target[:, :, rest:] = source[:, :, rest:]
    return out


def _joined(x: Tensor, n_segments: int, fold: int, online: bool = False) -> Tensor:
    """The shift as exporters take it best: slices that are written to make graphs 4.5 times as large, twice as slow."""
    if not fold:
        return x
    videos = x.unflatten(0, (-1, n_segments))
    none = torch.zeros_like(videos[:, :1, :fold])
    ahead, behind, rest = _groups(fold, online)
    moved = [] if online else [torch.cat([videos[:, 1:, ahead], none], 1)]
    moved.append(torch.cat([none, videos[:, :-1, behind]], 1))
    return torch.cat([*moved, videos[:, :, rest:]], 2).flatten(0, 1)


class _Shift(torch.autograd.Function):
    """The shift is linear; its adjoint is the same shift with the two directions exchanged."""

    @staticmethod
    def forward(x: Tensor, n_segments: int, fold: int, online: bool, adjoint: bool) -> Tensor:
        return _shifted(x, n_segments, fold, online, adjoint)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.n_segments, ctx.fold, ctx.online, ctx.adjoint = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _Shift.apply(grad, ctx.n_segments, ctx.fold, ctx.online, not ctx.adjoint), None, None, None, None


def temporal_shift(x: Tensor, n_segments: int, n_div: int = 8, online: bool = False) -> Tensor:
    """Shift channels between the frames of each video.

    Args:
        x: [B*N, C, H, W], the N frames of a video in consecutive rows (trailing dimensions are free).
        n_segments: N.
        n_div: fold = C // n_div; channels [0, fold) come from the next frame, [fold, 2*fold) from the previous one,
            the others stay. Where there is no such frame the value is 0.
        online: channels [0, fold) come from the previous frame, all others stay.

    Returns: [B*N, C, H, W] in the memory format of x.

    Raises:
        ValueError: rows do not divide into videos of N frames, or n_div < 2.
    """
    fold = _checked_fold(x, n_segments, n_div)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Shift.apply(x, n_segments, fold, online, False)
    if is_exporting():
        return _joined(x, n_segments, fold, online)
    return _shifted(x, n_segments, fold, online, False)


def _checked_fold(x: Tensor, n_segments: int, n_div: int) -> int:
    if n_div < 2:
        raise ValueError(f"n_div={n_div}: two channel groups are shifted, so use n_div of 2 or more")
    if n_segments < 1 or x.shape[0] % n_segments:
        raise ValueError(f"{x.shape[0]} frames are not whole videos of {n_segments}: set n_segments to the clip's T")
    return int(x.shape[1]) // n_div


class _Moved:
    """Inside, x [B*N, C, H, W] is shifted in place; on leaving it is what it was, to the bit.

    The values are changed behind autograd's back (`.data` does not count versions): whoever kept x for its backward
    pass, as the ReLU before a block does, finds it as it left it.
    """

    def __init__(self, x: Tensor, n_segments: int, fold: int, online: bool) -> None:
        self.x, self.videos, self.fold, self.online = x.data, x.data.unflatten(0, (-1, n_segments)), fold, online

    def __enter__(self) -> Tensor:
        self.kept = _shift_in_place(self.videos, self.fold, self.online, adjoint=False)
        return self.x

    def __exit__(self, *_: object) -> None:
        self.videos[:, :, : self.kept.shape[2]] = self.kept


def _shift_in_place(videos: Tensor, fold: int, online: bool, adjoint: bool) -> Tensor:
    """Shift [B, N, C, H, W] where it lies; returns what stood in the channels that move."""
    ahead, behind, rest = _groups(fold, online, adjoint)
    kept = videos[:, :, :rest].clone()
    videos[:, :-1, ahead] = kept[:, 1:, ahead]
    videos[:, -1, ahead] = 0
    videos[:, 1:, behind] = kept[:, :-1, behind]
    videos[:, 0, behind] = 0
    return kept


class _ShiftedConvolution(torch.autograd.Function):
    """conv2d(shift(x), weight) that keeps x itself for the backward pass instead of its shifted copy."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, n_segments: int, fold: int, online: bool, geometry: tuple[Any, ...]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.n_segments, ctx.fold, ctx.online, ctx.geometry = n_segments, fold, online, geometry
        with _Moved(x, n_segments, fold, online) as moved:
            return torch.conv2d(moved, weight, None, *geometry)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        wanted = (*ctx.needs_input_grad[:2], False)
        with _Moved(x, ctx.n_segments, ctx.fold, ctx.online) as moved:
            of_input, of_weight, _ = torch.ops.aten.convolution_backward(
                grad, moved, weight, None, stride, padding, dilation, False, (0, 0), groups, wanted
            )
        if of_input is not None:
            _shift_in_place(of_input.unflatten(0, (-1, ctx.n_segments)), ctx.fold, ctx.online, adjoint=True)
        return of_input, of_weight, None, None, None, None


def shifted_convolution(x: Tensor, conv: nn.Module, n_segments: int, n_div: int = 8, online: bool = False) -> Tensor:
    """`conv(temporal_shift(x, n_segments, n_div, online))`, equal to the bit, without a shifted copy of x in memory.

    x is changed and put back during the call, here and in the backward pass: do not use it from another thread or
    stream meanwhile. Once differentiable. What x or conv do not allow (a bias, hooks, overlapping memory), and tracing
    (compile, export), take the plain way.
    """
    if not (isinstance(conv, nn.Conv2d) and _fits(x, conv)):
        out: Tensor = conv(temporal_shift(x, n_segments, n_div, online))
        return out
    weight, device = conv.weight, x.device.type
    if torch.is_autocast_enabled(device):
        x, weight = (tensor.to(torch.get_autocast_dtype(device)) for tensor in (x, weight))
    geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
    with torch.autocast(device, enabled=False):
        made = _ShiftedConvolution.apply(x, weight, n_segments, _checked_fold(x, n_segments, n_div), online, geometry)
    return made  # type: ignore[no-any-return]


def _fits(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether x can be shifted where it lies and conv is nothing but a convolution of floats by its weight."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(conv) is not nn.Conv2d or type(x) is not Tensor:
        return False
    dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
    hooked = conv._forward_hooks or conv._forward_pre_hooks or conv._backward_hooks or conv._backward_pre_hooks
    simple = conv.bias is None and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return x.ndim == 4 and dense and simple and not hooked and torch.amp.is_autocast_available(x.device.type)


class TemporalShift(nn.Module):
    """Shift, then apply the wrapped module (child name `net`). No parameters of its own."""

    def __init__(self, net: nn.Module, n_segments: int = 8, n_div: int = 8, online: bool = False) -> None:
        super().__init__()
        self.net = net
        self.n_segments = n_segments
        self.n_div = n_div
        self.online = online

    def forward(self, x: Tensor) -> Tensor:
        """x [B*N, C, H, W] -> what the wrapped module returns for the shifted x."""
        return shifted_convolution(x, self.net, self.n_segments, self.n_div, self.online)

    def extra_repr(self) -> str:
        return f"n_segments={self.n_segments}, n_div={self.n_div}{', online' if self.online else ''}"


def shifts_online(shift: bool | str) -> bool:
    """Whether the option `shift` of a network means the shift that needs no later frame.

    Raises:
        ValueError: it is neither true nor false nor `online`.
    """
    if shift not in (True, False, ONLINE):
        raise ValueError(f"shift={shift!r} is unknown: use true, false or {ONLINE}")
    return shift == ONLINE


def add_temporal_shift(
    stages: Iterable[nn.Sequential],
    n_segments: int = 8,
    n_div: int = 8,
    place: str = "blockres",
    online: bool = False,
) -> list[TemporalShift]:
    """Insert the shift into the residual blocks of a ResNet, in place.

    Args:
        stages: layer1 .. layer4; each block has a `conv1`.
        place: `blockres` wraps the first convolution, inside the residual branch, in every block, or in every second
            one (0, 2, ..) of each stage if the third stage has 23 blocks or more; `block` wraps every whole block, so
            the shortcut is shifted as well.
        online: shift from the previous frame alone.

    Returns: the inserted modules in network order.

    Raises:
        ValueError: unknown place, or the network is shifted already.
    """
    stages = list(stages)
    if place not in PLACES:
        raise ValueError(f"shift_place={place!r} is unknown: use one of {', '.join(PLACES)}")
    if any(isinstance(module, TemporalShift) for stage in stages for module in stage.modules()):
        raise ValueError("the network already has a temporal shift: build a new one to change its place")
    shifts: list[TemporalShift] = []
    every = 2 if place == "blockres" and len(stages) > 2 and len(stages[2]) >= DEEP_STAGE else 1
    for stage in stages:
        for index in range(0, len(stage), every):
            block: Any = stage[index]
            shift = TemporalShift(block.conv1 if place == "blockres" else block, n_segments, n_div, online)
            if place == "blockres":
                block.conv1 = shift
            else:
                stage[index] = shift
            shifts.append(shift)
    return shifts


def _plain_name(key: str) -> str:
    head, *rest = key.split(".")  # a leading `net` is a network's own name, never a shift's child
    return ".".join([head, *(part for part in rest if part != "net")])


def match_shift_names(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Rename the entries of a state dict to `names` where they differ only by the shift's `.net`.

    One function for every direction: ImageNet or TSN weights into a TSM network, TSM into TSN, one place into another.
    Entries without a counterpart keep their name, so that a strict load still reports them.
    """
    by_plain_name = {_plain_name(name): name for name in names}
    return {by_plain_name.get(_plain_name(key), key): value for key, value in state.items()}
