"""TV-L1 optical flow in plain PyTorch, for batches of pairs and for clips, on the CPU or a GPU.

Legend: P pairs, T frames, H height, W width. Grey levels are 0..255. Flow is (x, y) in pixels, right and down positive.

Source: Zach, Pock and Bischof, "A duality based approach for realtime TV-L1 optical flow", DAGM 2007: the thresholding
step and the update of the dual variable (Chambolle's), coarse to fine with warps. The names of the parameters, the
median filter and the stopping rule are those of OpenCV's DualTVL1OpticalFlow.

The iteration holds (tau / theta) * u in place of u, and the residual divided by the squared gradient: that leaves no
multiplication by a constant and turns the three cases of the thresholding into one clamp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mml_lightning.optical_flow.warping import gradient, median, pyramid, resize_field, warp

FLAT = 1e-3  # squared grey levels per pixel, added to the squared gradient: no division by zero where there is none
AT_ONCE = {"cpu": 1}  # pairs per batch of a clip: one fits a core's cache, a GPU wants many
AT_ONCE_GPU = 32


@dataclass(frozen=True)
class TVL1Settings:
    """Parameters of TV-L1.

    Args:
        lam: weight of the data term; smaller is smoother.
        theta: how tightly the two halves of the problem are coupled; smaller is tighter.
        tau: step of the dual update, at most 0.25.
        levels: images of the pyramid; fewer where a side would fall below 16 pixels.
        scale: size of a level relative to the next finer one, in (0, 1).
        warps: linearisations per level.
        outer: blocks of iterations per warp; the median filter stands before each, the stopping rule after each.
        inner: iterations per block.
        median: side of the median filter, odd; 0 or 1 for none.
        epsilon: a warp ends when the root mean square change of u in the last iteration of a block is below it; 0
            never ends early. Above 0 pairs are solved one at a time, since each ends on its own.
        cubic: sample the second image bicubically instead of bilinearly.
        blend: share of the second image in the gradient, the rest is the first's.

    Raises:
        ValueError: a number is out of its range.
    """

    lam: float = 0.15
    theta: float = 0.3
    tau: float = 0.25
    levels: int = 5
    scale: float = 0.5
    warps: int = 5
    outer: int = 1
    inner: int = 30
    median: int = 0
    epsilon: float = 0.0
    cubic: bool = False
    blend: float = 0.5

    def __post_init__(self) -> None:
        ranges = {
            "lam": self.lam > 0,
            "theta": self.theta > 0,
            "tau": 0 < self.tau <= 0.25,
            "levels": self.levels >= 1,
            "scale": 0 < self.scale < 1,
            "warps": self.warps >= 1,
            "outer": self.outer >= 1,
            "inner": self.inner >= 1,
            "median": self.median == 0 or (self.median > 0 and self.median % 2 == 1),
            "epsilon": self.epsilon >= 0,
            "blend": 0 <= self.blend <= 1,
        }
        for name, right in ranges.items():
            if not (right and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name}={getattr(self, name)!r} is out of the range of TV-L1")


# `paper` has the numbers of OpenCV's defaults. The others were chosen on synthetic pairs: at the lambda of `paper` the
# flow of a rotation or a zoom falls into steps before the noise of a translation is gone.
PRESETS = {
    "accurate": TVL1Settings(lam=0.07, warps=3, inner=40),
    "paper": TVL1Settings(scale=0.8, outer=10, median=5, epsilon=0.01, cubic=True, blend=1.0),
    "fast": TVL1Settings(lam=0.08, warps=2, inner=20),
}


@torch.no_grad()
def tvl1_pairs(first: Tensor, second: Tensor, settings: TVL1Settings, dtype: torch.dtype = torch.float32) -> Tensor:
    """Flow [P, 2, H, W] from `first` to `second`, grey images [P, 1, H, W] of any real type, on their device.

    A pair's flow does not depend on the others of its batch.

    Raises:
        ValueError: the shapes differ or are none of [P, 1, H, W]; `dtype` is neither float32 nor float64.
    """
    if first.shape != second.shape or first.ndim != 4 or first.shape[1] != 1 or 0 in first.shape:
        raise ValueError(f"TV-L1 needs two equal shapes [P, 1, H, W], got {[*first.shape]} and {[*second.shape]}")
    _check(dtype)
    if settings.epsilon and len(first) > 1:
        pairs = zip(first.split(1), second.split(1), strict=True)
        return torch.cat([tvl1_pairs(*pair, settings, dtype) for pair in pairs])
    firsts, seconds = (pyramid(images.to(dtype), settings.levels, settings.scale) for images in (first, second))
    return _coarse_to_fine(firsts, seconds, settings)


@torch.no_grad()
def tvl1_clip(
    frames: Tensor, settings: TVL1Settings, at_once: int | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Flow [T - 1, 2, H, W] between neighbours of `frames` [T, 1, H, W]; neighbouring pairs share one pyramid.

    Args:
        at_once: pairs solved together; one on a CPU, where a second only leaves the cache, and 32 on a GPU.

    Raises:
        ValueError: the shape is not [T, 1, H, W] with two frames or more; `dtype` is neither float32 nor float64.
    """
    if frames.ndim != 4 or frames.shape[1] != 1 or len(frames) < 2 or 0 in frames.shape:
        raise ValueError(f"TV-L1 needs two frames or more, [T, 1, H, W], got {[*frames.shape]}")
    _check(dtype)
    size = 1 if settings.epsilon else at_once or AT_ONCE.get(frames.device.type, AT_ONCE_GPU)
    levels = pyramid(frames.to(dtype), settings.levels, settings.scale)
    starts = range(0, len(frames) - 1, size)
    chosen = ([images[start : start + size + 1] for images in levels] for start in starts)
    return torch.cat([_coarse_to_fine([x[:-1] for x in part], [x[1:] for x in part], settings) for part in chosen])


def _check(dtype: torch.dtype) -> None:
    if dtype not in (torch.float32, torch.float64):
        # eight bits lose each step of the iteration against a flow of several pixels
        raise ValueError(f"TV-L1 iterates in float32 or float64; {dtype} is too imprecise, convert the result instead")


def _coarse_to_fine(firsts: list[Tensor], seconds: list[Tensor], settings: TVL1Settings) -> Tensor:
    """Flow [P, 2, H, W] of two pyramids, each finest first."""
    pairs, _, height, width = firsts[-1].shape
    flow = firsts[-1].new_zeros(2, pairs, height, width)
    for first, second in zip(reversed(firsts), reversed(seconds), strict=True):
        flow = resize_field(flow, (first.shape[-2], first.shape[-1]))
        flow = _level(first[:, 0], second, flow, settings)
    return flow.transpose(0, 1).contiguous()


def _level(first: Tensor, second: Tensor, flow: Tensor, settings: TVL1Settings) -> Tensor:
    """`flow` [2, P, H, W] improved between `first` [P, H, W] and `second` [P, 1, H, W] of one level."""
    ratio = settings.tau / settings.theta
    still = gradient(first)
    if settings.blend == 1:
        second = torch.cat([second, gradient(second[:, 0]).transpose(0, 1)], dim=1)
    state = State(flow)
    for _ in range(settings.warps):
        sampled, inside = warp(second, flow, settings.cubic)
        slope = sampled[:, 1:].transpose(0, 1) if settings.blend == 1 else gradient(sampled[:, 0])
        if settings.blend < 1:
            slope = torch.lerp(still, slope, settings.blend)
        slope = slope * inside  # what has left the picture follows its neighbours
        square = slope.square().sum(dim=0).add_(FLAT)
        rest = (sampled[:, 0] - first).mul_(inside).sub_((slope * flow).sum(dim=0)).div_(square)
        data = Linearised(slope / (square * ratio), slope * ratio, rest, settings.lam * settings.theta)
        flow = _solve(flow * ratio, data, state, settings, settings.epsilon * ratio).div_(ratio)
    return flow


def _solve(flow: Tensor, data: Linearised, state: State, settings: TVL1Settings, epsilon: float) -> Tensor:
    """The blocks of iterations after one warp; `flow` and `epsilon` are scaled by tau / theta."""
    for _ in range(settings.outer):
        if settings.median > 1:
            flow = median(flow, settings.median)
        if not epsilon:
            iterate(flow, state, data, settings.tau, settings.inner)
            continue
        iterate(flow, state, data, settings.tau, settings.inner - 1)
        before = flow.clone()
        iterate(flow, state, data, settings.tau, 1)
        if float((flow - before).square().sum(dim=0).mean()) < epsilon**2:
            break
    return flow


@dataclass
class Linearised:
    """The data term around the flow of a warp: clamp(rest + inverse . u, +-limit) says how far u moves along -slope.

    Shapes: inverse [2, P, H, W], slope [2, P, H, W], rest [P, H, W].
    """

    inverse: Tensor
    slope: Tensor
    rest: Tensor
    limit: float


class State:
    """The dual variable of one level, kept from warp to warp, and the memory that iterations write into.

    dual[0] belongs to the differences along x and dual[1] to those along y, [2, P, H, W] each for both parts of u. Its
    last column (x) and last row (y) stay zero: no difference reaches out of the image. So a shift of the flat memory
    by one or by W is a shift along x or y, without a seam.
    """

    def __init__(self, flow: Tensor) -> None:
        self.width = flow.shape[-1]
        self.dual = flow.new_zeros(2, *flow.shape)
        self.difference = torch.empty_like(self.dual)
        self.size = torch.empty_like(flow)
        self.step = torch.empty_like(flow[0])


def iterate(flow: Tensor, state: State, data: Linearised, tau: float, count: int) -> None:
    """`count` iterations on `flow` [2, P, H, W], in place, without a look at any value: fit for torch.compile."""
    dual, difference, size, step, width = state.dual, state.difference, state.size, state.step, state.width
    u, dual_x, dual_y = flow.view(-1), dual[0].view(-1), dual[1].view(-1)
    along_x, along_y = difference[0].view(-1), difference[1].view(-1)
    for _ in range(count):
        torch.addcmul(data.rest, data.inverse[0], flow[0], out=step)
        step.addcmul_(data.inverse[1], flow[1]).clamp_(-data.limit, data.limit)
        flow.addcmul_(data.slope, step, value=-1)
        u.add_(dual_x, alpha=tau).add_(dual_y, alpha=tau)
        u[1:].sub_(dual_x[:-1], alpha=tau)
        u[width:].sub_(dual_y[:-width], alpha=tau)
        torch.sub(u[1:], u[:-1], out=along_x[:-1])
        torch.sub(u[width:], u[:-width], out=along_y[:-width])
        difference[0, ..., -1] = 0
        difference[1, ..., -1, :] = 0
        torch.mul(difference[0], difference[0], out=size)
        size.addcmul_(difference[1], difference[1]).sqrt_().add_(1)
        dual.add_(difference).div_(size)
