"""A table says what it means or is refused: cells, quotation marks, columns, times of parts, spellings of a class."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning.data.records.readers import read_annotated, read_csv, read_folders, read_frame_lists
from mml_lightning.data.records.readers.cells import rows_of
from mml_lightning.data.records.readers.files import HELD_OUT, read_json
from mml_lightning.data.records.records import Dataset, FrameSpan
from mml_lightning.utils.errors import UserError

Told = list[tuple[str, str, str, object]]


def read(folder: Path, text: str, **options: object) -> Dataset:
    index = folder / "videos.csv"
    index.write_text(text, encoding="utf-8", newline="")
    return read_csv("mine", str(index), **options)  # type: ignore[arg-type]


def told(data: Dataset) -> Told:
    """(split, id, class, span) of all records."""
    classes = data.heads["label"].classes
    found = [(s, r.id, r.target["label"], r.span) for s, records in data.splits.items() for r in records]
    return [(s, i, classes[k], span) for s, i, k, span in found if isinstance(k, int)]


def refused(folder: Path, text: str, message: str, **options: object) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(folder, text, **options)
    assert str(folder / "videos.csv") in str(caught.value) and "\n" not in str(caught.value)


def spans(folder: Path, header: str, *rows: str, **options: object) -> dict[str, object]:
    """Spans by id of lines whose last cells are `rows`."""
    body = "".join(f"v{n},v{n}.mp4,{'ab'[n % 2]},train,{row}\n" for n, row in enumerate((*rows, rows[0])))
    data = read(folder, f"id,path,label,split,{header}\n{body}", **options)
    return {i: span for _, i, _, span in told(data) if i != f"v{len(rows)}"}


# ------------------------------------------------------------------------------------------------ cells


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,split,label\na,train,a slope, so it slides\nb,train,lift\n", "line 2: 4 cells where the header has 3"),
        ("path,split,label,\na,train,a slope, so it slides\nb,train,lift,\n", "line 2: 4 cells where the header has 3"),
        ("path,split,label,note\na,train,x,n\nb,train,y\n", "line 3: 3 cells where the header has 4"),
        ('path,split,label\na,train,x\nb,train,"y\nc,train,x\nd,train,"y\n', "line 3: .*; fix its quotation marks"),
        ('path,split,label\na,train,"x\nb,train,y\n', "line 2: unexpected end of data; fix its quotation marks"),
        ('path,label,split\na,"x,train\nb,y",train\nc,x,train\n', "line 2: .* spans whole lines, up to line 3"),
        ('path,label,split\na,x,train\nb,"y,train\nc,x,train\nd,y",train\n', "line 3: .* whole lines, up to line 5"),
        ('path,label,split\na, "x",train\nb,y,train\n', "line 2: stray quotation mark inside a cell"),
        ('path,label,split\na,a 5" pipe,train\nb,y,train\n', "line 2: stray quotation mark inside a cell"),
        ('path,label,split\na,"x\\"y",train\nb,y,train\n', "line 2: .* fix its quotation marks"),
    ],
)
def test_cells_that_would_be_dropped_or_swallowed(tmp_path: Path, text: str, message: str) -> None:
    refused(tmp_path, text, message)


def test_what_spreadsheets_and_pandas_write(tmp_path: Path) -> None:
    plain = "path,label,split\na.mp4,x,train\nb.mp4,y,val\n"
    for text in (
        plain.replace("\n", ",,\n"),
        plain + ",,\n,,\n",  # rows that were emptied
        ",path,label,split\n0,a.mp4,x,train\n1,b.mp4,y,val\n",
        'path,label,split,caption\na.mp4,x,train,"first, then\nmore ""said"", and the end"\nb.mp4,y,val,\n',
        '"path";"label";"split";"a,b,c,d,e"\na.mp4;x;train;1\nb.mp4;y;val;2\n',
    ):
        assert told(read(tmp_path, text)) == told(read(tmp_path, plain)), text


CELL = st.text("ab,;\"'\n\r é", max_size=6)


@given(st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=5), st.sampled_from([",", ";", "\t"]))
def test_what_is_written_is_read_or_refused(rows: list[tuple[str, str, str]], delimiter: str) -> None:
    written = io.StringIO()
    csv.writer(written, delimiter=delimiter).writerows([("h1", "h2", "h3"), *rows])
    try:
        found = [cells for _, cells in rows_of(Path("x"), io.StringIO(written.getvalue(), newline=""), delimiter)]
    except UserError as error:
        assert "spans whole lines" in str(error)
        assert any(("\n" in cell or "\r" in cell) and cell.count(delimiter) >= 2 for row in rows for cell in row)
    else:
        assert found == [["h1", "h2", "h3"], *[list(row) for row in rows if any(row)]]


@given(st.integers(0, 10**6))
def test_stray_marks_never_lose_a_row(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng, folder = random.Random(seed), tmp_path_factory.getbasetemp()
    header, body = "path,split,label\n", "".join(f"v{n}.mp4,train,c{n % 3}\n" for n in range(9))
    damaged = body
    for _ in range(rng.choice([1, 2, 2, 3, 4])):
        at = rng.randrange(len(damaged) + 1)
        damaged = damaged[:at] + '"' + damaged[at:]
    try:
        found = told(read(folder, header + damaged))
    except UserError as error:
        assert ", line " in str(error)
    else:
        assert found == told(read(folder, header + body)), damaged


# ------------------------------------------------------------------------------------------------ columns


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("path,label,split,Label", "columns 2 and 4 are both called 'Label'; rename one"),
        ("path,class,split,action", "columns 'class' and 'action' fit label; call the right one 'label'"),
        ("file,label,split,video", "columns 'file' and 'video' fit path; call the right one 'path'"),
        ("path,label,set,fold", "columns 'set' and 'fold' fit split; call the right one 'split'"),
        ("path,x,y,split", r"no label column \(found \['path', 'x', 'y', 'split'\]\)"),
        ("path,label,split,start", "column 'start' has no end, or duration, in seconds beside it"),
        ("path,label,split,t_end", "column 't_end' has no start in seconds beside it"),
        ("path,label,split,stop_frame", "column 'stop_frame' has no start in frames beside it"),
        ("path,label,split,clipBegin", "column 'clipBegin' has no end, or duration, in seconds beside it"),
        ("path,label,split,video_start", "column 'video_start' looks like a time"),
        ("path,label,split,onset", "column 'onset' looks like a time"),
    ],
)
def test_columns_that_would_be_guessed(tmp_path: Path, header: str, message: str) -> None:
    refused(tmp_path, f"{header}\na,b,train,1\nc,d,train,2\n", message)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("path,label,split,id", ("columns path, label, split, id",)),
        ("video,y,split,note", ("columns path from 'video', label from 'y', split", "not used 'note'")),
        ("path,label,split,class", ("columns path, label, split", "not used 'class'")),
        ("path,label,split,duration", ("columns path, label, split", "not used 'duration'")),
        ("path,label,split,num_frames", ("columns path, label, split", "not used 'num_frames'")),
    ],
)
def test_what_was_taken_for_what_is_said(tmp_path: Path, header: str, said: tuple[str, ...]) -> None:
    assert read(tmp_path, f"{header}\na,b,train,1\nc,d,train,2\n").told == (*said, HELD_OUT)


def test_of_several_pairs_of_times_one_is_taken_and_said(tmp_path: Path) -> None:
    text = "path,label,split,start_frame,stop_frame,start_timestamp,stop_timestamp,narration_timestamp\n"
    text += "a,x,train,60,90,00:00:01.00,00:00:01.50,00:00:01.2\nb,y,train,60,90,00:00:01.00,00:00:01.50,\n"
    data = read(tmp_path, text)
    assert data.told == (
        "columns path, label, split, parts from 'start_timestamp' and 'stop_timestamp' (seconds)",
        "not used 'start_frame', 'stop_frame', 'narration_timestamp'",
        HELD_OUT,
    )
    assert {span for *_, span in told(data)} == {(1.0, 1.5)}


# ------------------------------------------------------------------------------------------------ times


@pytest.mark.parametrize(
    ("header", "row", "span"),
    [
        ("start,end", "0.5,1.25", (0.5, 1.25)),
        ("start,stop", "0.5,1.25", (0.5, 1.25)),
        ("start_time,stop_time", "0.1,0.3", (0.1, 0.3)),
        ("t_start,t_end", "0.1,0.3", (0.1, 0.3)),
        ("Start_Sec,Stop_Sec", "1,2", (1.0, 2.0)),
        ("start (s),end (s)", "1,2", (1.0, 2.0)),
        ("startTime,endTime", "1,2", (1.0, 2.0)),
        ("clip_start,clip_end", "1,2", (1.0, 2.0)),
        ("begin,end", "1,2", (1.0, 2.0)),
        ("start,duration", "0.1,0.2", (0.1, 0.3)),
        ("start_ms,end_ms", "1500,2250", (1.5, 2.25)),
        ("start_ms,duration_ms", "100,200", (0.1, 0.3)),
        ("start_timestamp,stop_timestamp", "00:01:02.50,01:00:00", (62.5, 3600.0)),
        ("start_timestamp,stop_timestamp", "1:02.5,75:00", (62.5, 4500.0)),
        ("start_timestamp,stop_timestamp", "3.5,4", (3.5, 4.0)),
        ("start_frame,stop_frame", "3,9", FrameSpan(3, 9)),
        ("start_frame,end_frame", "3,3", FrameSpan(3, 3)),
        ("frame_start,duration_frames", "3,7", FrameSpan(3, 9)),
        ("start,end,duration", "0.5,1.25,99", (0.5, 1.25)),
        ("start,end,start_frame,color_start", "0.5,1.25,7,3", (0.5, 1.25)),
    ],
)
def test_parts_are_understood(tmp_path: Path, header: str, row: str, span: tuple[float, float]) -> None:
    columns = row.count(",") + 1
    found = spans(tmp_path, header, row, "," * (columns - 1))
    assert found == {"v0": span, "v1": None} and type(found["v0"]) is type(span)


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("start,stop", "1,", r"start and end must both be seconds \(or hh:mm:ss\), or both empty"),
        ("start,end", "0,nan", "must both be seconds"),
        ("start,end", "0:61,2:00", "must both be seconds"),
        ("start,end", "0:10:20:05,2:00", "must both be seconds"),
        ("start,duration", "1,", "start and duration must both be seconds"),
        ("start,duration", "1,0", "start 1 must lie before end 1"),
        ("start_ms,end_ms", "1,00:02", "start and end must both be milliseconds"),
        ("start_frame,stop_frame", "1.5,2", "frames 1.5 to 2 are not whole numbers"),
        ("start_frame,stop_frame", "5,4", "frame 5 must not come after frame 4, and the first frame is 0"),
        ("start_frame,stop_frame", "-1,4", "frame -1 must not come after frame 4, and the first frame is 0"),
    ],
)
def test_times_that_are_none(tmp_path: Path, header: str, row: str, message: str) -> None:
    refused(tmp_path, f"path,label,split,{header}\na,x,train,{row}\nb,y,train,,\n", f"line 2: .*{message}")


def test_numbers_of_frames_may_begin_elsewhere(tmp_path: Path) -> None:
    assert spans(tmp_path, "start_frame,stop_frame", "1,3", first_frame=1) == {"v0": FrameSpan(0, 2)}
    text = "path,label,split,start_frame,stop_frame\na.mp4,x,train,{},3\nb.mp4,y,train,1,1\n"
    refused(tmp_path, text.format(0), "line 2: .* the first frame is 1; .* data.first_frame", first_frame=1)
    data = read(tmp_path, text.format(1), first_frame=1)
    assert sorted(i for _, i, *_ in told(data)) == ["a_f1_f3", "b_f1_f1"]  # as the table numbers them
    with pytest.raises(UserError, match=r"data\.first_frame=-1 must be a whole number from 0"):
        read(tmp_path, text.format(1), first_frame=-1)


def test_ids_of_parts_are_exact_and_those_that_were_stay(tmp_path: Path) -> None:
    rows = {
        "0.5,1.25": "a_0.5_1.25",
        "1000,1e6": "a_1000_1e+06",
        "1234.567,1234.9": "a_1234.567_1234.9",
        "1234.571,1234.9": "a_1234.571_1234.9",
        "12345.125,12345.25": "a_12345.125_12345.25",
    }
    text = "path,label,split,start,end\n" + "".join(f"a.mp4,{n % 2},train,{row}\n" for n, row in enumerate(rows))
    assert {i for _, i, *_ in told(read(tmp_path, text))} == set(rows.values())


@given(st.lists(st.floats(0, 1e5, allow_nan=False).map(lambda x: round(x, 3)), min_size=2, max_size=8, unique=True))
def test_different_parts_have_different_ids(tmp_path_factory: pytest.TempPathFactory, cuts: list[float]) -> None:
    cuts.sort()
    rows = "".join(f"a.mp4,{n % 2},train,{cuts[n]!r},{cuts[n + 1]!r}\n" for n in range(len(cuts) - 1))
    rows += "b.mp4,0,train,0,1\nb.mp4,1,train,1,2\n"
    found = told(read(tmp_path_factory.getbasetemp(), "path,label,split,start,end\n" + rows))
    assert len({i for _, i, *_ in found}) == len(found) == len(cuts) + 1


# ------------------------------------------------------------------------------------------------ one class


SAME = [("walk", "Walk"), ("pick up", "pick_up"), ("pick up", "pick  up"), ("pick up", "pick\u00a0up")]
SAME += [("caf\u00e9", "cafe\u0301"), ("walk", "walk\u200b"), ("1", "01"), ("2", "2.0")]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_one_class_in_two_spellings_is_refused(tmp_path: Path, one: str, other: str) -> None:
    text = f"path,label,split\na,{one},train\nb,y,train\nc,{other},train\nd,{one},train\n"
    refused(tmp_path, text, r"line [24]: class .* is also spelled .* \(.*line [24]\): use one")
    refused(tmp_path, text.replace(f",{other},", f",y|{other},"), "is also spelled", label_separator="|")


def test_different_classes_stay(tmp_path: Path) -> None:
    classes = ["x²", "x2", "Masse", "Maße", "1", "-1", "1.5", "15", "a-b", "ab"]
    text = "path,label,split\n" + "".join(f"{n},{label},train\n" for n, label in enumerate(classes))
    assert set(read(tmp_path, text).heads["label"].classes) == set(classes)


def by_annotated(root: Path, labels: tuple[str, str, str]) -> Dataset:
    (root / "list.csv").write_text("".join(f"{n}.mp4,{label}\n" for n, label in enumerate(labels)), encoding="utf-8")
    return read_annotated("x", str(root), {"train": "list.csv"}, "{path}", id="{stem}", columns=["path", "label"])


def by_folders(root: Path, labels: tuple[str, str, str]) -> Dataset:
    for label in labels:
        (root / label).mkdir()
        (root / label / f"{label}.mp4").touch()
    return read_folders("x", str(root))


@pytest.mark.parametrize("reader", [by_annotated, by_folders])
@pytest.mark.parametrize(("one", "other"), SAME[:5])
def test_other_readers_refuse_it_too(
    tmp_path: Path, reader: Callable[[Path, tuple[str, str, str]], Dataset], one: str, other: str
) -> None:
    with pytest.raises(UserError, match=r"is also spelled .*: use one"):
        reader(tmp_path, (one, other, "z"))


# ------------------------------------------------------------------------------------------------ other lists


def test_a_padded_number_is_a_whole_one(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("id,start,label\na,1.0,x\nb,1.7,y\n")
    with pytest.raises(UserError, match=r"list\.csv, line 3: its fields don't fit"):
        read_annotated("x", str(tmp_path), {"train": "list.csv"}, "{id}_{start:06d}.mp4")


def test_columns_of_one_name_in_other_lists(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("id,label,Label\na,1,x\nb,2,y\n")
    with pytest.raises(UserError, match="columns 2 and 3 are both called 'Label'"):
        read_annotated("x", str(tmp_path), {"train": "list.csv"}, "{id}.mp4")


def test_a_key_twice_in_a_json_file(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('{"a": "0", "b": "1", "a": "2"}')
    with pytest.raises(UserError, match="its key 'a' appears twice"):
        read_json(tmp_path / "labels.json")


def test_numbers_of_a_frame_list_may_have_zeros(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a 3 01\nb 3 1\nc 3 0\n")
    data = read_frame_lists(
        "x", str(tmp_path), {"frames": {"folder": "", "template": "{:05d}.jpg", "train": "train.txt"}}
    )
    assert [r.target["label"] for r in data.splits["train"]] == [1, 1, 0]


def test_text_that_is_none_in_a_json_file(tmp_path: Path) -> None:
    (tmp_path / "ids.json").write_text('["caf\\udce9", "\\ud83d\\ude00"]')
    with pytest.raises(UserError, match=r"is not valid JSON: .* surrogates not allowed"):
        read_json(tmp_path / "ids.json")
    (tmp_path / "ids.json").write_text('["\\ud83d\\ude00"]')  # both halves of a character
    assert read_json(tmp_path / "ids.json") == ["\U0001f600"]


@pytest.mark.parametrize(("first", "expected"), [(0, [1, 2]), (1, [0, 1])])
def test_labels_that_are_numbers_are_those_of_the_list_of_classes(
    tmp_path: Path, first: int, expected: list[int]
) -> None:
    (tmp_path / "classes.txt").write_text("".join(f"{first + k} {name}\n" for k, name in enumerate("abc")))
    (tmp_path / "list.txt").write_text("v.mp4 1\nw.mp4 2\n")
    (tmp_path / "val.txt").write_text("x.mp4 2\n")
    options = {"columns": ["path", "label"], "separator": " ", "classes": "classes.txt"}
    pattern = r"(?P<number>\d+) (?P<name>.+)"
    lists = {"train": "list.txt", "val": "val.txt"}
    data = read_annotated("x", str(tmp_path), lists, "{path}", id="{stem}", class_pattern=pattern, **options)  # type: ignore[arg-type]
    assert [record.target["label"] for record in data.splits["train"]] == expected
    (tmp_path / "val.txt").write_text(f"x.mp4 {first + 3}\n")
    with pytest.raises(UserError, match="is not one of the 3 classes"):
        read_annotated("x", str(tmp_path), lists, "{path}", id="{stem}", class_pattern=pattern, **options)  # type: ignore[arg-type]
