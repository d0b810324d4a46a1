"""What a new frame costs: a network of the online shift that keeps what it needs, and the same one on a whole clip.

Legend: T frames of a clip.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from mml_lightning.backbones.streaming import FrameStream, check_streamable
from mml_lightning.benchmarks.commands.shape import Compose
from mml_lightning.benchmarks.tables import BenchTable, Row
from mml_lightning.config import instantiate, training
from mml_lightning.utils.errors import UserError

CLASSES = 174


class Streamed:
    """One network, both ways, on random frames. Times are seconds a frame; of the processor on a CPU with one thread.

    Args:
        name: an option of conf/backbone; words: of a config.

    Raises:
        UserError: it can't be had with the online shift.
    """

    def __init__(self, compose: Compose, words: Sequence[str], name: str, device: torch.device) -> None:
        cfg = compose([*words, f"backbone={name}", "backbone.net.shift=online"])
        torch.manual_seed(0)
        net = instantiate.instantiate(cfg.plain("backbone.net"), cfg.trusted)(num_classes={"label": CLASSES})
        try:
            check_streamable(net)
        except ValueError as error:
            raise UserError(f"--networks {name}: {error}") from None
        training.execution_settings(cfg).apply({name: net})
        self.name, self.net, self.device = name, net.to(device), device
        self.frames, side = int(cfg.sampling.num_segments), int(cfg.transforms.output)
        self.clip = torch.randn(1, self.frames, net.in_channels, side, side, device=device)
        self._settle()
        self.stream = FrameStream(self.net, self.frames)
        processor = device.type == "cpu" and torch.get_num_threads() == 1
        self.clock = time.process_time if processor else time.perf_counter
        self.times: dict[str, list[float]] = {"a frame at a time": [], f"a clip of {self.frames} per frame": []}

    @torch.no_grad()
    def _settle(self) -> None:
        """Logits of a usual size, which random weights have not: only then a difference tells something."""
        for module in self.net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.1)
        self.net.train()(self.clip)
        self.net.eval()

    @torch.inference_mode()
    def round(self, keep: bool) -> None:
        """A whole clip both ways."""
        one, other = self.times
        self.stream.reset()
        found = [self._timed(one, functools.partial(self.stream.push, frame), keep) for frame in self.clip.unbind(1)]
        whole = self._timed(other, functools.partial(self.net, self.clip), keep)
        self.difference = float((found[-1].mean["label"] - whole.logits["label"]).abs().max())

    def _timed(self, way: str, work: Callable[[], Any], keep: bool) -> Any:
        begun = self.clock()
        made = work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if keep:
            self.times[way].append(self.clock() - begun)
        return made

    def rows(self) -> list[Row]:
        made: list[Row] = []
        halves = {way: float(np.median(times)) for way, times in self.times.items()}
        first = next(iter(halves.values()))
        for way, times in self.times.items():
            numbers = {"frame_ms": 1e3 * halves[way], "frame_p95_ms": 1e3 * float(np.percentile(times, 95))}
            numbers |= {"frames_per_s": 1 / halves[way], "times_first": halves[way] / first}
            made.append({"way": f"{self.name}, {way}", **numbers, "logit_difference": self.difference})
        return made


def measure(
    compose: Compose,
    words: Sequence[str],
    names: Sequence[str],
    rounds: int,
    device: torch.device,
    say: Callable[[str], object],
) -> Iterator[BenchTable]:
    """Each network in turn, round by round; a round before these makes them warm and does not count.

    Raises:
        UserError: a network is unknown, or can't be had with the online shift.
    """
    networks = [Streamed(compose, words, name, device) for name in names]
    for number in range(rounds + 1):
        for network in networks:
            network.round(keep=number > 0)
        say(f"round {number} of {rounds}")
        if number:
            yield _table(networks, number == rounds)


def _table(networks: Sequence[Streamed], whole: bool) -> BenchTable:
    rows = [row for network in networks for row in network.rows()]
    sizes = " and ".join(dict.fromkeys(f"{one.clip.shape[-1]} px" for one in networks))
    ratios = ", ".join(f"{one.name} {_ratio(one.times):.1f}" for one in networks)
    return BenchTable(
        rows, f"frames of {sizes}; a clip per new frame takes as many times as long: {ratios}", whole=whole
    )


def _ratio(times: Mapping[str, Sequence[float]]) -> float:
    one, other = (float(np.median(values)) for values in times.values())
    return other / one
