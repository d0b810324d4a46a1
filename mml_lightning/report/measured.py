"""What the runs of a pipeline have measured, read from its runs.json and their results."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mml_lightning.report.collect import mapping, number
from mml_lightning.report.table_spec import Layout, Network, Place, layout, views_name
from mml_lightning.utils.foreign import Foreign, read_json
from mml_lightning.utils.result_file import read_result

if TYPE_CHECKING:
    from mml_lightning.evaluation.predictions import Predictions

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
        return [f"LIMITED, not results: {len(cut)} of {len(rows)} runs ({reasons})"] if cut else []

    def result(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        folder = str(row["folder"])
        if folder not in self._results:
            self._results[folder] = read_result(self.root / folder) or {}
        return self._results[folder]

    def dump(self, network: Network, views: Mapping[str, Any] | None, seed: int) -> Predictions | None:
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
        log.warning("%s: %s; its tables are skipped", root / STATE, error)
        return None
    return told if isinstance(told, dict) and "runs" in told else None


@functools.lru_cache(maxsize=128)
def _load(file: Path) -> Predictions:
    from mml_lightning.evaluation.predictions import load

    return load(file)
