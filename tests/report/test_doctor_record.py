"""The hit rate of the rule: counted right, and the one that docs/doctor.md tells."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from mml_lightning.evaluation.distillation_room import Evidence
from mml_lightning.evaluation.metrics.bootstrap import Interval
from mml_lightning.report.doctor_record import read_record
from mml_lightning.utils.errors import UserError
from tests.conftest import ROOT

HEAD = "comparison,page,student,diagnosis,taught,alone\n"


def evidence(student: str, gap: Interval | None) -> Evidence:
    return Evidence(
        student, "flow", "top1", Interval(30, 20, 40), Interval(0.7, 0.6, 0.8), guessed=0.1, gap=gap, prior_loss=2.3
    )


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """One student with room, one without, one of whom nothing is known."""
    gaps = {"rgb": Interval(2, 1.5, 2.5), "quiet": Interval(0, -0.1, 0.1), "untold": None}
    found = {"students": [{"evidence": asdict(evidence(name, gap))} for name, gap in gaps.items()]}
    (tmp_path / "data.json").write_text(json.dumps(found))
    (tmp_path / "comparisons.csv").write_text(
        HEAD
        + "gains,a.md,rgb,data,50;51;52,40;41;42.5\n"  # decided, room: right
        + "loses,a.md,rgb,data,30,40\n"  # one seed: wrong
        + "loses too,a.md,quiet,data,30;31,40;45\n"  # not decided: right
        + "gains too,a.md,quiet,data,50;51,40;41\n"  # decided: wrong
        + "who knows,a.md,untold,data,50;51,40;41\n"  # decided: not right
    )
    return tmp_path


def test_what_is_right_is_counted(record: Path) -> None:
    found = read_record(record)
    assert [row.right for row in found.rows] == [True, False, True, False, None]
    assert found.rates() == [("all", 5, 2, 3, 2), ("decided at 95 %", 3, 1, 3, 0)]
    assert found.by_verdict() == [
        ("data", "rgb", "yes", 2, 1, 1),
        ("data", "quiet", "no", 2, 1, 1),
        ("data", "untold", "?", 1, 1, 0),
    ]
    assert "| gains " in found.markdown() and "one seed" in found.markdown()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "must have the columns comparison, page"),
        (HEAD, "a line per comparison"),
        (HEAD + "x,p,rgb,data,1;2,3\n", "line 2: taught and alone must be as many numbers"),
        (HEAD + "x,p,rgb,data,one,3\n", "line 2: taught and alone"),
        (HEAD + "x,p,rgb\n", "line 2: taught and alone"),
        (HEAD + "x,p,audio,data,1,3\n", "no student audio; it has rgb, quiet, untold"),
        (HEAD + "x,p,rgb,other,1,3\n", "is not what mml doctor --json writes"),
        (HEAD + "x,p,rgb,damaged,1,3\n", "is not what mml doctor --json writes"),
    ],
)
def test_mistakes_are_one_line(record: Path, text: str, said: str) -> None:
    (record / "damaged.json").write_text('{"students": [{"evidence": {"student": "rgb"}}]}')
    (record / "comparisons.csv").write_text(text)
    with pytest.raises(UserError, match=re.escape(said)) as error:
        read_record(record)
    assert "\n" not in str(error.value)


def test_the_docs_tell_the_rate_that_is_counted() -> None:
    """docs/doctor.md holds the table of `mml doctor --record docs/results/doctor`, to the digit."""
    text = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    found = read_record(ROOT / "docs" / "results" / "doctor")
    for row in [*found.rates(), *found.by_verdict()]:
        assert f"| {' | '.join(map(str, row))} |" in text
    assert len(found.rows) > 30 and all((ROOT / "docs" / "results" / row.page).is_file() for row in found.rows)
