"""What a bench tells: tables of named numbers, and where they were made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mml_lightning.benchmarks.tables import BenchTable, made_by, writable, write_json
from mml_lightning.utils.errors import UserError

ROWS = [
    {"way": "one", "clips_per_s": 0.51234, "vs_first": 1.0, "spread": None, "mfu": None, "errors": {"zoom": 0.1}},
    {"way": "two", "clips_per_s": 1200.0, "vs_first": 2342.1, "spread": 0.123, "mfu": float("nan"), "rounds": [1, 2]},
]


def test_columns_are_the_numbers_that_a_row_has() -> None:
    assert str(BenchTable(ROWS, "the end")).splitlines() == [
        "| way | clips/s | vs the first | zoom, px | spread |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| one | 0.512 | 1.00x | 0.100 | - |",
        "| two | 1.2e+03 | 2342.10x | - | 12% |",
        "",
        "the end",
    ]


def test_json_has_everything() -> None:
    told = BenchTable(ROWS, "the end", more={"joint": 1.0}).as_json()
    assert told == {"rows": ROWS, "sentence": "the end", "joint": 1.0}
    assert BenchTable(ROWS, "", title="frames").as_json()["title"] == "frames"
    assert BenchTable(ROWS, "cut off", whole=False).as_json()["whole"] is False


def test_the_line_below_a_table() -> None:
    machine = {"processor": "EPYC", "instructions": "AVX2", "cores": 2, "device": "EPYC"}
    machine |= {"threads": 1, "clock": "processor", "torch": "2.13"}
    assert made_by("mml bench step", machine) == (
        "made by `mml bench step` on EPYC (2 cores, AVX2), 1 thread, processor time, torch 2.13"
    )
    other = made_by("mml bench step", {**machine, "device": "H100", "threads": 4, "clock": "wall"})
    assert other == "made by `mml bench step` on H100, EPYC (2 cores, AVX2), 4 threads, wall time, torch 2.13"


def test_a_file_that_can_t_be_written_is_one_line(tmp_path: Path) -> None:
    write_json(None, {})
    with pytest.raises(UserError, match="name another --json"):
        write_json(tmp_path, {})


def test_a_file_is_whole_and_json_has_no_nan(tmp_path: Path) -> None:
    (file := tmp_path / "rows.json").write_text("old")
    (link := tmp_path / "link").symlink_to(file)
    write_json(writable(link, "--json"), {"rows": ROWS, "spans": (1.0, float("inf"))})
    told = json.loads(file.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert told["rows"][1]["mfu"] is None and told["rows"][0] == ROWS[0] and told["spans"] == [1.0, None]
    assert link.is_symlink() and len(list(tmp_path.iterdir())) == 2
