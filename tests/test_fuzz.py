"""Damaged input of every kind: success, or one line. The whole is `python -m tests.fuzz.harness`, see
docs/robustness.md; here a part of it, another one with MML_FUZZ_SEED and MML_FUZZ_CASES."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from mml_lightning.utils import errors
from tests.fuzz import cases as fuzz_cases
from tests.fuzz import harness, mutations


def test_damaged_input_never_shows_a_traceback(hydra: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cases, seed = (int(os.environ.get(f"MML_FUZZ_{key}", usual)) for key, usual in (("CASES", 200), ("SEED", 1)))
    outcomes, findings = harness.fuzz(tmp_path / "ground", cases, seed)
    assert not findings, "\n".join(f"--- {f.family} {f.number}\n{f.what}" for f in findings)
    assert sum(n for name, n in outcomes.items() if name.endswith(": line")) > 20, "damage is noticed"
    assert sum(n for name, n in outcomes.items() if name.endswith(": ok")) > 10, "and not everything is damage"
    left = {path.name for path in tmp_path.glob("ground/root/single/*")}
    assert left <= {"trained", "bad_run", "forged"}, "no case has left a run"


def test_cases_repeat() -> None:
    made = [[mutations.text(random.Random(f"3|csv|{n}"), "a,b\nc,d\n") for n in range(50)] for _ in range(2)]
    assert made[0] == made[1] and len(set(made[0])) > 20


def test_the_harness_sees_a_traceback_and_a_directory(hydra: None, tmp_path: Path) -> None:
    ground = fuzz_cases.Ground(tmp_path)

    def raises(ground: fuzz_cases.Ground, rng: random.Random) -> None:
        raise KeyError("of a library")

    def leaves(ground: fuzz_cases.Ground, rng: random.Random) -> None:
        (ground.out / "x").mkdir(parents=True)

    def speaks(ground: fuzz_cases.Ground, rng: random.Random) -> None:
        raise errors.UserError("two\nlines")

    with pytest.MonkeyPatch.context() as patch:
        for case, told in ((raises, "KeyError"), (leaves, "left a run directory"), (speaks, "not one line")):
            patch.setitem(fuzz_cases.FAMILIES, "csv", (1, case))
            verdict, said = harness.attempt(ground, "csv", 0, 0)
            assert verdict == "finding" and told in said
