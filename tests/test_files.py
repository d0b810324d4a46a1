"""Whole files or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from mml_lightning.files import check_writable, file_hash, write_atomically


def test_the_file_before_is_there_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "names.txt"
    with write_atomically(path) as handle:
        handle.write("été\n")
        assert not path.exists()
    with write_atomically(path) as handle:
        handle.write("winter\n")
        handle.flush()
        assert path.read_text(encoding="utf-8") == "été\n"
    assert path.read_text(encoding="utf-8") == "winter\n"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_block_changes_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"old")
    with pytest.raises(error), write_atomically(path, "wb") as handle:
        handle.write(b"half")
        raise error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_two_writers_and_long_names_do_not_collide(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".csv")
    with write_atomically(path, newline="") as one, write_atomically(path, newline="") as other:
        one.write("one\r\n")
        other.write("other\r\n")
    assert path.read_bytes() == b"one\r\n"  # the outer block ended last


def test_the_hash_is_that_of_sha256sum(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert file_hash(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_what_can_t_be_written_is_known_before(tmp_path: Path) -> None:
    (old := tmp_path / "old.json").write_text("old")
    for name in ("old.json", "new.json"):
        check_writable(tmp_path / name)
    assert list(tmp_path.iterdir()) == [old] and old.read_text() == "old"
    for path in (tmp_path, tmp_path / "no" / "file", tmp_path / ("n" * 300), old / "file", Path("/dev/null")):
        with pytest.raises(OSError):
            check_writable(path)
