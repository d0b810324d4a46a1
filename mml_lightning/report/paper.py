"""The numbers that the paper prints: Tables 1 to 13 of "Mutual Modality Learning for Video Action Classification"
(Komkov, Dzabraev, Petiushko; Computer Optics 47(4), 2023), as they stand in paper.csv beside this file."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("paper.csv")
METRICS = ("top1", "top5", "map", "positions")


@dataclass(frozen=True)
class Printed:
    """What stands in one cell. `doubtful`: it looks like a misprint."""

    values: Mapping[str, float]
    doubtful: bool = False


@functools.cache
def printed() -> dict[int, dict[tuple[str, str], Printed]]:
    """{table: {(row, column): numbers}}, in the order of the paper; percent, or sums of positions."""
    tables: dict[int, dict[tuple[str, str], Printed]] = {}
    with FILE.open(encoding="utf-8", newline="") as handle:
        for line in csv.DictReader(handle):
            values = {metric: float(line[metric]) for metric in METRICS if line[metric]}
            cell = Printed(values, line["doubtful"] == "yes")
            tables.setdefault(int(line["table"]), {})[line["row"], line["column"]] = cell
    return tables
