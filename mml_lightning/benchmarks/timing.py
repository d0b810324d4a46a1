"""What the benches share: rounds that alternate, rates, and the machine they ran on."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from mml_lightning.benchmarks.told import Row
from mml_lightning.data.threads import cores
from mml_lightning.errors import UserError
from mml_lightning.throughput import device_name

CPU = torch.device("cpu")


@dataclass
class Timing:
    """Seconds of one way, a value per round."""

    rounds: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        return min(self.rounds)

    @property
    def spread(self) -> float | None:
        """The slowest round over the fastest, less one; None of a single round, which tells nothing of it."""
        return max(self.rounds) / self.best - 1 if len(self.rounds) > 1 else None


def alternate(
    ways: Mapping[str, Callable[[], float]], rounds: int, advance: Callable[[str], object] = lambda way: None
) -> dict[str, Timing]:
    """Every way once in each round, so that whatever else the machine does meets them alike; a round before, which
    makes them warm, does not count.

    Args:
        ways: each does its work and returns what it took.
    """
    found = {name: Timing() for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            spent = way()
            if number:
                found[name].rounds.append(spent)
            advance(name)
    return found


def rates(timings: Mapping[str, Timing], amount: float, unit: str = "clips") -> list[Row]:
    """A row per way: how much of `amount`, which a round takes, a second of its best one takes."""
    first = next(iter(timings.values()))
    return [
        {"way": way, f"{unit}_per_s": amount / one.best, "vs_first": first.best / one.best, "spread": one.spread}
        for way, one in timings.items()
    ]


def machine(device: torch.device) -> dict[str, Any]:
    """What a number depends on besides the program."""
    return {
        "processor": device_name(CPU),
        "cores": cores(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "clock": "processor" if device.type == "cpu" and torch.get_num_threads() == 1 else "wall",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def device_of(word: str) -> torch.device:
    """Raises:
    UserError: this machine has no such device.
    """
    if word == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; leave it out")
    return torch.device(word)
