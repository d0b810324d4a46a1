"""What a check says about a dataset: remarks and their levels, the terminal, the page, the command."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.cli.main import main
from mml_lightning.data.check import Finding, Report, Speed, Wanted, check, find_leaks, lines, page, read, summarise
from mml_lightning.data.check.leaks import Leaks, Near
from mml_lightning.data.check.summary import _histogram
from mml_lightning.data.records.records import Dataset, Head, Record
from tests.data.videos import damaged, record

GOOD = Finding(path="x.webm", state="5@1", bytes=5, width=64, height=48, fps=10.0, frames_decord=20, frames_pyav=20)
NEAR = [Near(("train", "train1"), ("val", "val2"), 2.0)]
CLEAN = Leaks([], [], [])


def made(
    count: dict[str, int], classes: tuple[str, ...] = ("a", "b"), **changes: dict[str, Any]
) -> tuple[Dataset, list[Finding]]:
    """Records <split><number> of alternating classes with good findings; `changes`: id -> fields of its finding."""
    splits = {
        split: [Record(f"{split}{i}", {"frames": Path("x.webm")}, {"label": i % 2}) for i in range(number)]
        for split, number in count.items()
    }
    findings = [
        replace(GOOD, split=split, id=r.id, **changes.get(r.id, {}))
        for split, records in splits.items()
        for r in records
    ]
    return Dataset("mine", splits, {"label": Head(classes)}), findings


def said(data: Dataset, findings: list[Finding], leaks: Leaks = CLEAN, **wanted: Any) -> dict[str, str]:
    """{what: level} of the remarks."""
    return {remark.what: remark.level for remark in summarise(data, findings, leaks, Wanted(**wanted)).remarks}


def test_clean_data_are_usable() -> None:
    report = summarise(*made({"train": 4, "val": 2, "test": 2}), CLEAN, Wanted())
    assert report.remarks == [] and report.usable and report.readable == 8
    assert lines(report)[-1] == "mine: usable"


BAD = {"decoder": "none", "problem": "x.webm: broken"}


def test_unusable_videos_weigh_by_split_and_share() -> None:
    data, findings = made({"train": 10, "val": 2}, train3=BAD, val1=BAD)
    assert said(data, findings, max_bad_share=0.1) == {
        "unreadable in val": "falsifies",
        "unreadable in train": "note",
        "no test split": "note",
    }
    assert said(data, findings, max_bad_share=0.09)["unreadable in train"] == "stops"
    assert said(data, findings, max_bad_share=0.1, leave_out=False)["unreadable in train"] == "stops"
    gone = {"decoder": "none", "problem": "x.webm: no such file", "state": ""}
    data, findings = made({"train": 10, "val": 2, "test": 2}, train3=gone, val1=gone)
    assert said(data, findings, max_bad_share=0.1) == {"missing in val": "stops", "missing in train": "note"}
    data, findings = made({"train": 10, "val": 2, "test": 2}, train3=gone, train4=BAD)  # a run counts both kinds
    assert said(data, findings, max_bad_share=0.1) == {"missing in train": "stops", "unreadable in train": "stops"}
    assert set(said(data, findings, max_bad_share=0.2).values()) == {"note"}


def test_lengths() -> None:
    data, findings = made({"train": 4, "val": 2, "test": 2}, train0={"frames_pyav": 1}, train1={"frames_pyav": 7})
    assert said(data, findings, frames=8) == {"one frame": "note", "short": "note"}
    assert said(data, findings, frames=7) == {"one frame": "note"}
    spans = replace(data, splits={**data.splits, "val": [replace(r, span=(0, 2.6)) for r in data.splits["val"]]})
    assert said(spans, findings)["spans end after the video"] == "note"
    short = [replace(f, listed=18, images=18, problem="2 more") if f.split == "val" else f for f in findings]
    assert said(data, short)["more images than listed"] == "note"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"intervals": {"label": ((0, 0.0, 4.0), (1, 0.0, 1.0))}}, {}),  # the video lasts 2 s
        ({"intervals": {"label": ((1, 0.0, 1.0), (0, 0.0, 4.1))}}, {"actions end after the video": "note"}),
        ({"length": 2.5}, {}),
        ({"length": 2.6}, {"videos shorter than their list says": "falsifies"}),
        ({"length": 1.0}, {}),
    ],
)
def test_lengths_of_lists(change: dict[str, Any], expected: dict[str, str]) -> None:
    data, findings = made({"train": 2, "val": 2, "test": 2})
    splits = {split: list(records) for split, records in data.splits.items()}
    splits["val"][1] = replace(splits["val"][1], **change)
    assert said(replace(data, splits=splits), findings) == expected
    unknown = [replace(f, fps=0.0) for f in findings]
    assert said(replace(data, splits=splits), unknown) == {}  # without a rate there are no seconds


def test_a_test_split_that_is_val_counts_once() -> None:
    data, findings = made({"train": 4, "val": 2})
    broken = [replace(f, **BAD) if f.id == "val0" else f for f in findings]
    again = [replace(f, split="test") for f in broken if f.split == "val"]
    data = replace(data, splits={**data.splits, "test": data.splits["val"]})
    report = summarise(data, [*broken, *again], CLEAN, Wanted())
    assert lines(report)[:2] == ["mine: 6 videos, 5 readable", "size     64x48 (5)"]
    assert [remark.what for remark in report.remarks if remark.level != "note"] == ["unreadable in val"]
    assert list(report.videos) == ["train", "val", "test"]  # their classes are shown as ever


@pytest.mark.parametrize(
    ("pairs", "fps", "right"),
    [
        (19, 10.0, True),
        (20, 10.0, True),
        (18, 10.0, True),
        (17, 10.0, False),
        (21, 10.0, False),
        (10, 5.0, True),
        (19, 0.0, True),
        (10, 0.0, False),
    ],
)
def test_flow_against_frames(pairs: int, fps: float, right: bool) -> None:
    data, findings = made({"train": 2, "val": 2, "test": 2})
    flow = replace(GOOD, split="val", id="val0", source="flow", listed=pairs, images=pairs, fps=fps)
    found = summarise(data, [*findings, flow], CLEAN, Wanted())
    assert found.usable is right
    if not right:
        assert re.match(rf"val/val0 \(20 frames, {pairs} pairs of flow, \d+ expected\)", found.remarks[0].examples[0])


def test_leaks_weigh() -> None:
    data, findings = made({"train": 4, "val": 4, "test": 2})
    leaks = Leaks(
        [[("train", "train0"), ("val", "val0")]],
        [[("val", "val1"), ("val", "val3")]],
        [Near(("train", "train1"), ("val", "val2"), 2.0)],
    )
    assert said(data, findings, leaks) == {
        "identical videos in several splits": "falsifies",
        "identical videos in one split": "note",
        "near-identical videos in several splits": "note",
    }
    unequal = Leaks([], [[("val", "val0"), ("val", "val1")]], [])
    assert said(data, findings, unequal)["identical videos with different labels"] == "falsifies"


def test_labels_and_lists() -> None:
    data, findings = made({"train": 1, "val": 2, "test": 2}, ("a", "b", "Open_it", "open it"))
    assert said(data, findings) == {
        "measured classes without a training video": "falsifies",
        "class names that differ in spelling only": "falsifies",
        "classes without any video": "note",
    }
    data, findings = made({"train": 2, "test": 2})
    assert said(data, findings) == {"empty splits": "stops"}
    twice = replace(data, splits={**data.splits, "val": [data.splits["train"][0]] * 2})
    assert said(twice, findings)["ids that are not unique in their split"] == "stops"
    several = Dataset(
        "m",
        {"train": [Record("a", {}, {"label": ()})] * 1, "val": [Record("b", {}, {"label": (0, 1)})]},
        {"label": Head(("a", "b"), True)},
    )
    assert said(several, [])["videos without a label"] == "note"


def test_histogram_counts_all() -> None:
    assert _histogram([3, 3, 5]) == [("3", 2), ("4", 0), ("5", 1)]
    rows = _histogram(list(range(1, 101)))
    assert sum(n for _, n in rows) == 100 and rows[0] == ("1 to 9", 9) and rows[-1] == ("100", 1)


def full(videos: dict[str, Path], tmp_path: Path) -> Report:
    good, bad = record(videos["vp9"]), record(damaged("empty", videos["vp9"], tmp_path / "<b>ad.webm"), 0)
    data = Dataset(
        "mine",
        {"train": [good, bad, record(videos["single"])], "val": [replace(good, id="copy")], "test": []},
        {"label": Head(("a", "b & c"))},
    )
    findings = check(data, tmp_path / "findings.csv", 3, 2, lambda videos: lambda: None)
    report = summarise(data, findings, find_leaks(data, findings), Wanted(frames=8, max_bad_share=0.1))
    return replace(report, speed=Speed(10.0, 80.0, 12, 2, 0.3))


def test_terminal(videos: dict[str, Path], tmp_path: Path) -> None:
    told = lines(full(videos, tmp_path))
    text = "\n".join(told)
    assert told[0] == "mine: 4 videos, 3 readable"
    assert "stops: unreadable in train: 1; more than data.max_bad_share=0.1: repair them" in text
    assert "first train/<b>ad (" in text
    assert "note: one frame: 1; they have no flow" in text and "first train/single" in text
    assert "falsifies: identical videos in several splits: 1; keep each in one; first train/vp9 = val/copy" in text
    assert "falsifies: identical videos with different labels" not in text
    assert "size     64x48 (3)" in text and "frames   1 to 24, median 24" in text
    assert "train    3 videos, 2 classes of 0 to 3 videos, median 1.5" in text
    assert "10.0 videos/s, 80 frames/s with 2 workers here (12 timed)" in text
    assert told[-1].endswith("problems to fix before a run can be trusted") and not any(
        row.startswith("test ") for row in told
    )
    levels = [row.partition(":")[0] for row in told if row.startswith(("stops", "falsifies", "note"))]
    assert levels == sorted(levels, key=["stops", "falsifies", "note"].index)


class Tags(HTMLParser):
    """Counts tags, checks that they close, notes what would be fetched from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.fetched += [f"{tag} {value}" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_stands_alone(videos: dict[str, Path], tmp_path: Path) -> None:
    report = full(videos, tmp_path)
    text = page(report, "mine & yours")
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert tags.open == [] and tags.fetched == [] and "script" not in tags.counts and "url(" not in text
    assert tags.counts["details"] == len(report.remarks) and tags.counts["h1"] == 1
    bars = sum(len(rows) for rows in report.spreads.values()) + 2 * 2  # two classes in two splits
    assert tags.counts["svg"] == tags.counts["rect"] == bars
    assert "&lt;b&gt;ad" in text and "<b>ad" not in text and "b &amp; c" in text and "mine &amp; yours" in text


# ------------------------------------------------------------------------------------------------ command


def write_index(folder: Path, videos: dict[str, Path], *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    rows = [f"{videos[name]},{i // 2 % 2},{('train', 'val')[i % 2]}" for i, name in enumerate(names)]
    index = folder / "my videos.csv"
    index.write_text("\n".join(["path,label,split", *rows, ""]))
    return index


def words(index: Path, root: Path, *more: str) -> list[str]:
    return ["data=csv", f"data.index='{index}'", f"paths.root='{root}'", "data.workers=0", *more]


def test_command(videos: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = write_index(tmp_path, videos, "vp9", "h264", "moving", "single")
    assert main(["check", *words(index, tmp_path / "out"), "--samples", "2", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("checking 4 files and folders of csv_my_videos with 1 threads\n")
    assert "csv_my_videos: 4 videos, 4 readable" in printed and "csv_my_videos: usable" in printed
    assert re.search(r"^speed    [\d.]+ videos/s, \d+ frames/s with 0 workers here \(2 timed\)", printed, re.MULTILINE)
    (folder,) = (tmp_path / "out" / "check").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["findings.csv", "leaks.csv", "report.html"]
    assert printed.endswith(f"wrote {folder / 'findings.csv'}, leaks.csv and report.html\n")
    assert len(read(folder / "findings.csv")) == 4


def test_two_lists_of_one_name_have_checks_of_their_own(videos: dict[str, Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        index = write_index(tmp_path / name, videos, "vp9", "h264", "moving", "single")
        assert main(["check", *words(index, tmp_path / "out"), "--no-timing"]) == 0
    folders = sorted((tmp_path / "out" / "check").iterdir())
    assert len(folders) == 2 and {path.name[:-8] for path in folders} == {"csv_my_videos-"}


@pytest.mark.parametrize("split", [0, 1])
def test_command_exits_with_1_where_a_run_would_suffer(
    videos: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], split: int
) -> None:
    names = ["vp9", "h264", "moving", "single"]
    names[split] = "bad"
    index = write_index(tmp_path, videos | {"bad": tmp_path / "gone.webm"}, *names)
    with pytest.raises(SystemExit) as caught:
        main(["check", *words(index, tmp_path)])
    assert caught.value.code == 1
    assert f"stops: missing in {('train', 'val')[split]}: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["data=csv"], "data=csv needs data.index="),
        (["data=nothing"], "data=nothing is unknown; use one of"),
        (["data=ssv2"], "root"),
        (["data.what=1"], "data.what"),
        (["modality=[sound]"], "modality 'sound' is unknown"),
        (["=="], "=="),
    ],
)
def test_command_mistakes_are_one_line(typed: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *typed]) == 2
    told = capsys.readouterr().err
    assert told.startswith("mml: error: ") and message in told and told.count("\n") == 1


def test_help_names_exit_codes_and_files(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    for word in ("Exit code 0", "1 if", "2 for", "findings.csv", "data.quarantine=ignore", "continues", "--no-timing"):
        assert word in told


def test_place_that_can_not_be_written(
    videos: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    index = write_index(tmp_path, videos, "vp9", "h264", "moving", "single")
    assert main(["check", *words(index, tmp_path / "file")]) == 2
    assert "set paths.root" in capsys.readouterr().err
