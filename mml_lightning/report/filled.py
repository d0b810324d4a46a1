"""Tables in the layout of the paper, filled with what runs have measured: mean and 95 % interval over seeds.

    table = fill(layout, Measured.of(Path("multirun/single/<stamp>_table3")))
    print(markdown(table))

Nothing is typed: a cell that no run has filled says which run would.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mml_lightning.foreign import Foreign, read_json
from mml_lightning.pipelines.layouts import Claim, Layout, Network, Place, layout, views_name
from mml_lightning.report import filled_ensembles
from mml_lightning.report.collect import mapping, number
from mml_lightning.report.paper import Printed, printed
from mml_lightning.report.statistics import Estimate, estimate
from mml_lightning.results import read_result

if TYPE_CHECKING:
    from mml_lightning.dumps import Dump

log = logging.getLogger(__name__)

STATE = "runs.json"
READY = ("done", "reused")
METRICS = ("top1", "top5", "map", "positions")
Values = dict[str, dict[int, float]]
"""{metric: {seed: value}}"""


@dataclass
class Measured:
    """What the runs of a pipeline have measured.

    Args:
        root: its directory.
        told: the content of its runs.json.
    """

    root: Path
    told: Mapping[str, Any]

    @staticmethod
    def of(root: Path) -> Measured | None:
        """The pipeline of a directory; None where there is none."""
        told = read_result_file(root)
        return None if told is None else Measured(root, told)

    def __post_init__(self) -> None:
        self._rows = {(row["key"], row.get("views", ""), row["seed"]): row for row in self.told["runs"]}
        self._results: dict[str, Mapping[str, Any]] = {}
        self.seeds: list[int] = list(dict.fromkeys(row["seed"] for row in self.told["runs"]))

    def layouts(self) -> list[Layout]:
        return [layout(name, declared, self.told["base"]) for name, declared in self.told["tables"].items()]

    def row(self, network: Network, views: Mapping[str, Any] | None, seed: int) -> Mapping[str, Any] | None:
        """What runs.json says of the run that measures a network."""
        if views is None:
            return self._rows.get((network.run, "", seed))
        return self._rows.get((str(network), views_name(views), seed))

    def values(self, network: Network, views: Mapping[str, Any] | None = None) -> Values:
        """Numbers of a network by seed, of the test split or, where that is not measured, of val."""
        found: Values = {}
        for seed in self.seeds:
            row = self.row(network, views, seed)
            metrics = mapping(self.result(row).get("metrics")) if row and row["state"] in READY else {}
            split = next((name for name in ("test", "val") if name in metrics), "")
            for metric, item in mapping(mapping(metrics.get(split)).get(network.peer)).items():
                if metric in METRICS and number(item) is not None:
                    found.setdefault(metric, {})[seed] = float(item)
        return found

    def limited(self) -> list[str]:
        """A note on the runs that were cut short."""
        rows = [row for row in self._rows.values() if row["state"] in READY]
        cut = {row["run"]: told for row in rows if (told := self.result(row).get("limited"))}
        reasons = ", ".join(sorted({str(reason) for told in cut.values() for reason in told}))
        return [f"LIMITED, no number is a result: {len(cut)} of {len(rows)} runs ({reasons})"] if cut else []

    def result(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        folder = str(row["folder"])
        if folder not in self._results:
            self._results[folder] = read_result(self.root / folder) or {}
        return self._results[folder]

    def dump(self, network: Network, views: Mapping[str, Any] | None, seed: int) -> Dump | None:
        """The scores of a network; None where there are none. Those of an earlier run lie in the zoo."""
        row = self.row(network, views, seed)
        if row is None or row["state"] not in READY:
            return None
        folders = [self.root / row["folder"]]
        folders += [Path(zoo)] if (zoo := self.result(row).get("zoo")) else []
        for split, folder in itertools.product(("test", "val"), folders):
            file = folder / "predictions" / f"{split}.npz"
            if file.is_file():
                return _load(file)
        return None

    def lacking(self, place: Place, ensemble: bool) -> list[str]:
        """What would fill a cell that has no number, or not those of all seeds."""
        reasons = []
        for network in place.networks:
            for seed in self.seeds:
                row = self.row(network, place.views, seed)
                if row is None:
                    reasons.append(f"{network} seed {seed} is not part of this")
                elif row["state"] not in READY:
                    reasons.append(f"{row['run']} seed {seed} {row['state']}{': ' if row['note'] else ''}{row['note']}")
                elif ensemble and self.dump(network, place.views, seed) is None:
                    zoo = self.result(row).get("zoo", row["folder"])
                    reasons.append(f"{row['run']} seed {seed} has no scores; without {zoo}/result.json it runs again")
        return reasons


def read_result_file(root: Path) -> Mapping[str, Any] | None:
    """The content of runs.json, or None where there is none to read."""
    try:
        told = read_json(root / STATE)
    except FileNotFoundError:
        return None
    except (OSError, Foreign) as error:
        log.warning("%s: %s; its tables are left out", root / STATE, error)
        return None
    return told if isinstance(told, dict) and "runs" in told else None


@functools.lru_cache(maxsize=128)
def _load(file: Path) -> Dump:
    from mml_lightning.dumps import load

    return load(file)


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
class Filled:
    """A table with its numbers; `rows` are labels, `cells` by row."""

    layout: Layout
    rows: Sequence[str]
    setup: str
    seeds: Sequence[int]
    metrics: Sequence[str]
    cells: Sequence[Sequence[Cell]]
    verdicts: Sequence[Verdict]
    notes: Sequence[str]


def fill(table: Layout, measured: Measured) -> Filled:
    """Fill a table with what was measured."""
    setup = str(measured.told["setup"])
    several = filled_ensembles.cells(table, measured)
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
        notes.append(f"what is missing is made by: python train.py resume={measured.root}")
    return Filled(table, rows, setup, measured.seeds, metrics, cells, verdicts, notes)


def _cell(
    place: Place, table: Layout, setup: str, measured: Measured, several: Mapping[tuple[str, ...], Values]
) -> Cell:
    if not place.networks:
        return Cell()
    ensemble = len(place.networks) > 1 or bool(table.ranks)
    key = filled_ensembles.key_of(place)
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
    sums = filled_ensembles.rank_sums(table, measured)
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
        return f"one seed decides nothing: {found.mean:+.2f}"
    if found.std == 0:  # accuracies come in steps of one video: a few seeds can agree by chance
        return f"{found.mean:+.2f} for each of {found.n} seeds: no spread to judge by"
    interval = f"{found.mean:+.2f} [{found.mean - found.ci95:+.2f}, {found.mean + found.ci95:+.2f}]"
    if not found.excludes_zero:
        return f"{'nothing found' if expect == 'nothing' else 'undecided'}: {interval}"
    if expect == "nothing":
        return f"{'gains' if found.mean > 0 else 'loses'}: {interval}"
    return f"{'holds' if found.mean > 0 else 'reversed'}: {interval}"
