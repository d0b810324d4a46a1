"""Checkpoint files: two generations, whole ones only, on a disk that may be full."""

from __future__ import annotations

import errno
import os
import random
import shutil
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mml_lightning.training import checkpoints
from mml_lightning.training.checkpoints import LAST, PREVIOUS, CheckpointFiles, random_state, set_random_state
from mml_lightning.utils import files
from mml_lightning.utils.files import check_archive, remove_leftovers, temporary_name

USAGE = namedtuple("USAGE", "total used free")


def content(step: int) -> dict[str, Any]:
    return {"global_step": step, "state_dict": {"w": torch.full((1000,), step)}, "loops": {}, "hyper_parameters": {}}


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """The folder of checkpoints of a run, with those of steps 1 and 2."""
    for step in (1, 2):
        checkpoints.write(content(step), tmp_path / "checkpoints" / LAST)
    return tmp_path / "checkpoints"


def steps(folder: Path) -> dict[str, int]:
    return {path.name: checkpoints.read(path)["global_step"] for path in folder.iterdir()}


def test_two_generations_are_kept(two: Path) -> None:
    assert steps(two) == {LAST: 2, PREVIOUS: 1}
    checkpoints.write(content(3), two / LAST)
    assert steps(two) == {LAST: 3, PREVIOUS: 2}
    checkpoints.write(content(9), two / "other.ckpt")  # somebody else's name: one generation
    assert steps(two) == {LAST: 3, PREVIOUS: 2, "other.ckpt": 9}


def test_killed_between_the_two_renames(two: Path) -> None:
    os.replace(two / LAST, two / PREVIOUS)
    found = checkpoints.newest(two.parent)
    assert found and found[0].name == PREVIOUS and found[1]["global_step"] == 2
    shutil.rmtree(two)
    assert checkpoints.newest(two.parent) is None


class Failing:
    """A disk that refuses after some bytes."""

    def __init__(self, room: int, number: int = errno.ENOSPC) -> None:
        self.room, self.number = room, number

    def __call__(self, handle: Any, data: Any) -> int:
        self.room -= memoryview(data).nbytes
        if self.room < 0:
            raise OSError(self.number, os.strerror(self.number))
        return int(handle.write(data))


@pytest.mark.parametrize("room", [0, 100, 4500, 9000])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_refuses_keeps_what_is_there(
    two: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, room: int, number: int
) -> None:
    """Wherever in the file it does: both checkpoints stay, nothing else does, and training is not told."""
    full = Failing(room, number)
    monkeypatch.setattr(files._Strict, "_put", lambda self, data: full(self._handle, data))
    writer = CheckpointFiles()
    writer.save_checkpoint(content(3), two / LAST)
    assert writer.failed and steps(two) == {LAST: 2, PREVIOUS: 1}
    assert f"THE CHECKPOINT OF STEP 3 COULD NOT BE WRITTEN ({os.strerror(number)})" in caplog.text
    monkeypatch.undo()
    writer.save_checkpoint(content(4), two / LAST)
    assert not writer.failed and steps(two) == {LAST: 4, PREVIOUS: 2}


def test_room_is_looked_for_first(two: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: USAGE(2**30, 2**30, 2**19))
    monkeypatch.setattr(torch, "save", lambda *given: pytest.fail("not even begun"))
    CheckpointFiles().save_checkpoint(content(3), two / LAST)
    assert steps(two) == {LAST: 2, PREVIOUS: 1}
    assert "(1 MiB needed, 0 MiB free)" in caplog.text


def test_what_reads_back_otherwise_takes_no_name(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda self: "data/0")
    with pytest.raises(OSError, match="verification after writing failed"):
        checkpoints.write(content(3), two / LAST)
    monkeypatch.undo()
    assert steps(two) == {LAST: 2, PREVIOUS: 1}


def test_an_error_of_the_content_is_not_the_disk_s(two: Path) -> None:
    with pytest.raises(AttributeError, match="local"):
        checkpoints.write({**content(3), "bad": lambda: None}, two / LAST)
    assert steps(two) == {LAST: 2, PREVIOUS: 1}


@pytest.mark.parametrize("at", [40, 1000, 4000, -1500, -10])
def test_every_flipped_bit_and_every_cut_is_found(two: Path, at: int) -> None:
    whole = (two / LAST).read_bytes()
    for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]):
        (two / LAST).write_bytes(damaged)
        try:
            found = checkpoints.newest(two.parent)
        finally:
            (two / LAST).write_bytes(whole)
        assert found is not None
        if found[0].name == LAST:  # a byte that no reader looks at
            assert torch.equal(found[1]["state_dict"]["w"], content(2)["state_dict"]["w"])


def test_what_a_killed_process_left_is_removed(two: Path) -> None:
    temporary_name(two / LAST).write_bytes(b"half")
    assert remove_leftovers(two) == 1 and set(steps(two)) == {LAST, PREVIOUS}


def test_a_missing_archive_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check_archive(tmp_path / "none")


@pytest.mark.parametrize("listed", [False, True])
def test_generators_go_on_where_they_were(tmp_path: Path, listed: bool) -> None:
    """Earlier checkpoints hold the words of Python's generator as a list."""
    torch.save(random_state(), tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    if listed:
        state["python"][1] = state["python"][1].tolist()
    first = (np.random.rand(3).tolist(), torch.rand(3).tolist(), random.random())
    set_random_state(state)
    assert first == (np.random.rand(3).tolist(), torch.rand(3).tolist(), random.random())
