"""The files of a pack: archives of any size, lists that are cut off, names of folders."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning.data.packs import zipped
from mml_lightning.data.video import pack_format
from mml_lightning.data.video.pack_format import read_lines


@pytest.mark.parametrize("count", [0, 3, 70_000])
def test_directory_of_few_and_many_members(count: int) -> None:
    content, members = io.BytesIO(), []
    for number in range(count):
        header = zipped.local_header(f"f/{number}", 0, 0)
        members.append(zipped.Member(f"f/{number}", content.tell(), 0, 0))
        content.write(header)
    content.write(zipped.directory(members, content.tell()))
    with zipfile.ZipFile(content) as archive:
        assert len(archive.namelist()) == count


def test_directory_beyond_four_gigabytes(tmp_path: Path) -> None:
    body, start = b"late", 5 * 2**30  # a sparse file
    with (tmp_path / "x.zip").open("wb") as handle:
        handle.seek(start)
        member = zipped.Member("a/late", start, len(body), zlib.crc32(body))
        handle.write(zipped.local_header(member.name, len(body), member.crc32) + body)
        handle.write(zipped.directory([member], handle.tell()))
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert archive.read("a/late") == body


LINES = [
    b'{"a": 1}',
    b'{"b": "x\\n,y"}',
    b"{}",
    b"",
    b"[]",
    b"7",
    b'{"a": ',
    b'1, "b": 2}',
    b"{},{}",
    b"\xff",
    b'{"c": 1}\r',
]


@given(st.lists(st.sampled_from(LINES), max_size=5), st.booleans())
def test_lines_are_read_up_to_the_first_that_is_none(raw: list[bytes], whole: bool) -> None:
    content = b"\n".join(raw) + (b"\n" if whole else b"")
    expected: list[dict[str, Any]] = []
    for line in content.split(b"\n")[:-1]:
        try:
            value = json.loads(line)
        except ValueError:
            break
        if not isinstance(value, dict):
            break
        expected.append(value)
    lines, used = read_lines(content)
    assert lines == expected and content[:used].count(b"\n") == len(lines) and (content[:used][-1:] or b"\n") == b"\n"


@given(st.text(max_size=120))
def test_a_folder_name_never_leads_out(identity: str) -> None:
    name = pack_format.folder_name(7, identity)
    told = {"problem": "x"}
    assert pack_format.packed(Path("s"), name, "frames", told).folder == name
    assert "/" not in name and "\\" not in name and ".." not in name
