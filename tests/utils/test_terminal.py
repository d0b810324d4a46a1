"""Terminal output, on a real pseudo-terminal: no table wider than it, colour where it is wanted, no bar left behind."""

from __future__ import annotations

import errno
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections import Counter
from fcntl import ioctl
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from mml_lightning.report.markdown import pipes
from mml_lightning.utils import terminal
from mml_lightning.utils.plain_text import visible
from tests.conftest import ROOT, command, environment

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
HEAD = ["name", "setup", "backbone", "rgb top1", "rgb top1 CI95", "flow top1", "ensemble top1", "seeds", "failed"]
ROWS = [
    ["ce_rgb_from_scratch", "demo", "tiny", "36.70 ± 6.10 (5)", "±7.57", "–", "–", "0,1,2,3,4", "0"],
    ["mml_rgb+flow_from_ce", "demo", "tiny", "48.00 ± 5.10 (5)", "±6.33", "74.00 (5)", "73.1 (5)", "0,1,2,3,4", "0"],
]
TABLE = pipes([HEAD, *ROWS])


def on_terminal(code: str | list[str], width: int = 80, **variables: str) -> str:
    """What a program writes to a terminal of `width` columns, as it is sent."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    kept = {key: value for key, value in environment().items() if key not in ("NO_COLOR", "COLUMNS", "FORCE_COLOR")}
    words = [sys.executable, "-c", code] if isinstance(code, str) else code
    given = kept | {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)} | variables
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=given) as process:
        os.close(theirs)
        told = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError as error:  # Linux: the other end is closed
                assert error.errno == errno.EIO
                break
            if not part:
                break
            told += part
    os.close(ours)
    assert process.returncode == 0, told.decode()
    return told.decode().replace("\r\n", "\n")


def screen(told: str) -> list[str]:
    """The lines that stay on the screen: carriage returns, line feeds, cursor up and erasing are carried out."""
    lines, row, column = [""], 0, 0
    for escape, text in re.findall(r"(\x1b\[[0-9;?]*[a-zA-Z])|([^\x1b]+)", told):
        if escape.endswith("A"):
            row -= int(escape[2:-1] or 1)
        elif escape == "\x1b[2K":
            lines[row] = ""
        else:
            assert not escape or escape.endswith("m"), repr(escape)
        for letter in text:
            if letter == "\r":
                column = 0
            elif letter == "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            else:
                lines[row] = lines[row][:column].ljust(column) + letter + lines[row][column + 1 :]
                column += 1
    return lines


def test_a_table_fits_the_terminal_and_constants_leave_it() -> None:
    code = f"from mml_lightning.utils import terminal; terminal.show({TABLE!r})"
    told = on_terminal(code)
    lines = ESCAPE.sub("", told).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "all rows: setup demo, backbone tiny, seeds 0,1,2,3,4, failed 0"
    assert "setup" not in "".join(lines[1:]) and "48.00 ± 5.10 (5)" in told, "numbers are not broken"
    assert "\x1b[1m" in told, "heads are bold"
    assert "\x1b" not in on_terminal(code, NO_COLOR="1")
    assert max(map(len, ESCAPE.sub("", on_terminal(code, width=50)).splitlines())) <= 50
    piped = environment(FORCE_COLOR="1")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=piped)
    assert "\x1b" not in done.stdout and max(map(len, done.stdout.splitlines())) <= 80


CELLS = st.text(st.characters(codec="ascii"), max_size=40) | st.floats(-99, 99).map("{:.2f}".format)
TABLES = st.integers(1, 9).flatmap(lambda n: st.lists(st.lists(CELLS, min_size=n, max_size=n), min_size=2, max_size=4))


@settings(max_examples=40)
@given(TABLES, st.integers(30, 120))
def test_no_table_is_wider_than_the_terminal(rows: list[list[str]], width: int) -> None:
    """Whatever stands in it; and no character of a cell is lost."""
    buffer = io.StringIO()
    columns = [f"c{n}" for n in range(len(rows[0]))]
    terminal.TextTable(columns, rows).draw(Console(width=width, color_system=None, file=buffer))
    told = buffer.getvalue()
    drawn = re.split(r"^ *c0", told, maxsplit=1, flags=re.MULTILINE)[-1]
    assert all(len(line.rstrip()) <= width for line in drawn.splitlines())
    table = [*zip(*rows, strict=True)]
    told_of = [n for n, cells in enumerate(table) if not n or len(set(cells)) > 1]
    kept = Counter(told)
    for letter, count in Counter("".join(visible(row[n]) for n in told_of for row in rows)).items():
        assert letter.isspace() or kept[letter] >= count


@pytest.mark.parametrize("end", ["", "raise SystemExit(0)"])
def test_a_bar_leaves_nothing_and_lines_stand_above_it(end: str) -> None:
    code = f"""
import logging, sys, time, warnings
from mml_lightning.utils import progress, terminal
progress.DRAWN = 0.0
terminal.log_visibly()
with progress.Progress(20, "flow") as bar:
    for step in range(20):
        bar.advance()
        if step == 5:
            logging.info("a line of the log")
            print("printed")
            print("an error", file=sys.stderr)
        if step == 9:
            {end or "pass"}
print("the end")
"""
    told = on_terminal(code)
    assert "flow" in told and "━" in told
    lines = [line for line in screen(told) if line.strip()]
    assert lines == ["a line of the log", "printed", "an error", *(["the end"] if not end else [])]
    assert "\x1b[?25l" not in told, "the cursor is not hidden: a killed process would leave none"


def test_levels_have_colours_on_a_terminal_only() -> None:
    code = """
import logging
from mml_lightning.utils import terminal
terminal.log_visibly()
logging.error("e")
logging.info("i")
"""
    assert on_terminal(code) == "\x1b[31me\x1b[0m\ni\n"
    assert on_terminal(code, NO_COLOR="1") == on_terminal(code, TERM="dumb") == "e\ni\n"


def test_control_characters_of_others_are_shown() -> None:
    page = pipes([["name", "x"], ["evil\x1b[2J", "1.5"], ["b|c", "2.5"]])
    told = terminal.plain(page)
    assert "\x1b" not in told and "evil\\x1b[2J" in told and "b|c" in told


def test_a_sweep_on_a_terminal(small: list[str], tmp_path: Path) -> None:
    """One form of line for Hydra and the runs; bars are gone when it ends, and no file has their characters."""
    words = ["-m", *small, f"paths.root={tmp_path}", "data.batch_size=4", "seed=0,1", "test=false", "views=center"]
    told = on_terminal(command("train", *words, "schedule.epochs=1"))
    assert "epoch 1/1" in told and "━" in told and "validation" in told
    lines = [line.rstrip() for line in screen(told) if line.strip()]
    assert not any("━" in line or line.startswith("validation") for line in lines), "a bar is left"
    table = next(n for n, line in enumerate(lines) if line.startswith("stage ce, "))
    assert all(re.match(r"\[\d\d:\d\d:\d\d\] ", line) for line in lines[:table]), "one form of line"
    assert lines[table] == "stage ce, setup demo, backbone tiny, modality rgb, init scratch, views center,"
    assert max(map(len, lines[table:])) <= 80 or str(tmp_path) in max(lines[table:], key=len)
    assert lines[-1].startswith("wrote ")
    for file in tmp_path.glob("sweep/*/*/train.log"):
        assert "\x1b" not in file.read_text() and "━" not in file.read_text()
