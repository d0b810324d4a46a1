"""What a modality is shown is the same alone and in any company, and every place of a clip as likely as any other."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning import sampling
from mml_lightning.sampling.draws import part
from tests.sampling.starts import WINDOWS, support

FOUR = {**WINDOWS, "Wide": 11}
COMPANIES = [set(names) for size in range(1, 5) for names in combinations(FOUR, size)]
MODES = ["uniform", "dense", "random", "strided"]

counts_st = st.fixed_dictionaries({name: st.integers(1, 120) for name in FOUR})


def chi_square_p(observed: np.ndarray) -> float:
    """Probability of counts at least as uneven as these under a uniform law (Wilson and Hilferty's approximation)."""
    expected, free = observed.sum() / len(observed), len(observed) - 1
    statistic = float(((observed - expected) ** 2 / expected).sum())
    spread = 2 / (9 * free)
    return 0.5 * math.erfc(((statistic / free) ** (1 / 3) - (1 - spread)) / math.sqrt(2 * spread))


def draw(counts: dict[str, int], mode: Any, rng: Any, policy: Any = "fixed", **options: int) -> dict[str, np.ndarray]:
    return sampling.train_starts(counts, FOUR, mode=mode, policy=policy, rng=rng, **options)


@given(
    counts_st,
    st.integers(1, 20),
    st.integers(1, 80),
    st.integers(1, 12),
    st.sampled_from(MODES),
    st.integers(0, 2**32 - 1),
    st.sampled_from([np.random.default_rng, np.random.RandomState]),
)
def test_starts_alone_are_starts_in_company(counts, n, length, stride, mode, seed, make):
    """And as many random numbers are taken, so that what is drawn next does not depend on the company either."""
    options = {"num_segments": n, "dense_length": length, "stride": stride}
    seen: dict[str, list[int]] = {}
    after = set()
    for company in COMPANIES:
        rng = make(seed)
        drawn = draw({name: counts[name] for name in FOUR if name in company}, mode, rng, **options)
        for name, starts in drawn.items():
            assert seen.setdefault(name, starts.tolist()) == starts.tolist(), (name, company)
        after.add(float(rng.random()))
    assert len(after) == 1


@pytest.mark.parametrize("mode", ["dense", "random", "strided"])
def test_2000_draws_with_and_without_company(mode):
    counts = {"RGB": 100, "Flow": 99, "RGBDiff": 100}
    differ = 0
    for seed in range(2000):
        together = draw(counts, mode, np.random.default_rng(seed), num_segments=8)
        for name in counts:
            alone = draw({name: counts[name]}, mode, np.random.default_rng(seed), num_segments=8)
            differ += not np.array_equal(alone[name], together[name])
    assert differ == 0


@pytest.mark.parametrize("mode", ["dense", "strided"])
@pytest.mark.parametrize("name", sorted(WINDOWS))
@pytest.mark.parametrize("total", [77, 100, 131])
def test_every_place_is_equally_likely_in_company(mode, name, total):
    counts = {"RGB": total, "Flow": total - 1, "RGBDiff": total}
    first = support(counts, 8, mode, "fixed", draws=6000)[name][:, 0]
    span = 28 if mode == "dense" else 56
    places = counts[name] - WINDOWS[name] + 1 - span
    assert first.max() < places
    assert chi_square_p(np.bincount(first, minlength=places)) > 1e-3


def test_the_measure_of_evenness_finds_the_draw_that_was_floored_from_a_wider_range():
    """Places drawn in 0 .. 71 and floored into 0 .. 66, as it was: some have two chances, most have one."""
    place = np.random.default_rng(0).integers(72, size=6000)
    assert chi_square_p(np.bincount(place * 66 // 71, minlength=67)) < 1e-12
    assert chi_square_p(np.bincount(np.random.default_rng(0).integers(67, size=6000))) > 1e-3


@given(st.integers(0, 2**53 - 1), st.integers(1, 2**40))
def test_a_share_of_a_range_is_exact_and_never_its_end(numerator, places):
    found = part(numerator / 2**53, places)
    assert found == numerator * places // 2**53 < places


@pytest.mark.parametrize("policy", ["code", "paper"])
def test_published_draws_depend_on_the_company_and_say_so(policy):
    """But strided ones, of which PySlowFast is the program: a number in [0, 1) for each modality alike."""
    counts = {"RGB": 100, "Flow": 99}
    for mode in MODES:
        alone = [draw({"RGB": 100}, mode, np.random.default_rng(k), policy, num_segments=8)["RGB"] for k in range(40)]
        together = [draw(counts, mode, np.random.default_rng(k), policy, num_segments=8)["RGB"] for k in range(40)]
        same = all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))
        assert same is sampling.independent(mode, policy) is (mode == "strided")
        assert sampling.independent(mode, "fixed")
