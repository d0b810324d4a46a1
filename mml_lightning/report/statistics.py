"""Mean, spread and Student-t intervals of a few seeds, and of paired differences between two methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Upper 97.5 % points of Student's t by degrees of freedom, as printed in NIST/SEMATECH e-Handbook of Statistical
# Methods, section 1.3.6.7.2. Up to 30 the table is complete; beyond, see t_975.
# fmt: off
_T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)
# fmt: on
_T_975_BEYOND = ((40, 2.021), (50, 2.009), (60, 2.000), (80, 1.990), (100, 1.984))


def t_975(df: int) -> float:
    """Two-sided 95 % critical value of Student's t with `df` >= 1 degrees of freedom.

    Exact to the printed three decimals up to 30; beyond, the value of the next smaller tabulated df, so that an
    interval is never too narrow. Raises ValueError below 1.
    """
    if df < 1:
        raise ValueError(f"Student's t needs at least 1 degree of freedom, got {df}")
    if df <= len(_T_975):
        return _T_975[df - 1]
    return [_T_975[-1], *(t for bound, t in _T_975_BEYOND if bound <= df)][-1]


@dataclass(frozen=True)
class Estimate:
    """Sample mean with its spread; `std` (n - 1 in the denominator) and `ci95` are None where n < 2."""

    n: int
    mean: float
    std: float | None
    ci95: float | None  # half width of the 95 % interval of the mean, same unit as the mean

    @property
    def excludes_zero(self) -> bool:
        """True only if there is an interval and it lies on one side of zero."""
        return self.ci95 is not None and abs(self.mean) > self.ci95


def estimate(values: Sequence[float]) -> Estimate:
    """Estimate from independent values, one per seed. Raises ValueError for none or for a value that is not finite."""
    n = len(values)
    if n == 0:
        raise ValueError("an estimate needs at least one value")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"an estimate needs finite values, got {list(values)}")
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(1, mean, None, None)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Estimate(n, mean, std, t_975(n - 1) * std / math.sqrt(n))
