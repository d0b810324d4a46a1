"""Videos that are named one by one, in every way they can be named."""

from __future__ import annotations

from pathlib import Path

import pytest

from mml_lightning.data.records.readers.named import read_named
from mml_lightning.utils.errors import UserError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.mp4", "a.webm", "deep/c.MP4", "deep/note.txt", ".hidden.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ids(*sources: str, **more: object) -> list[str]:
    return [record.id for record in read_named(sources, **more).records]  # type: ignore[arg-type]


def test_files_folders_patterns_and_lists(here: Path) -> None:
    assert ids("b.mp4", "deep/note.txt") == ["b.mp4", "deep/note.txt"]  # a file that is named is a video
    assert ids("deep") == ["deep/c.MP4"]
    assert ids(".") == ["./a.webm", "./b.mp4", "./deep/c.MP4"]
    assert ids("*.mp4") == ["b.mp4"]
    assert ids("**/*.MP4") == ["deep/c.MP4"]
    assert ids("-", lines=["b.mp4\n", "\n", " gone.mp4 \r\n"]) == ["b.mp4", "gone.mp4"]


def test_a_file_is_taken_once_and_that_is_said(here: Path) -> None:
    named = read_named(["b.mp4", "*.mp4"])
    assert [record.id for record in named.records] == ["b.mp4"] and named.told == ["named twice, taken once: 1"]


def test_a_table_needs_paths_only(here: Path) -> None:
    (here / "t.csv").write_text("video,why\nb.mp4,\ndeep/c.MP4,x\n")
    named = read_named(["t.csv"])
    assert [record.id for record in named.records] == ["b", "deep/c"]
    assert [record.media["frames"] for record in named.records] == [Path("b.mp4"), Path("deep/c.MP4")]
    assert "path from 'video'" in named.told[0] and "not used 'why'" in named.told[0]


def test_ids_parts_and_splits_of_a_table(here: Path) -> None:
    (here / "t.csv").write_text("path,id,start,end,label,split\nb.mp4,one,0,1.5,x,train\nb.mp4,two,1,2,,test\n")
    assert [(record.id, record.span) for record in read_named(["t.csv"]).records] == [
        ("one", (0, 1.5)),
        ("two", (1, 2)),
    ]
    assert ids("t.csv", split="test") == ["two"]
    assert ids("t.csv", root="deep") == ["one", "two"]


@pytest.mark.parametrize(
    "source, message",
    [
        ("gone.mp4", "gone.mp4: no such file or folder"),
        ("empty", "empty: no video in this folder"),
        ("*.avi", "no file fits this pattern"),
        ("none.csv", "can't read"),
    ],
)
def test_nothing_there(here: Path, source: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("*", r"\*")):
        read_named([source])


def test_mistakes_in_a_table(here: Path) -> None:
    (here / "t.csv").write_text("name\nb.mp4\n")
    with pytest.raises(UserError, match="no path column"):
        read_named(["t.csv"])
    (here / "t.csv").write_text("path,id\nb.mp4,x\na.webm,x\n")
    with pytest.raises(UserError, match="'x' is the name of two videos"):
        read_named(["t.csv"])
    (here / "t.csv").write_text("path\nb.mp4\n")
    with pytest.raises(UserError, match="no column of splits"):
        read_named(["t.csv"], split="test")
    with pytest.raises(UserError, match="no video is named there"):
        read_named(["-"], lines=["\n"])
