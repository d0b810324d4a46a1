"""What the benches share: alternating rounds, tables, and the machine they ran on."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mml_lightning.errors import UserError
from mml_lightning.throughput import device_name


@dataclass
class Timing:
    """Seconds of one way, a value per round."""

    rounds: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        return min(self.rounds)

    @property
    def spread(self) -> float:
        """The slowest round over the fastest, less one."""
        return max(self.rounds) / self.best - 1


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


def machine(device: torch.device) -> dict[str, Any]:
    """What a number depends on besides the program."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "clock": "processor" if device.type == "cpu" and torch.get_num_threads() == 1 else "wall",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_json(path: Path | None, content: Mapping[str, Any]) -> None:
    """Nothing without a path.

    Raises:
        UserError: it can't be written.
    """
    if path is None:
        return
    try:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"can't write {path} ({error.strerror}); name another --json") from None


def device_of(word: str) -> torch.device:
    """Raises:
    UserError: this machine has no such device.
    """
    if word == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; leave it out")
    return torch.device(word)
