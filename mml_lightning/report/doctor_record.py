"""How often the rule of `mml doctor` was right, by comparisons that were measured."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mml_lightning.evaluation.distillation_room import Evidence, decide
from mml_lightning.evaluation.metrics.bootstrap import Interval
from mml_lightning.report.doctor_page import YES
from mml_lightning.report.grid import Grid
from mml_lightning.report.statistics import Estimate, estimate
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.foreign import Foreign, read_json

FILE = "comparisons.csv"
COLUMNS = ("comparison", "page", "student", "diagnosis", "taught", "alone")


@dataclass(frozen=True)
class Comparison:
    """A student that learnt against the same one that did not.

    Args:
        name: what taught it.
        page: where it was measured.
        student: name of a network of the diagnosis.
        diagnosis: its file.
        room: what the rule says; None: nothing.
        difference: taught less alone over equal seeds, in points.
    """

    name: str
    page: str
    student: str
    diagnosis: str
    room: bool | None
    difference: Estimate

    @property
    def gained(self) -> bool:
        return self.difference.mean > 0

    @property
    def right(self) -> bool | None:
        return None if self.room is None else self.room == self.gained


@dataclass(frozen=True)
class Record:
    """Comparisons in the order of their file."""

    rows: list[Comparison]

    def rates(self) -> list[tuple[str, int, int, int, int]]:
        """(which comparisons, how many, the rule right in, always yes right in, always no right in). The rule is right
        in none of those where it says nothing."""
        decided = [row for row in self.rows if row.difference.excludes_zero]
        return [_rate("all", self.rows), _rate("decided at 95 %", decided)]

    def by_verdict(self) -> list[tuple[str, str, str, int, int, int]]:
        """(data, student, room, comparisons, in how many the student gained, the rule right in): the comparisons of one
        student share its verdict."""
        found = []
        for data, student in dict.fromkeys((row.diagnosis, row.student) for row in self.rows):
            rows = [row for row in self.rows if (row.diagnosis, row.student) == (data, student)]
            counts = len(rows), sum(row.gained for row in rows), sum(bool(row.right) for row in rows)
            found.append((data, student, YES[rows[0].room], *counts))
        return found

    def markdown(self) -> str:
        """All comparisons, those of each verdict, and how often the rule was right."""
        rows: list[dict[str, Any]] = [
            {
                "comparison": row.name,
                "data": row.diagnosis,
                "student": row.student,
                "room": YES[row.room],
                "difference": f"{row.difference.mean:+.1f}",
                "interval": _interval(row.difference),
                "right": {True: "yes", False: "no", None: "–"}[row.right],
            }
            for row in self.rows
        ]
        notes = ["difference: taught less alone over equal seeds, in points, with its 95 % interval (Student's t)"]
        verdicts = _grid("Verdicts", ["data", "student", "room", "comparisons", "gained", "right"], self.by_verdict())
        heads = ["comparisons", "number", "rule right", "always yes", "always no"]
        rates = _grid("How often the rule was right", heads, self.rates())
        grids = [Grid("Comparisons", list(rows[0]), rows, {}, notes), verdicts, rates]
        return "\n".join(grid.markdown() for grid in grids)


def read_record(folder: Path) -> Record:
    """The comparisons of a folder: `comparisons.csv` (comparison, page, student, diagnosis, and of each seed, joined by
    `;`, what the student reached taught and alone) and `<diagnosis>.json`, as `mml doctor --json` writes it.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        with (folder / FILE).open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            lines = list(reader)
    except OSError as error:
        raise UserError(f"can't read {folder / FILE}: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        raise UserError(f"can't read {folder / FILE}: {error}") from None
    if not lines or set(COLUMNS) - set(reader.fieldnames or ()):
        raise UserError(f"{folder / FILE} must have the columns {', '.join(COLUMNS)} and a line per comparison")
    return Record([_comparison(folder, line, number) for number, line in enumerate(lines, start=2)])


def _comparison(folder: Path, line: dict[str, str], number: int) -> Comparison:
    try:
        taught, alone = ([float(text) for text in line[key].split(";")] for key in ("taught", "alone"))
        difference = estimate([a - b for a, b in zip(taught, alone, strict=True)])
    except (ValueError, AttributeError):
        raise UserError(
            f"{folder / FILE}, line {number}: taught and alone must be as many numbers, joined by ;"
        ) from None
    evidence = _evidence(folder / f"{line['diagnosis']}.json", line["student"])
    told = {key: line[key] for key in ("page", "student", "diagnosis")}
    return Comparison(line["comparison"], **told, room=decide(evidence).room, difference=difference)


def _evidence(file: Path, student: str) -> Evidence:
    try:
        students = [one["evidence"] for one in read_json(file)["students"]]
        found = next((one for one in students if one["student"] == student), None)
        if found is None:
            names = ", ".join(one["student"] for one in students)
            raise UserError(f"{file} has no student {student}; it has {names}")
        ends = {key: found[key] and Interval(**found[key]) for key in ("lead", "rescued", "gap")}
        return Evidence(**{**found, **ends})
    except (OSError, Foreign, KeyError, TypeError) as error:
        raise UserError(f"{file} is not what mml doctor --json writes: {error}") from None


def _grid(title: str, heads: Sequence[str], rows: Sequence[Sequence[str | int]]) -> Grid:
    return Grid(title, heads, [dict(zip(heads, row, strict=True)) for row in rows])


def _rate(name: str, rows: Sequence[Comparison]) -> tuple[str, int, int, int, int]:
    gained = sum(row.gained for row in rows)
    return name, len(rows), sum(bool(row.right) for row in rows), gained, len(rows) - gained


def _interval(one: Estimate) -> str:
    return "one seed" if one.ci95 is None else f"[{one.mean - one.ci95:+.1f}, {one.mean + one.ci95:+.1f}]"
