"""Tables in the layout of the paper, filled with what runs have measured: mean and 95 % interval over seeds.

    table = fill(layout, Measured.of(Path("multirun/single/<stamp>_table3")))
    print(markdown(table))

Nothing is typed: a cell that no run has filled says which run would.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mml_lightning.report import paper_table_ensembles
from mml_lightning.report.measured import METRICS, Measured, Values
from mml_lightning.report.paper import Printed, printed
from mml_lightning.report.statistics import Estimate, estimate
from mml_lightning.report.table_spec import Claim, Layout, Place
from mml_lightning.utils.program import command

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """One cell: estimates over seeds by metric, the values behind them, and what the paper prints."""

    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    values: Values = field(default_factory=dict)
    printed: Printed | None = None
    networks: str = ""
    missing: tuple[str, ...] = ()
    seeds: int = 0

    def mean(self, metric: str) -> float:
        """The mean, and infinity where there is none: it sorts last."""
        return self.estimates[metric].mean if metric in self.estimates else float("inf")


@dataclass(frozen=True)
class Verdict:
    """A conclusion of the paper, held against paired differences over seeds."""

    claim: Claim
    metric: str
    difference: Estimate | None
    words: str


@dataclass(frozen=True)
class PaperTable:
    """A table with its numbers; `rows` are labels, `cells` by row."""

    layout: Layout
    rows: Sequence[str]
    setup: str
    seeds: Sequence[int]
    metrics: Sequence[str]
    cells: Sequence[Sequence[Cell]]
    verdicts: Sequence[Verdict]
    notes: Sequence[str]


def fill_paper_table(table: Layout, measured: Measured) -> PaperTable:
    """Fill a table with what was measured."""
    setup = str(measured.told["setup"])
    several = paper_table_ensembles.cells(table, measured)
    rows, cells = list(table.rows), [[_cell(p, table, setup, measured, several) for p in line] for line in table.places]
    for label, line in _ranked(table, setup, measured):
        rows.append(label)
        cells.append(line)
    for label, line in _quoted(table, setup):
        rows.append(label)
        cells.append(line)
    found = {metric for line in cells for cell in line for metric in cell.estimates}
    metrics = [metric for metric in METRICS if metric in found]
    verdicts = [_verdict(claim, metrics, measured) for claim in table.claims]
    notes = [*table.notes, *measured.limited()]
    if any(cell.missing for line in cells for cell in line):
        notes.append(f"to run what is missing: {command()} resume={measured.root}")
    return PaperTable(table, rows, setup, measured.seeds, metrics, cells, verdicts, notes)


def _cell(
    place: Place, table: Layout, setup: str, measured: Measured, several: Mapping[tuple[str, ...], Values]
) -> Cell:
    if not place.networks:
        return Cell()
    ensemble = len(place.networks) > 1 or bool(table.ranks)
    key = paper_table_ensembles.key_of(place)
    values = several.get(key, {}) if ensemble else measured.values(place.networks[0], place.views)
    values = {metric: by_seed for metric, by_seed in values.items() if metric in METRICS}
    estimates = {metric: estimate(list(by_seed.values())) for metric, by_seed in values.items()}
    paper = None
    if setup in (place.setups or table.paper.get("setups", ())):
        paper = printed()[table.paper["table"]].get(place.paper)
    names = " + ".join(map(str, place.networks))
    return Cell(estimates, values, paper, names, tuple(measured.lacking(place, ensemble)), len(measured.seeds))


def _ranked(table: Layout, setup: str, measured: Measured) -> list[tuple[str, list[Cell]]]:
    """A row for each network of a table of rank sums, the best of its group first."""
    sums = paper_table_ensembles.rank_sums(table, measured)
    found = []
    for group in table.ranks.values():
        lines = [(label, [_cell(place, table, setup, measured, sums)]) for label, place in group.items()]
        found += sorted(lines, key=lambda line: line[1][0].mean("positions"))
    return found


def _quoted(table: Layout, setup: str) -> list[tuple[str, list[Cell]]]:
    """Rows of other systems, as the paper prints them."""
    if not table.paper.get("quote") or setup not in table.paper.get("setups", ()):
        return []
    numbers = printed()[table.paper["table"]]
    ours = {place.paper[0] for line in table.places for place in line}
    labels = dict.fromkeys(row for row, _ in numbers if row not in ours)
    columns = dict.fromkeys(place.paper[1] for line in table.places for place in line)
    return [(row, [Cell(printed=numbers.get((row, column))) for column in columns]) for row in labels]


def _verdict(claim: Claim, metrics: Sequence[str], measured: Measured) -> Verdict:
    metric = metrics[0] if metrics else METRICS[0]
    one, other = (measured.values(network).get(metric, {}) for network in (claim.better, claim.than))
    seeds = [seed for seed in one if seed in other]
    if not seeds:
        return Verdict(claim, metric, None, "not measured")
    found = estimate([one[seed] - other[seed] for seed in seeds])
    return Verdict(claim, metric, found, words(found, claim.expect))


def words(found: Estimate, expect: str = "better") -> str:
    """What a paired difference says: "holds: +2.10 [+0.50, +3.70]"."""
    if found.ci95 is None:
        return f"a single seed: {found.mean:+.2f}"
    if found.std == 0:  # accuracies come in steps of one video: a few seeds can agree by chance
        return f"{found.mean:+.2f} for each of {found.n} seeds: no spread"
    interval = f"{found.mean:+.2f} [{found.mean - found.ci95:+.2f}, {found.mean + found.ci95:+.2f}]"
    if not found.excludes_zero:
        return f"{'nothing found' if expect == 'nothing' else 'undecided'}: {interval}"
    if expect == "nothing":
        return f"{'gains' if found.mean > 0 else 'loses'}: {interval}"
    return f"{'holds' if found.mean > 0 else 'reversed'}: {interval}"
