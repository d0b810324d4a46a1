"""What the benches share: rounds that alternate, rates, and the machine they ran on."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mml_lightning.benchmarks.tables import BenchTable, Row
from mml_lightning.utils.device import device_name, instructions
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.threads import cores

CPU = torch.device("cpu")


@dataclass
class Timing:
    """Seconds of one way, a value per round; of the round before these, which makes warm and does not count."""

    rounds: list[float] = field(default_factory=list)
    warm: float | None = None

    @property
    def best(self) -> float:
        """Of a way that was cut before its first round, what the one before took."""
        return min(self.rounds or [math.inf if self.warm is None else self.warm])

    @property
    def spread(self) -> float | None:
        """The slowest round over the fastest, less one; None of a single round, which tells nothing of it."""
        return max(self.rounds) / self.best - 1 if len(self.rounds) > 1 else None


def alternate(
    ways: Mapping[str, Callable[[], float]], rounds: int, advance: Callable[[str], object] = lambda way: None
) -> Iterator[dict[str, Timing]]:
    """Every way once in each round, so that whatever else the machine does meets them alike; a round before, which
    makes them warm, does not count. All timings so far are given after each way.

    Args:
        ways: each does its work and returns what it took.
    """
    found = {name: Timing() for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            spent = way()
            if number:
                found[name].rounds.append(spent)
            else:
                found[name].warm = spent
            advance(name)
            yield found


def rates(timings: Mapping[str, Timing], amount: float, unit: str = "clips") -> list[Row]:
    """A row per way that was measured: how much of `amount`, which a round takes, a second of its best one takes."""
    first = next(iter(timings.values()))
    return [
        {"way": way, f"{unit}_per_s": amount / one.best, "vs_first": first.best / one.best, "spread": one.spread}
        for way, one in timings.items()
        if one.warm is not None or one.rounds
    ]


def unfinished(rows: Sequence[Row], timings: Mapping[str, Timing], rounds: int, title: str = "") -> BenchTable:
    """The table of a measurement that goes on; see :class:`Told`."""
    words = [f"cut off: of {rounds} rounds {min(len(one.rounds) for one in timings.values())} are whole"]
    if early := [way for way, one in timings.items() if one.warm is not None and not one.rounds]:
        words.append(f"of {', '.join(early)} there is the round before them alone, which makes warm")
    if missing := [way for way, one in timings.items() if one.warm is None and not one.rounds]:
        words.append(f"{', '.join(missing)}: not measured")
    return BenchTable(rows, "; ".join(words), title=title, whole=False)


def machine(device: torch.device) -> dict[str, Any]:
    """What a number depends on besides the program."""
    return {
        "processor": device_name(CPU),
        "instructions": instructions(),
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
