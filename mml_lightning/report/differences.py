"""Every two rows of a table against each other, seed by seed: which differences are more than luck."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from mml_lightning.report.collect import Run, keys, parts
from mml_lightning.report.markdown import pipes
from mml_lightning.report.paired import Pairs, paired
from mml_lightning.report.rows import Group, group
from mml_lightning.utils.files import write_atomically

MOST_ROWS = 6  # of more, comparing all would find differences by luck; mml report --paired compares two
PRIMARY = ("top1", "map")
FILE = "differences.md"


def differences(runs: Sequence[Run]) -> list[Pairs]:
    """Later rows minus earlier ones in the first metric of each peer that both have, over the seeds that both have;
    none for a single seed or more than :data:`MOST_ROWS` rows."""
    runs = [run for run in runs if run["status"] == "completed"]
    groups = [home for home in group(runs) if len(_seeds(home)) > 1]
    if not 2 <= len(groups) <= MOST_ROWS:
        return []
    found = []
    for one, other in itertools.combinations(groups, 2):
        seeds = sorted(_seeds(one) & _seeds(other))
        shared = [key for key in _metrics(one) if key in _metrics(other)]
        found += [paired(runs, other.name, one.name, key, seeds) for key in shared if len(seeds) > 1]
    return found


def write(root: Path, runs: Sequence[Run]) -> str:
    """Leave differences.md in `root`; returns its text, "" where there is nothing to compare."""
    found = differences(runs)
    if not found:
        return ""
    text = markdown(found)
    with write_atomically(root / FILE) as handle:
        handle.write(text)
    return text


def markdown(found: Sequence[Pairs]) -> str:
    rows = [["A", "B", "metric", "A - B", "95 % interval", "seeds", "so"]]
    for pair in found:
        low, high = (pair.difference.mean + sign * (pair.difference.ci95 or 0.0) for sign in (-1, 1))
        interval, seeds = f"[{low:+.2f}, {high:+.2f}]", ", ".join(map(str, pair.seeds))
        rows.append([pair.a, pair.b, pair.metric, f"{pair.difference.mean:+.2f}", interval, seeds, words(pair)])
    note = "Differences between runs of equal seed; intervals are not corrected for multiple comparisons.\n"
    return f"{pipes(rows)}\n{note}"


def words(pair: Pairs) -> str:
    """A is better, A is worse, or no difference found."""
    if not pair.significant:
        return "no difference found"
    return "A is better" if pair.difference.mean > 0 else "A is worse"


def _seeds(home: Group) -> set[int]:
    return {seed for seed in home.completed if isinstance(seed, int)}


def _metrics(home: Group) -> list[str]:
    """The first metric of each peer, of test or else of val, that all seeds have."""
    of_each = [set(keys(run)) for run in home.completed.values()]
    told = [key for key in keys(next(iter(home.completed.values()))) if all(key in own for own in of_each)]
    split = next((name for name in ("test", "val") if any(parts(key)[0] == name for key in told)), "")
    return [key for key in told if parts(key)[0] == split and parts(key)[2] in PRIMARY and parts(key)[1] != "ensemble"]
