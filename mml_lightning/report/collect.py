"""Every run below a directory, from the result.json that each run leaves; runs that left none are named too."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from mml_lightning.utils import liveness
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.foreign import Foreign, read_yaml
from mml_lightning.utils.result_file import FILE, SCHEMA, checked_result

STATUSES = ("completed", "failed", "preempted", "running", "died")
Run = dict[str, Any]

# Folders inside a run that hold no run of their own; walking a large checkpoint or wandb tree would only cost time.
_PRUNED = {"checkpoints", "data", "logs", "peers", "predictions", "wandb", "zoo"}


def collect(root: Path) -> list[Run]:
    """All runs under `root`, sorted by path: the contents of result.json plus `path`, the run's directory.

    A run that was killed has status "died", one whose file can't be used "unreadable", one that has `.hydra/` but no
    result.json "no result" (its overrides come from `.hydra/overrides.yaml`); each says why in `error`. The parent of a
    pipeline, which has no numbers of its own, is left out where its steps tell the same. Raises UserError if `root` is
    no directory.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root} is not a directory; give the directory of a run or of a sweep")
    runs: list[Run] = []
    silent: list[Path] = []
    for name, folders, files in os.walk(root):
        path = Path(name)
        if FILE in files:
            runs.append(_read(path))
        elif ".hydra" in folders:
            silent.append(path)
        folders[:] = sorted(f for f in folders if f not in _PRUNED and not f.startswith("."))
    occupied = [*silent, *(Path(run["path"]) for run in runs)]
    parents = {parent for path in occupied for parent in path.parents}
    runs += [_silent(path) for path in silent if path not in parents]
    told = [run for run in runs if not (Path(run["path"]) in parents and _told_by_steps(run, runs))]
    return sorted(told, key=lambda run: run["path"])


def collect_all(roots: list[Path]) -> list[Run]:
    """Runs of several directories, each run once even where the directories overlap."""
    runs = {os.path.realpath(run["path"]): run for root in roots for run in collect(root)}
    return [runs[path] for path in sorted(runs)]


def value(run: Run, key: str) -> float | None:
    """The finite number at `key`, for example "test/rgb/top1", or None."""
    split, peer, metric = parts(key)
    return number(mapping(mapping(mapping(run.get("metrics")).get(split)).get(peer)).get(metric))


def parts(key: str) -> tuple[str, str, str]:
    """Split, peer and metric of a key; where a peer has several heads, its part is "rgb/verb"."""
    split, _, rest = key.partition("/")
    peer, _, metric = rest.rpartition("/")
    return split, peer, metric


def keys(run: Run) -> list[str]:
    """Keys of the scalar metrics of a run in the order of the file, be they finite or not (json: NaN or null)."""
    return [
        f"{split}/{peer}/{metric}"
        for split, peers in mapping(run.get("metrics")).items()
        for peer, metrics in mapping(peers).items()
        for metric, item in mapping(metrics).items()
        if item is None or isinstance(item, int | float)
    ]


def number(item: Any) -> float | None:
    """The item as a float if it is a finite number, else None."""
    if isinstance(item, bool) or not isinstance(item, int | float) or not math.isfinite(item):
        return None
    return float(item)


def mapping(item: Any) -> dict[str, Any]:
    """The item if it is a dictionary, else an empty one: a run that failed early may lack any part."""
    return item if isinstance(item, dict) else {}


def _read(path: Path) -> Run:
    try:
        run = checked_result(path / FILE)
    except (OSError, Foreign) as error:
        return _problem(path, "unreadable", f"result.json: {error}")
    if run.get("schema") != SCHEMA:
        return _problem(path, "unreadable", f"result.json has schema {run.get('schema')!r}, not {SCHEMA}")
    if run.get("status") not in STATUSES:
        return _problem(path, "unreadable", f"result.json has status {run.get('status')!r}, not one of {STATUSES}")
    return {**liveness.told(run, path / FILE), "path": str(path)}


def _problem(path: Path, status: str, error: str) -> Run:
    return {"path": str(path), "status": status, "error": error, "overrides": _overrides(path)}


def _silent(path: Path) -> Run:
    return _problem(path, "no result", "has .hydra/ but no result.json: it died, or has not started")


def _overrides(path: Path) -> list[str] | None:
    """The command line of a run as Hydra wrote it down, or None. Each is one yaml list item, quoted if need be."""
    file = path / ".hydra" / "overrides.yaml"
    if not file.is_file():
        return None
    try:
        items = read_yaml(file)
    except (OSError, Foreign):  # a broken file only costs the grouping
        return None
    plain = isinstance(items, list) and all(isinstance(item, str | int | float) for item in items)
    return [str(item) for item in items] if plain else None


def _told_by_steps(parent: Run, runs: list[Run]) -> bool:
    """A pipeline that completed is told by its numbers below, one that did not by the step that did not either."""
    if parent["status"] == "completed":
        return not keys(parent)
    below = [run for run in runs if Path(parent["path"]) in Path(run["path"]).parents]
    return any(run["status"] != "completed" for run in below)
