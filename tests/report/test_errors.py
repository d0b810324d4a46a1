"""The page of errors: counts that add up, links that lead somewhere, and nothing from outside."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser

import pytest
import torch

from mml_lightning.evaluation import errors as evaluation
from mml_lightning.evaluation.predictions import Predictions
from mml_lightning.report.confusion import worst_classes
from mml_lightning.report.errors import Findings, class_rows, confusion_rows, to_csv, video_rows
from mml_lightning.report.errors_page import ErrorsPage
from tests.evaluation.test_errors import IDS, good

EVIL = "<script>alert('x')</script>"


@dataclass(frozen=True)
class Picture:
    modality: str = "rgb"
    jpeg: bytes = b"\xff\xd8 no picture"
    width: int = 128
    height: int = 32


class Reader(HTMLParser):
    """What stands in a page: ids, links, every address, tags that are open."""

    VOID = ("meta", "br", "rect", "line")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.strips = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.ids += [told["id"]] if told.get("id") else []  # type: ignore[list-item]
        self.links += [told["href"]] if tag == "a" and "href" in told else []  # type: ignore[list-item]
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "data", "action", "srcset")]
        self.strips += "strip" in (told.get("class") or "").split()
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def whole(found: Findings) -> str:
    strips = {video: [Picture(), Picture("flow")] for video in found.videos()}
    return ErrorsPage(found, strips).html("Errors of a run", ["a line"])


def evil(dump: Predictions) -> Predictions:
    """With names that would be code."""
    return replace(dump, ids=(EVIL, *dump.ids[1:]), classes=(f"a{EVIL}", *dump.classes[1:]))


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("peers", [("rgb",), ("rgb", "flow", "fused")])
def test_page_is_whole_and_needs_nothing(several: bool, peers: tuple[str, ...]) -> None:
    dump = evil(good(several=several, peers=peers))
    other = evil(good(1, several))
    change = evaluation.compare(evaluation.judge(other, "rgb"), evaluation.judge(dump, "rgb"), (EVIL, "now"), 4)
    page = whole(Findings(dump, "rgb", 4, change, [EVIL]))
    read = Reader(page)
    assert not read.open and len(set(read.ids)) == len(read.ids)
    assert {link for link in read.links if not link.startswith("#")} == set()
    assert {link[1:] for link in read.links} <= set(read.ids)
    assert set(read.addresses) == set(read.links)
    assert all(url.startswith("data:image/jpeg;base64,") for url in re.findall(r"url\(([^)]*)", page))
    assert EVIL not in page and "&lt;script&gt;" in page
    assert read.strips and page.count("data:image") == 2 * len(Findings(dump, "rgb", 4, change).videos())
    for name in ("Outputs", "Classes", "Mistakes", "Changes", "Co-occurrence" if several else "Confusion"):
        assert f"<h2>{name}</h2>" in page
    assert ("<h2>Networks</h2>" in page) == (len(peers) > 1)


def test_cards_tell_all_labels_where_there_are_several() -> None:
    dump = good(several=True)
    case = Findings(dump, "rgb", 1).mistakes["false positives"][0]
    names = [name for name, label in zip(dump.classes, dump.target[dump.ids.index(case.video)], strict=True) if label]
    card = re.sub(r"<a [^>]*>|</a>", "", whole(Findings(dump, "rgb", 1)))
    assert f"labels: {', '.join(names)}</small>" in card and "labels: " not in whole(Findings(good(), "rgb", 1))


def test_matrix_counts_every_video_once() -> None:
    found = Findings(good(), "flow", 5)
    titles = re.findall(r"<title>label (\w), predicted (\w): (\d+)</title>", whole(found))
    assert sum(int(count) for *_, count in titles) == 40
    assert sum(int(count) for label, predicted, count in titles if label != predicted) == found.judged.wrong
    assert sum(row["videos"] for row in confusion_rows(found)) == 40


def test_a_perfect_run_has_a_page_too() -> None:
    dump = good()
    logits = 50.0 * torch.nn.functional.one_hot(dump.target, 7)[:, None].float()
    page = whole(Findings(replace(dump, logits={"rgb": logits}), "rgb", 5))
    assert not Reader(page).open and "<p>None.</p>" in page and "Confused classes" not in page


def test_matrix_of_many_classes_shows_those_with_most_mistakes() -> None:
    counts = torch.eye(100, dtype=torch.int64) * 9
    counts[3, 70] = counts[50, 3] = 5
    assert worst_classes(counts, 3) == [3, 50, 70] and worst_classes(counts, None) == list(range(100))
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(60, (200,), generator=generator)
    logits = {"rgb": torch.randn(200, 1, 60, generator=generator)}
    dump = Predictions(tuple(map(str, range(200))), target, logits, tuple(f"class{k}" for k in range(60)))
    found = Findings(dump, "rgb", 5)
    assert "40 of 60 classes, those with the most mistakes; --confusion shows all" in ErrorsPage(found, {}).html(
        "x", []
    )
    page = ErrorsPage(found, {}, whole=True).html("x", [])
    titles = re.findall(r"<title>label class(\d+), predicted class(\d+): (\d+)</title>", page)
    assert "--confusion" not in page and sum(int(count) for *_, count in titles) == 200


def test_lists_take_turns_for_the_room_of_pictures() -> None:
    found = Findings(good(), "rgb", 6)
    first = [found.mistakes["wrong class"][0].video, found.suspects[0].video]
    assert found.videos()[: len(set(first))] == list(dict.fromkeys(first))
    assert len(set(found.videos())) == len(found.videos())


@pytest.mark.parametrize("several", [False, True])
def test_csv_has_every_video(several: bool) -> None:
    dump = good(several=several)
    target = dump.target.clone()
    target[3] = -1
    dump = replace(dump, target=target, unreadable={"broken": "no video stream"})
    found = Findings(dump, "rgb", 5)
    rows = list(csv.DictReader(io.StringIO(to_csv(video_rows(found, {"v0": "better"})))))
    assert [row["id"] for row in rows] == [*IDS, "broken"] and rows[-1]["error"] == "no video stream"
    assert rows[0]["change"] == "better" and rows[3]["label"] == rows[3]["rgb predicted"] == ""
    wrong = 0
    for row, labels in zip(rows[:-1], target, strict=True):
        given = [labels.item()] if not several else (labels > 0).nonzero()[:, 0].tolist()
        given = [k for k in given if labels.max() >= 0]
        assert row["label"] == "; ".join(dump.classes[k] for k in given)
        if given:
            hits = set(row["rgb predicted"].split("; ")) & {dump.classes[k] for k in given}
            assert row["rgb correct"] == (f"{len(hits)} of {len(given)}" if several else str(len(hits)))
            wrong += len(hits) < len(given)
    assert wrong == found.judged.wrong
    suspected = {row["id"] for row in rows if row["suspect label"]}
    assert suspected == {case.video for case in found.suspects}


def test_classes_have_the_numbers_of_the_metrics() -> None:
    dump = good()
    rows = class_rows(Findings(dump, "rgb", 5))
    assert [row["class"] for row in rows] == list(dump.classes) and sum(row["predicted"] for row in rows) == 40
    assert all(row["recall"] == row["rgb accuracy"] for row in rows)
    mean = sum(row["flow accuracy"] for row in rows) / 7
    assert mean == pytest.approx(dump.metrics()["flow"]["mean_class"], abs=1e-3)
