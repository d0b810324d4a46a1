"""Annotation files to records, and one line for every mistake in them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning.data.records.readers import COLUMNS, mirrored_classes, read_csv, read_ssv2
from mml_lightning.data.records.readers.files import is_plain
from mml_lightning.data.records.records import Dataset, validate
from mml_lightning.utils.errors import UserError
from tests.data.videos import real

PLAIN = "path,label,split\na.mp4,run,train\nb.mp4,sit,train\nc.mp4,run,val\nd.mp4,sit,test\n"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "index.csv"


def read(index: Path, text: str, **options: str) -> Dataset:
    index.write_text(text, encoding="utf-8")
    return read_csv("mine", str(index), **options)


def ids(data: Dataset) -> dict[str, list[str]]:
    return {split: [record.id for record in records] for split, records in data.splits.items()}


# ------------------------------------------------------------------------------------------------ csv


def test_plain_form(index: Path) -> None:
    data = read(index, PLAIN)
    assert ids(data) == {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    assert data.heads["label"].classes == ("run", "sit") and data.num_classes == {"label": 2}
    first = data.splits["train"][0]
    assert first.media == {"frames": index.parent / "a.mp4"} and first.target == {"label": 0} and first.span is None


@pytest.mark.parametrize(
    ("role", "name"), [(role, name) for role in ("path", "label", "split") for name in COLUMNS[role]]
)
def test_usual_column_names(index: Path, role: str, name: str) -> None:
    header, body = PLAIN.split("\n", 1)
    text = header.replace(role, f" {name.upper()} ") + "\n" + body
    assert ids(read(index, text)) == {"train": ["a", "b"], "val": ["c"], "test": ["d"]}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_delimiters_and_line_ends(index: Path, delimiter: str, start: str, end: str) -> None:
    index.write_bytes((start + PLAIN.replace(",", delimiter).replace("\n", end)).encode())
    assert ids(read_csv("mine", str(index)))["train"] == ["a", "b"]


def test_split_names_root_absolute_paths_and_quotes(index: Path, tmp_path: Path) -> None:
    text = (
        "split,path,label,unused\nTraining,x/a.mp4,'q',1\nvalidation,/abs/b.mp4,\"q, r\",2\n"
        "dev,c.mp4,'q',3\ntesting,d.mp4,'q',4\n"
    )
    data = read(index, text, root=str(tmp_path / "videos"))
    assert ids(data) == {"train": ["x/a"], "val": ["/abs/b", "c"], "test": ["d"]}
    assert data.heads["label"].classes == ("'q'", "q, r")
    assert data.splits["train"][0].media["frames"] == tmp_path / "videos" / "x" / "a.mp4"
    assert data.splits["val"][0].media["frames"] == Path("/abs/b.mp4")


def test_numbers_sort_as_numbers(index: Path) -> None:
    labels = ["10", "9", "-1", "x", "²", "--5"]
    text = "path,label,split\n" + "".join(f"{i}.mp4,{label},train\n" for i, label in enumerate(labels))
    assert read(index, text).heads["label"].classes == ("-1", "9", "10", "--5", "x", "²")


def test_several_labels_in_a_cell(index: Path) -> None:
    text = "path,label,split\na.mp4,b|a|b,train\nb.mp4,,train\nc.mp4, c |,train\n"
    data = read(index, text, label_separator="|")
    assert data.heads["label"].multi_label and data.heads["label"].classes == ("a", "b", "c")
    targets = {r.id: r.target["label"] for records in data.splits.values() for r in records}
    assert targets == {"a": (0, 1), "b": (), "c": (2,)}


def test_id_column_and_spans(index: Path) -> None:
    text = "id,path,label,split,start,end\n7,a.mp4,x,train,0.5,1.25\n8,a.mp4,y,train,,\n"
    records = read(index, text).splits
    by_id = {r.id: r for split in records.values() for r in split}
    assert by_id["7"].span == (0.5, 1.25) and by_id["8"].span is None


def test_parts_of_one_video_get_ids_of_their_own(index: Path) -> None:
    text = "path,label,split,start,end\na.mp4,x,train,0,1\na.mp4,y,train,1,2.5\na.mp4,y,val,2,3\n"
    assert ids(read(index, text)) == {"train": ["a_0_1", "a_1_2.5"], "val": ["a_2_3"], "test": []}


@given(st.text("ab./ü \\", min_size=1, max_size=9), st.sampled_from([".", "/", "videos", "/a/b"]))
def test_plain_names_are_joined_and_split_as_paths_are(name: str, root: str) -> None:
    if is_plain(name):
        assert str(Path(root) / "_")[:-1] + name == str(Path(root) / name)
        assert os.path.splitext(name)[0] == Path(name).with_suffix("").as_posix()


def test_odd_names_mean_what_paths_mean(index: Path, tmp_path: Path) -> None:
    names = ["./a.mp4", "b//c.mp4", "b/./d.mp4", "b/../e.mp4", "/abs/f.mp4", "b..c/g.x.mp4", ".", "h.", "b/.i"]
    data = read(index, "path,label,split\n" + "".join(f"{name},{n % 2},train\n" for n, name in enumerate(names)))
    found = {r.id: str(r.media["frames"]) for records in data.splits.values() for r in records}
    assert found == {
        **{"a": f"{tmp_path}/a.mp4", "b/c": f"{tmp_path}/b/c.mp4", "b/d": f"{tmp_path}/b/d.mp4"},
        **{"b/../e": f"{tmp_path}/b/../e.mp4", "/abs/f": "/abs/f.mp4", "b..c/g.x": f"{tmp_path}/b..c/g.x.mp4"},
        **{".": str(tmp_path), "h.": f"{tmp_path}/h.", "b/.i": f"{tmp_path}/b/.i"},
    }


@given(st.integers(1, 60))
def test_every_fifth_video_validates(tmp_path_factory: pytest.TempPathFactory, count: int) -> None:
    index = tmp_path_factory.getbasetemp() / "split.csv"
    rows = "".join(f"{i:02d}.mp4,{i % 2},train\n" for i in reversed(range(count)))
    splits = ids(read(index, "path,label,split\n" + rows + "t.mp4,0,test\nu.mp4,1,test\n"))
    assert sorted(splits["train"] + splits["val"]) == [f"{i:02d}" for i in range(count)]
    assert set(splits["val"]) == {f"{i:02d}" for i in range(0, count, 5)} and splits["test"] == ["t", "u"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no line below the header"),
        ("path,label,split\n", "no line below the header"),
        (
            "name,label,split\na,b,train\n",
            r"no path column \(found \['name', 'label', 'split'\]\); name one of them 'path'",
        ),
        ("path,lable,split\na,b,train\n", "no label column"),
        ("path,label\na,b\n", "no split column"),
        ("path,label,split\na,x,train\n\n,y,train\n", "line 4: column 'path' is empty"),
        ("path,label,split\na,x,train\nb,,train\n", "line 3: column 'label' is empty"),
        ("path,label,split\na,x,train\nb\n", "line 3: 1 cell where the header has 3"),
        ("path,label,split\na,x,train\nb,y,\n", "line 3: column 'split' is empty"),
        ("path,label,split\na,x,train\nb,y,fold1\n", "line 3: split 'fold1' is unknown; use train, val or test"),
        ("path,label,split\na,x,train\nb,x,train\n", "holds 1 class; at least two"),
        ("path,label,split,id\na,x,train,1\nb,y,train,\n", "line 3: column 'id' is empty"),
        ("path,label,split,start,end\na,x,train,0,1\nb,y,train,1,\n", "line 3: start and end must both be seconds"),
        ("path,label,split,start,end\na,x,train,0,1\nb,y,train,a,2\n", "line 3: start and end must both be seconds"),
        ("path,label,split,start,end\na,x,train,2,1\nb,y,train,0,2\n", "line 2: start 2 must lie before end 1"),
        ("path,label,split,start,end\na,x,train,-1,1\nb,y,train,0,2\n", "line 2: start -1 must lie"),
        ("path,label,split,start,end\na,x,train,0,nan\nb,y,train,0,2\n", "line 2: start and end must both be seconds"),
    ],
)
def test_mistakes_are_one_line(index: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(index, text)
    assert str(index) in str(caught.value) and "\n" not in str(caught.value)


def test_no_index_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data=csv needs data\.index="):
        read_csv("mine", None)
    with pytest.raises(UserError, match=r"can't read data\.index=.*gone\.csv: No such file"):
        read_csv("mine", str(tmp_path / "gone.csv"))
    with pytest.raises(UserError, match=r"can't read data\.index"):
        read_csv("mine", str(tmp_path))
    (tmp_path / "latin.csv").write_bytes("path,label,split\na,\xe9t\xe9,train\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8 text; save it as CSV in UTF-8"):
        read_csv("mine", str(tmp_path / "latin.csv"))


# ------------------------------------------------------------------------------------------------ ssv2

LABELS = {"Moving something up": "1", "Dropping something": "0"}
UP, DROP = "Moving [something] up", "Dropping [something]"


def ssv2(root: Path, labels: object = LABELS, train: object = None, answers: str | None = None, val: str = UP) -> Path:
    folder = root / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.json").write_text(json.dumps(labels))
    rows = [{"id": "3", "label": "moving a pen up", "template": UP}, {"id": 4, "template": DROP}]
    (folder / "train.json").write_text(json.dumps(rows if train is None else train))
    (folder / "validation.json").write_text(json.dumps([{"id": "5", "template": val}]))
    if answers is not None:
        (folder / "test-answers.csv").write_text(answers)
    return root


def test_ssv2_form(tmp_path: Path) -> None:
    root = ssv2(tmp_path, answers="6;Moving something up\n7;Dropping something\n")
    (root / "videos").mkdir()
    for name in ("3.webm", "4.mp4", "5.webm", "notes.txt"):
        (root / "videos" / name).touch()
    data = read_ssv2("ssv2", str(root), mirrored={0: 1, 1: 0})
    assert ids(data) == {"train": ["3", "4"], "val": ["5"], "test": ["6", "7"]}
    assert data.heads["label"].classes == ("Dropping something", "Moving something up")
    assert [r.target["label"] for records in data.splits.values() for r in records] == [1, 0, 1, 1, 0]
    assert [r.media["frames"].name for r in data.splits["train"]] == ["3.webm", "4.mp4"]
    assert data.mirrored == {"label": {0: 1, 1: 0}}
    with pytest.raises(UserError, match=r"2 of 5 videos are missing, first: .*6\.webm \(id 6, test\)"):
        validate(data)
    assert validate(data, ("train", "val")) is data


def test_ssv2_without_test_labels(tmp_path: Path) -> None:
    assert ids(read_ssv2("ssv2", str(ssv2(tmp_path))))["test"] == []


@pytest.mark.parametrize("folder", ["annotations", "labels", "."])
@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_ssv2_file_names_of_the_releases(tmp_path: Path, folder: str, prefix: str) -> None:
    made = ssv2(tmp_path / "made", answers="6;Moving something up\n") / "annotations"
    (tmp_path / folder).mkdir(exist_ok=True)
    for path in made.iterdir():
        path.rename(tmp_path / folder / f"{prefix}{path.name}")
    (tmp_path / "20bn-something-something-v2").mkdir()
    data = read_ssv2("ssv2", str(tmp_path))
    assert ids(data) == {"train": ["3", "4"], "val": ["5"], "test": ["6"]}
    assert data.splits["val"][0].media["frames"] == tmp_path / "20bn-something-something-v2" / "5.webm"


def test_ssv2_tells_left_from_right(tmp_path: Path) -> None:
    labels = {"Pushing something from left to right": "0", "Pushing something from right to left": "1"}
    rows = [{"id": "1", "template": "Pushing [something] from left to right"}]
    data = read_ssv2("ssv2", str(ssv2(tmp_path, labels, rows, val=rows[0]["template"])))
    assert data.mirrored == {"label": {0: 1, 1: 0}}


LISTS: dict[str, Any] = {
    "ids": ["5", 3],
    "entries": [{"id": "5", "label": "moving a pen up"}, {"id": 3, "template": DROP}],
    "objects": {"5": [{"name": "5/0001.jpg"}], "3": []},
}


@pytest.mark.parametrize("form", LISTS)
def test_splits_by_ids(tmp_path: Path, form: str) -> None:
    root = ssv2(tmp_path)
    (root / "train.json").write_text(json.dumps(LISTS[form]))
    (root / "val.json").write_text(json.dumps(["4"]))
    data = read_ssv2("else", str(root), splits={"train": "train.json", "val": "val.json", "test": None})
    assert ids(data) == {"train": ["5", "3"], "val": ["4"], "test": []}
    own = 0 if form == "entries" else 1  # an entry's own template counts
    assert [r.target["label"] for r in data.splits["train"]] == [1, own]


def test_splits_with_a_part_of_the_classes(tmp_path: Path) -> None:
    root = ssv2(tmp_path, {**LABELS, "Closing something": "2"})
    (root / "few.json").write_text(json.dumps({"Dropping something": 0, "Closing something": 1}))
    for split, videos in (("train", ["4"]), ("val", ["3"])):
        (root / f"{split}.json").write_text(json.dumps(videos))
    data = read_ssv2("few", str(root), splits={"train": "train.json", "val": None}, labels="few.json")
    assert data.heads["label"].classes == ("Dropping something", "Closing something")
    assert ids(data)["train"] == ["4"] and data.splits["train"][0].target == {"label": 0}
    with pytest.raises(UserError, match=r"val\.json: id 3 has no label in the official .* classes of data\.classes"):
        read_ssv2("few", str(root), splits={"train": "train.json", "val": "val.json"}, labels="few.json")


@pytest.mark.parametrize(
    ("content", "splits", "message"),
    [
        (
            '["77"]',
            {"train": "train.json"},
            r"train\.json: id 77 has no label in the official train and validation files",
        ),
        ("[[3]]", {"train": "train.json"}, r"train\.json: each entry must be an id, or an object with an id"),
        ("{", {"train": "train.json"}, r"train\.json is not valid JSON"),
        ("[]", {"train": "gone.json"}, r"gone\.json is missing; data\.root must hold"),
        ("[]", {"training": "train.json"}, r"data\.splits='training' is unknown"),
    ],
)
def test_mistakes_in_splits_by_ids(tmp_path: Path, content: str, splits: dict[str, str], message: str) -> None:
    root = ssv2(tmp_path)
    (root / "train.json").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_ssv2("else", str(root), splits=splits)
    assert "\n" not in str(caught.value)


def test_ssv2_names_that_are_no_text(tmp_path: Path) -> None:
    root = ssv2(tmp_path)
    (root / "videos").mkdir()
    (root / "videos" / os.fsdecode(b"caf\xe9.webm")).touch()
    with pytest.raises(UserError, match=r"caf\\xe9: this name is not UTF-8 text"):
        read_ssv2("ssv2", str(root))


def test_ssv2_prepares_first(tmp_path: Path) -> None:
    assert ids(read_ssv2("demo", str(tmp_path), prepare=lambda root: ssv2(root)))["train"] == ["3", "4"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train": [{"id": "3", "template": "Eating [something]"}]},
            "id 3 has label 'Eating something', which labels.json",
        ),
        ({"train": [{"id": "3"}]}, "train.json: each entry needs an id and a template"),
        ({"train": ["3"]}, "train.json: each entry needs an id and a template"),
        ({"train": [{"id": "3", "template": None}]}, "train.json: each entry needs an id and a template"),
        ({"labels": ["a", "b"]}, "labels.json must map class names to numbers"),
        ({"labels": {"a": "x", "b": "0"}}, "labels.json must map class names to numbers"),
        ({"labels": {"a": "0", "b": "2"}}, "must be numbered 0 to 1"),
        ({"labels": {"a": "0"}}, "two or more"),
        ({"answers": "6,Moving something up\n"}, "test-answers.csv: each line must be id;template"),
        ({"answers": "6;Eating something\n"}, "test-answers.csv: id 6 has label 'Eating something'"),
    ],
)
def test_ssv2_mistakes_are_one_line(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_ssv2("ssv2", str(ssv2(tmp_path, **changes)))
    assert "\n" not in str(caught.value)


def test_ssv2_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"labels\.json is missing; data\.root must hold annotations/ .* and videos/"):
        read_ssv2("ssv2", str(tmp_path / "nowhere"))
    root = ssv2(tmp_path)
    (root / "annotations" / "validation.json").write_text("[{")
    with pytest.raises(UserError, match=r"validation\.json is not valid JSON"):
        read_ssv2("ssv2", str(root))


# ------------------------------------------------------------------------------------------------ mirrored classes

SIDES = st.lists(
    st.sampled_from(["left", "Right", "LEFT", "clockwise", "up", "upright", "cleft", "something"]), max_size=6
)


@given(st.lists(SIDES.map(" ".join), unique=True, max_size=8))
def test_mirroring_twice_is_nothing(classes: list[str]) -> None:
    partners = mirrored_classes(classes)
    assert all(partners[partners[k]] == k != partners[k] for k in partners)


def test_words_that_only_sound_like_sides() -> None:
    names = [
        "Putting something upright",
        "pulling it right out",
        "Copyright",
        "Copyleft",
        "Turning Left",
        "Turning Right",
    ]
    assert mirrored_classes(names) == {4: 5, 5: 4}


# ------------------------------------------------------------------------------------------------ real files


@pytest.mark.real
def test_real_lips_csv() -> None:
    data = validate(read_csv("lips", str(real("lips/digit.csv"))))
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 500, "val": 100, "test": 200}
    assert len(data.heads["label"].classes) == 10
    assert all(record.span is not None for record in data.splits["train"])


@pytest.mark.real
def test_real_classes_of_ssv2(tmp_path: Path) -> None:
    labels = json.loads(real("annotations/something_something_v2/labels.json").read_text())
    template = "Pretending to put [something] underneath [something]"
    data = read_ssv2("ssv2", str(ssv2(tmp_path, labels, [{"id": "1", "template": template}], val=template)))
    classes = data.heads["label"].classes
    assert len(classes) == 174 and {name: str(i) for i, name in enumerate(classes)} == labels
    assert classes[data.splits["train"][0].target["label"]] == template.replace("[", "").replace("]", "")  # type: ignore[index]
    pairs = {classes[a]: classes[b] for a, b in data.mirrored["label"].items()}
    assert pairs == {
        "Pulling something from left to right": "Pulling something from right to left",
        "Pulling something from right to left": "Pulling something from left to right",
        "Pushing something from left to right": "Pushing something from right to left",
        "Pushing something from right to left": "Pushing something from left to right",
        "Turning the camera left while filming something": "Turning the camera right while filming something",
        "Turning the camera right while filming something": "Turning the camera left while filming something",
    }
