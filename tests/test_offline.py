"""The tests' reader of what W&B leaves on the disk: files that are still being written, and files that are damaged."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import wandb
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.offline import BLOCK, HEADER, offline_run, records

STEPS = 60


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a run whose records reach over several blocks."""
    folder = tmp_path_factory.mktemp("wandb")
    run = wandb.init(project="p", dir=str(folder), mode="offline", reinit="create_new", settings={"silent": True})
    for step in range(STEPS):
        run.log({"step": step, "long": "x" * (40 * step)})
    run.finish()
    place = Path(run.dir).parent
    assert [step["step"] for step in offline_run(place).history] == list(range(STEPS))
    (file,) = place.glob("*.wandb")
    return file.read_bytes()


@settings(deadline=None)
@given(share=st.floats(0, 1))
def test_of_a_file_that_is_being_written_the_whole_records_are_read(written: bytes, share: float) -> None:
    assert len(written) > 2 * BLOCK
    whole, cut = list(records(written)), int(share * len(written))
    found = list(records(written[:cut]))
    assert found == whole[: len(found)]
    assert len(found) < len(whole) or cut == len(written)


@settings(deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_damaged_file_is_none_that_is_being_written(written: bytes, share: float, bit: int) -> None:
    place = HEADER + int(share * (len(written) - HEADER))
    damaged = bytearray(written)
    damaged[place] ^= 1 << bit
    try:
        found = list(records(bytes(damaged)))
    except ValueError as error:
        assert "checksum" in str(error)
    else:  # a length or kind that reaches to the end: nothing is made up
        assert found == list(records(written))[: len(found)]


def test_a_run_is_read_when_its_end_has_come(written: bytes, tmp_path: Path) -> None:
    """Written by somebody else in pieces, the next one when the one before has been seen."""
    file, pieces = tmp_path / "run.wandb", [written[start : start + 5000] for start in range(0, len(written), 5000)]
    file.write_bytes(pieces[0])
    looked, reading = threading.Semaphore(0), Path.read_bytes

    class Watched(type(file)):  # type: ignore[misc]
        def read_bytes(self) -> bytes:
            looked.release()
            return reading(self)

        def glob(self, pattern: str) -> list[Path]:  # type: ignore[override]
            return [Watched(path) for path in super().glob(pattern)]

    def write() -> None:
        for piece in pieces[1:]:
            looked.acquire()
            with file.open("ab") as handle:
                handle.write(piece)

    writer = threading.Thread(target=write)
    writer.start()
    assert len(offline_run(Watched(tmp_path)).history) == STEPS
    writer.join()
    assert os.path.getsize(file) == len(written)
