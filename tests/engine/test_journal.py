"""A journal gives back what was done, to the bit, and takes nothing that was made otherwise."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from mml_lightning.engine.journal import Batch, Journal, made_file, part_file
from mml_lightning.utils.errors import UserError

MADE = {"weights": {"rgb": "ab"}, "settings": {"views": {"crops": 1}}, "videos": {"number": 3}}
LOGITS = {"label": {"rgb": np.array([[0.1, -1e-30, np.inf], [np.nan, 3.0, 4.0]], np.float32)}}


def fill(result: Path) -> None:
    journal = Journal(result, MADE)
    with journal.open(False):
        journal.append(Batch(2, {"a": LOGITS}, {"b": "it is broken"}, {"a": "its end"}))


def test_a_second_start_has_what_the_first_one_did(tmp_path: Path) -> None:
    result = tmp_path / "deep" / "out.csv"
    fill(result)
    again = Journal(result, MADE)
    with again.open(False):
        assert again.done == 2 and again.finished(False) is None
        (batch,) = again.batches
        assert np.array_equal(batch.logits["a"]["label"]["rgb"], LOGITS["label"]["rgb"], equal_nan=True)
        assert batch.failures == {"b": "it is broken"} and batch.damaged == {"a": "its end"}
        again.append(Batch(1))
        result.write_text("scores")
        again.finish({"failed": {}})
    assert not part_file(result).exists()
    told = Journal(result, MADE).finished(False)
    assert told is not None and told["made"] == MADE


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_half_a_line_of_a_killed_process_is_not_counted(tmp_path: Path, cut: int) -> None:
    result = tmp_path / "out.csv"
    fill(result)
    whole = part_file(result).read_bytes()
    part_file(result).write_bytes(whole[:-cut])
    again = Journal(result, MADE)
    with again.open(False):
        assert again.done == 0
        again.append(Batch(2, {"a": LOGITS}, {"b": "it is broken"}, {"a": "its end"}))
    assert part_file(result).read_bytes() == whole


@pytest.mark.parametrize(
    "other, said",
    [
        ({**MADE, "weights": {"rgb": "cd"}}, r"weights.rgb \(ab, now cd\)"),
        ({**MADE, "settings": {"views": {"crops": 3}}}, r"settings.views.crops \(1, now 3\)"),
        ({key: value for key, value in MADE.items() if key != "videos"}, "videos"),
    ],
)
def test_what_was_made_otherwise_is_refused(tmp_path: Path, other: dict[str, object], said: str) -> None:
    result = tmp_path / "out.csv"
    fill(result)
    before = part_file(result).read_bytes()
    with pytest.raises(UserError, match=said), Journal(result, other).open(False):
        pass
    assert part_file(result).read_bytes() == before
    with Journal(result, other).open(True):
        pass
    part_file(result).unlink()
    result.write_text("scores")
    made_file(result).write_text('{"made": {"weights": {"rgb": "ab"}}}')
    with pytest.raises(UserError, match=r"made with other \w"):
        Journal(result, other).finished(False)
    assert Journal(result, other).finished(True) is None


def test_files_of_others_stay(tmp_path: Path) -> None:
    result = tmp_path / "out.csv"
    result.write_text("mine")
    with pytest.raises(UserError, match="not the record of what made it"):
        Journal(result, MADE).finished(False)
    part_file(result).write_text("{}\n{]\n")
    with pytest.raises(UserError, match="damaged"), Journal(result, MADE).open(False):
        pass
    assert result.read_text() == "mine" and part_file(result).read_text() == "{}\n{]\n"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "out.csv", MADE).open(False),
        pytest.raises(UserError, match="another process is making"),
        Journal(tmp_path / "out.csv", MADE).open(False),
    ):
        pass


def test_no_room_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    result = tmp_path / "out.csv"
    fill(result)
    journal = Journal(result, MADE)
    with journal.open(False):
        handle = journal._handle

        class Full:
            def write(self, text: bytes) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

        journal._handle = Full()  # type: ignore[assignment]
        with pytest.raises(UserError, match="No space left on device; free some space and run it again"):
            journal.append(Batch(1))
        journal._handle = handle
    again = Journal(result, MADE)
    with again.open(False):
        assert again.done == 2
