"""Whole files or none."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mml_lightning.utils.files import (
    Busy,
    check_writable,
    file_hash,
    folder_atomically,
    locked,
    publish,
    remove_leftovers,
    temporary_name,
    write_atomically,
)


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


def test_leftovers_are_removed_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    temporary_name(tmp_path / "file").touch()
    (temporary_name(tmp_path / "folder") / "inside").mkdir(parents=True)
    (tmp_path / ".mine.tmp").touch()
    with write_atomically(tmp_path / "new") as handle, folder_atomically(tmp_path / "made") as folder:
        assert remove_leftovers(tmp_path) == 2
        handle.write("text")
        (folder / "inside").write_text("text")
    assert (tmp_path / "new").read_text() == (tmp_path / "made" / "inside").read_text() == "text"
    assert {path.name for path in tmp_path.iterdir()} == {".mine.tmp", "new", "made"}


def test_a_folder_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "videos" / "v"
    with pytest.raises(ValueError), folder_atomically(path) as folder:
        (folder / "first").write_text("")
        assert not path.exists()
        raise ValueError
    assert list(path.parent.iterdir()) == []
    with folder_atomically(path) as one, folder_atomically(path) as other:
        (one / "one").write_text("")
        (other / "other").write_text("")
    assert [file.name for file in path.iterdir()] == ["other"], "the inner block ended first"
    assert list(path.parent.iterdir()) == [path]


def test_of_several_that_publish_the_first_counts(tmp_path: Path) -> None:
    path = tmp_path / "new" / "settings"
    assert publish(path, "first") == "first" and publish(path, "second") == "first"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_for_one_at_a_time(tmp_path: Path) -> None:
    """Threads stand for processes: a lock belongs to an open file."""
    with pytest.raises(ValueError), locked(tmp_path):
        with pytest.raises(Busy), locked(tmp_path):
            pass
        raise ValueError
    assert list(tmp_path.iterdir()) == []
    inside, done, order = threading.Event(), threading.Event(), []

    def first() -> None:
        with locked(tmp_path):
            inside.set()
            done.wait(60)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(60)
    with locked(tmp_path, done.set):
        order.append("second")
    thread.join()
    assert order == ["first", "second"] and list(tmp_path.iterdir()) == []
