"""Progress: lines with the time left where there is no terminal, silence on request."""

from __future__ import annotations

import logging

import pytest

from mml_lightning.utils import progress
from mml_lightning.utils.progress import Progress, format_duration


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (65.4, "1:05"), (7384, "2:03:04"), (-3, "0:00"), (3599.6, "1:00:00")]
)
def test_clock(seconds, text):
    assert format_duration(seconds) == text


def test_lines_outside_of_a_terminal(monkeypatch, caplog):
    now = iter([0.0, 4.0, 10.0, 12.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    with caplog.at_level(logging.INFO), Progress(8, "flow") as bar:
        for _ in range(4):
            bar.advance()
    assert [record.getMessage() for record in caplog.records] == [
        "flow: 2 of 8 videos, 0:30 left",
        "flow: 4 of 8 videos, 0:20 left",
    ]


def test_a_closed_stream_is_no_terminal(monkeypatch):
    monkeypatch.setattr(progress.sys, "stderr", None)
    with Progress(2, "flow") as bar:
        bar.advance()
    assert not progress.is_terminal(None)


def test_quiet_says_nothing(caplog, capsys):
    with caplog.at_level(logging.INFO), Progress(2, "flow", quiet=True) as bar:
        bar.advance()
    assert not caplog.records and capsys.readouterr().err == ""
