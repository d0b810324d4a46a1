"""What runs leave beyond their result: scores per class, training curves, the lesson graph."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mml_lightning.report.collect import Run, mapping
from mml_lightning.utils.files import FOLDER_NAME

Curve = list[tuple[float, float]]
"""(epoch, value), in order; the epoch may have a fraction."""
Classes = dict[str, float]
"""Accuracy or average precision of every class that has a video, percent."""


def per_class(run: Path, split: str, peer: str) -> Classes:
    """What `predictions/<split>_per_class.csv` says of a peer ("rgb", or "verb/rgb" of a head); empty without it."""
    head, _, name = peer.rpartition("/")
    if not FOLDER_NAME.fullmatch(head or "x"):  # of a foreign result: it would lead to other folders
        return {}
    file = run / "predictions" / f"{split}{'_' if head else ''}{head}_per_class.csv"
    found: Classes = {}
    for row in _rows(file):
        value = _number(row.get(name))
        if value is not None:
            found[str(row.get("class"))] = value
    return found


def mean_per_class(runs: Sequence[Path], split: str, peer: str) -> Classes:
    """Mean over the runs of each class; the classes that all runs have."""
    every = [classes for run in runs if (classes := per_class(run, split, peer))]
    shared = [name for name in every[0] if all(name in classes for classes in every)] if every else []
    return {name: sum(classes[name] for classes in every) / len(every) for name in shared}


def curves(run: Path) -> dict[str, Curve]:
    """{key: curve} of everything that `logs/metrics.csv` has, and the logs before a resume.

    Training is logged by step: such a curve is the mean over each epoch.
    """
    logs = sorted((run / "logs").glob("metrics_*.csv"), key=lambda file: int(re.sub(r"\D", "", file.stem) or 0))
    points: dict[str, dict[float, list[float]]] = {}
    for file in [*logs, run / "logs" / "metrics.csv"]:
        again: set[tuple[str, float]] = set()  # a resumed run repeats the epoch it stopped in: the later log counts
        for row in _rows(file):
            epoch = _number(row.get("epoch"))
            if epoch is None:
                continue
            for key, text in row.items():
                value = _number(text) if key not in ("epoch", "step") else None
                if value is not None:
                    by_epoch = points.setdefault(str(key), {})
                    if (str(key), epoch) not in again:
                        by_epoch[epoch] = []
                        again.add((str(key), epoch))
                    by_epoch[epoch].append(value)
    return {
        key: [(epoch, sum(values) / len(values)) for epoch, values in sorted(by_epoch.items())]
        for key, by_epoch in points.items()
        if key.startswith(("train/", "val/"))
    }


def mean_curve(found: Iterable[Curve]) -> Curve:
    """Mean of curves over the epochs that all of them have."""
    every = [dict(curve) for curve in found if curve]
    shared = sorted(set.intersection(*(set(curve) for curve in every))) if every else []
    return [(epoch, sum(curve[epoch] for curve in every) / len(every)) for epoch in shared]


def graph(run: Run) -> str:
    """The lesson graph of a run as an <svg> for a page, from the config in its folder; "" where that tells none."""
    file = Path(run["path"]) / ".hydra" / "config.yaml"
    peers = mapping(run.get("peers"))
    if not file.is_file() or not peers:
        return ""
    from mml_lightning.objectives import Objective, drawing
    from mml_lightning.utils.foreign import read_yaml

    try:
        phases = run.get("phases") or [{"objective": read_yaml(file)["objective"]}]
        drawn = [(_heading(one), Objective(list(peers), **_graph_of(one["objective"]))) for one in phases]
    except Exception:  # an old or damaged config costs the picture alone; its parts fail in many ways
        return ""
    about = {name: f"from {Path(str(mapping(peer).get('init'))).name}" for name, peer in peers.items()}
    pictures = [(heading, drawing.svg(one, about)) for heading, one in drawn]
    found = drawing.stacked(pictures) if run.get("phases") else pictures[0][1]
    return found.replace(' xmlns="http://www.w3.org/2000/svg"', "")


def _graph_of(objective: Mapping[str, Any]) -> dict[str, Any]:
    return {key: objective[key] for key in ("edges", "supervised_weight", "frozen", "headed") if key in objective}


def _heading(phase: Mapping[str, Any]) -> str:
    """What a phase trains, and when; nothing of a stage without."""
    if "name" not in phase:
        return ""
    first = int(phase["first_epoch"]) + 1
    return f"{phase['name']}: epoch {first} to {first + int(phase['epochs']) - 1}, trains {', '.join(phase['train'])}"


def deltas(classes: Mapping[str, float], baseline: Mapping[str, float]) -> list[tuple[str, float]]:
    """(class, gain over the baseline), best first, of the classes that both have."""
    found = [(name, value - baseline[name]) for name, value in classes.items() if name in baseline]
    return sorted(found, key=lambda item: (-item[1], item[0]))


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        with file.open(encoding="utf-8", newline="") as handle:
            return list(csv.DictReader(handle))
    except (OSError, ValueError, csv.Error):
        return []


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if abs(value) < float("inf") else None
