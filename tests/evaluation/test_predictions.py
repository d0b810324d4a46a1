"""Score dumps: what is written is what is read, and dumps of several runs join by video id."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mml_lightning.evaluation import predictions
from mml_lightning.evaluation.metrics import Scoring
from mml_lightning.evaluation.predictions import Predictions
from mml_lightning.utils.errors import UserError

CLASSES = tuple("abcdefg")


def make(
    ids: tuple[str, ...] = ("v0", "v1", "v2", "v3"), *peers: str, seed: int = 0, several: bool = False, views: int = 2
) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    labels = {f"v{i}": i % 7 for i in range(50)}
    hot = torch.zeros(len(ids), 7)
    for row, video in enumerate(ids):
        hot[row, [labels[video], (labels[video] + 2) % 7]] = 1.0
    return Predictions(
        ids=ids,
        target=hot if several else torch.tensor([labels[video] for video in ids]),
        logits={peer: torch.randn(len(ids), views, 7, generator=generator) for peer in peers or ("rgb",)},
        classes=CLASSES,
        multi_label=several,
    )


@pytest.mark.parametrize("several", [False, True])
def test_a_dump_reads_back_as_it_was(tmp_path: Path, several: bool) -> None:
    dump = replace(
        make(several=several),
        split="val",
        scoring=Scoring("max", "logits", "sequential", "zero"),
        unreadable={"v9": "no video stream"},
        views={"name": "center", "crops": 1},
    )
    dump.save(tmp_path / "predictions" / "val.npz")
    again = predictions.load(tmp_path / "predictions" / "val.npz")
    assert torch.equal(again.target, dump.target) and torch.equal(again.logits["rgb"], dump.logits["rgb"])
    for name in ("ids", "classes", "multi_label", "split", "scoring", "unreadable", "views"):
        assert getattr(again, name) == getattr(dump, name), name
    assert again.metrics() == dump.metrics()
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["val.npz"]
    with np.load(tmp_path / "predictions" / "val.npz", allow_pickle=False) as plain:
        assert set(plain.files) == {"ids", "target", "classes", "meta", "logits/rgb"}
        assert plain["logits/rgb"].dtype == np.float32 and plain["classes"].tolist() == list(CLASSES)


def test_the_first_dumps_had_neither_classes_nor_choices(tmp_path: Path) -> None:
    file = tmp_path / "val.npz"
    logits = np.zeros((2, 1, 3), dtype=np.float32)
    np.savez_compressed(file, **{"ids": np.array(["a", "b"]), "target": np.array([0, 1]), "logits/rgb": logits})
    dump = predictions.load(file)
    assert (dump.classes, dump.multi_label, dump.split, dump.scoring) == (("0", "1", "2"), False, "val", Scoring())


def test_what_is_no_dump_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no score dump .*test\.npz; a finished run has predictions"):
        predictions.load(tmp_path / "test.npz")
    (tmp_path / "text.npz").write_text("id,score\n")
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    for name in ("text", "other"):
        with pytest.raises(UserError, match="is not a score dump of this program"):
            predictions.load(tmp_path / f"{name}.npz")


def test_dumps_join_by_id_whatever_their_order() -> None:
    rgb = make(("v0", "v1", "v2", "v3", "v4"), "rgb")
    flow = make(("v4", "v2", "v6", "v1", "v0"), "flow", seed=1, views=3)
    joined, alone = predictions.join([rgb, flow], ["A", "B"])
    assert joined.ids == ("v0", "v1", "v2", "v4") and alone == {"A": ["v3"], "B": ["v6"]}
    assert joined.target.tolist() == [0, 1, 2, 4]
    for row, video in enumerate(joined.ids):
        assert torch.equal(joined.logits["rgb"][row], rgb.logits["rgb"][rgb.ids.index(video)])
        assert torch.equal(joined.logits["flow"][row], flow.logits["flow"][flow.ids.index(video)])
    expected = (rgb.take(joined.ids).pooled["rgb"].exp() + flow.take(joined.ids).pooled["flow"].exp()) / 2
    torch.testing.assert_close(joined.pooled["ensemble"].exp(), expected)


def test_peers_of_one_name_are_told_apart_by_their_place() -> None:
    joined, alone = predictions.join([make(), make(seed=1), make(("v3", "v0", "v1", "v2"), "flow")], ["A", "B", "C"])
    assert list(joined.logits) == ["1:rgb", "2:rgb", "flow"] and alone == {}


@pytest.mark.parametrize("several", [False, True])
def test_dumps_that_do_not_fit_are_refused(several: bool) -> None:
    dump = make(several=several)
    wrong = replace(dump, target=dump.target.flip(0))
    with pytest.raises(UserError, match="A and B label video v0 differently"):
        predictions.join([dump, wrong], ["A", "B"])
    with pytest.raises(UserError, match="A and B have different classes"):
        predictions.join([dump, replace(dump, classes=CLASSES[::-1])], ["A", "B"])
    with pytest.raises(UserError, match="no video is in all of A, B"):
        predictions.join([dump, make(("v7", "v8"), several=several)], ["A", "B"])


@pytest.mark.parametrize("several", [False, True])
def test_a_label_that_one_dump_lacks_comes_from_the_other(several: bool) -> None:
    dump = make(several=several)
    unknown = replace(dump, target=torch.full_like(dump.target, -1))
    assert unknown.metrics() == {} and unknown.notes() == ["test: 4 of 4 videos have no label: not counted"]
    joined, _ = predictions.join([unknown, replace(dump, logits={"flow": dump.logits["rgb"]})], ["A", "B"])
    assert torch.equal(joined.target, dump.target)


def test_the_table_of_classes(tmp_path: Path) -> None:
    dump = make(("v0", "v1", "v7", "v3"), "rgb", "flow")  # class 0 twice; c, e, f and g never
    dump.save_by_class(tmp_path / "per_class.csv")
    with (tmp_path / "per_class.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["class"] for row in rows] == list(CLASSES)
    assert [int(row["videos"]) for row in rows] == [2, 1, 0, 1, 0, 0, 0]
    assert list(rows[0]) == ["class", "videos", "rgb", "flow", "ensemble"]
    assert {row["rgb"] for row in rows if row["videos"] == "0"} == {""}, "absent classes have no number"
    right = dump.pooled["rgb"].argmax(-1) == dump.target
    assert float(rows[0]["rgb"]) == 50.0 * int(right[0] + right[2].int())
    known = [float(row["rgb"]) for row in rows if row["rgb"]]
    assert np.mean(known) == pytest.approx(dump.metrics()["rgb"]["mean_class"], abs=1e-4)
    assert dump.notes() == ["test: 4 of 7 classes have no video, first 'c'; they are excluded from the mean"]


def test_notes_say_what_becomes_of_empty_classes() -> None:
    dump = make(tuple(f"v{i}" for i in range(7)), several=True)
    dump.target[:, 3] = 0
    for empty, text in (("drop", "excluded from the mean"), ("zero", "counts as 0"), ("nan", "not a number")):
        (note,) = replace(dump, scoring=Scoring(empty_class=empty)).notes()
        assert note.startswith("test: 1 of 7 classes have no video, first 'd'") and text in note
