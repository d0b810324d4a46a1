"""Is method A better than method B? Differences between runs of equal seed, with a 95 % interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mml_lightning.report.collect import Run, keys, value
from mml_lightning.report.markdown import pipes
from mml_lightning.report.rows import Group, group
from mml_lightning.report.statistics import Estimate, estimate
from mml_lightning.utils import terminal
from mml_lightning.utils.errors import UserError

Side = str | Callable[[Group], bool]


@dataclass(frozen=True)
class Pairs:
    """Values of both sides by seed, and the estimate of a - b."""

    a: str
    b: str
    metric: str
    seeds: list[int]
    a_values: list[float]
    b_values: list[float]
    difference: Estimate

    @property
    def significant(self) -> bool:
        """True only if the 95 % interval of the mean difference excludes zero."""
        return self.difference.excludes_zero

    def __str__(self) -> str:
        lines = [f"{self.metric}: A - B over equal seeds", f"  A  {self.a}", f"  B  {self.b}"]
        columns = zip(self.seeds, self.a_values, self.b_values, strict=True)
        rows = [[str(seed), f"{x:.3f}", f"{y:.3f}", f"{x - y:+.3f}"] for seed, x, y in columns]
        lines += terminal.plain(pipes([["seed", "A", "B", "A - B"], *rows])).splitlines()
        found = self.difference
        if found.ci95 is None:
            return "\n".join([*lines, f"  mean {found.mean:+.3f}; no interval from one seed"])
        verdict = "significant: the interval excludes 0"
        if not self.significant:
            verdict = "not significant: the interval contains 0"
        low, high = found.mean - found.ci95, found.mean + found.ci95
        return "\n".join([*lines, f"  mean {found.mean:+.3f}, 95 % CI [{low:+.3f}, {high:+.3f}]; {verdict}"])


def paired(
    runs: Sequence[Run], a: Side, b: Side, metric: str = "test/rgb/top1", seeds: Sequence[int] | None = None
) -> Pairs:
    """Compare two rows of the table of `runs`, each given by its name or by a filter that only one row passes.

    Both must have completed the same seeds; `seeds` restricts the comparison to some of them. Raises UserError for
    an unknown name, two names of one row, seeds that differ, or a metric that a run lacks.
    """
    groups = group(runs)
    sides = [_find(groups, side) for side in (a, b)]
    if sides[0] is sides[1]:
        raise UserError(f"both sides are the row {sides[0].name!r}; name two different rows")
    used = _common_seeds(sides, seeds)
    first, second = ([_number(side, seed, metric) for seed in used] for side in sides)
    differences = estimate([x - y for x, y in zip(first, second, strict=True)])
    return Pairs(sides[0].name, sides[1].name, metric, used, first, second, differences)


def _find(groups: Sequence[Group], side: Side) -> Group:
    passes = side if callable(side) else lambda home: home.name == side
    found = [home for home in groups if passes(home)]
    if len(found) == 1:
        return found[0]
    names = "; ".join(home.name for home in found or groups) or "none"
    if found:
        raise UserError(f"the filter matches {len(found)} rows and must match one: {names}")
    wanted = f"is called {side!r}" if isinstance(side, str) else "matches the filter"
    raise UserError(f"no row {wanted}; the rows are: {names}")


def _common_seeds(sides: Sequence[Group], seeds: Sequence[int] | None) -> list[int]:
    has = [{seed for seed in side.completed if isinstance(seed, int)} for side in sides]
    texts = [",".join(map(str, sorted(found))) or "none" for found in has]
    common = has[0] & has[1]
    if seeds is None:
        if has[0] != has[1] or not common:
            usable = ",".join(map(str, sorted(common)))
            advice = f"run the missing ones or compare --seeds {usable}" if usable else "run both with the same seeds"
            raise UserError(f"completed seeds differ: A has {texts[0]}, B has {texts[1]}; {advice}")
        return sorted(common)
    missing = sorted(set(seeds) - common)
    if missing or not seeds:
        raise UserError(f"seed {missing} is not completed on both sides: A has {texts[0]}, B has {texts[1]}")
    return sorted(set(seeds))


def _number(side: Group, seed: int, metric: str) -> float:
    run = side.completed[seed]
    available = keys(run)
    number = value(run, metric) if metric in available else None
    if number is None:
        usable = ", ".join(key for key in available if value(run, key) is not None) or "none"
        raise UserError(f"{side.name} seed {seed} has no finite {metric}; it has: {usable}")
    return number
