"""A line of an annotation file: its cells, and the templates that they fill."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning.data.records.readers.annotated import _Field, _Line, _Parser
from mml_lightning.utils.errors import UserError

FIELDS = {"a": "x", "id": "7", "time": "12.5", "b_1": "ü"}
PIECES = [
    "{a}",
    "{id:06d}",
    "{time:03d}",
    "{b_1}",
    "{{",
    "}}",
    "/",
    ".mp4",
    "{a!r}",
    "{id:>4}",
    "{time:{id}}",
    "{none}",
    "{a:d}",
]


@given(st.lists(st.sampled_from(PIECES), max_size=5).map("".join))
def test_templates_are_filled_as_python_fills_them(template: str) -> None:
    line = _Line(Path("f"), 3, {key: _Field(value) for key, value in FIELDS.items()})
    try:
        expected = template.format(**line.fields)
    except (KeyError, ValueError):
        with pytest.raises(UserError, match="f, line 3: it"):
            line.fill(template)
    else:
        assert line.fill(template) == expected


@given(st.text("ab ,;.", min_size=1))
def test_lines_without_quotation_marks_are_csv(text: str) -> None:
    assert _Parser(None, ",", None, None)._cells(Path("f"), 1, text) == next(csv.reader([text]))
