"""The demo with several labels a video: which motions run, that one frame tells neither them nor their number."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mml_lightning.data.demo import CLASSES, LEFT_RIGHT, prepare_demo
from mml_lightning.data.demo.render import Pose, poses
from mml_lightning.data.demo.scenes import ANGLE, GAP, MOTIONS, SIZE, Video, X, Y, plan
from mml_lightning.data.records.readers import read_demo
from mml_lightning.utils.errors import UserError

SIZES = {"train": 24, "val": 11, "test": 11}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_demo(tmp_path_factory.mktemp("multilabel"), motions=2, **SIZES, workers=1, progress=False)


def quantities(a: Pose, b: Pose) -> np.ndarray:
    """x, y, log size, angle, separation of both things together."""
    found = np.zeros(5)
    found[X], found[Y] = a.x + b.x, a.y + b.y
    found[SIZE], found[ANGLE], found[GAP] = math.log(a.radius), a.angle, math.hypot(a.x - b.x, a.y - b.y)
    return found


def test_labels_are_motions_of_different_quantities() -> None:
    videos = plan(0, 300, 50, 50, motions=3)
    assert Counter(len(v.labels) for v in videos).keys() == {1, 2, 3} and {v.clocks for v in videos} == {3}
    assert all(len({MOTIONS[label][0] for label in v.labels}) == len(v.labels) for v in videos)
    counts = Counter(label for v in videos for label in v.labels)
    assert counts.keys() == set(range(len(CLASSES))) and min(counts.values()) > 50
    assert plan(0, 300, 50, 50, motions=3) == videos != plan(1, 300, 50, 50, motions=3)


def test_each_label_moves_its_quantity_and_nothing_else_moves() -> None:
    for video in plan(0, 40, 0, 0, motions=3):
        path = [
            quantities(a, b) for a, b in zip(*poses(np.random.default_rng([*video.entropy, 1]), video), strict=True)
        ]
        changes = np.diff(np.array(path), axis=0)
        moved = {MOTIONS[label][0]: MOTIONS[label][1] for label in video.labels}
        still = [quantity for quantity in range(5) if quantity not in moved]
        assert np.abs(changes[:, still]).max(initial=0) < 1e-9
        for quantity, direction in moved.items():
            forward = np.sign(changes[:, quantity]) == direction
            assert forward.sum() >= len(changes) - 2  # at most two rebirths


def test_one_frame_tells_neither_the_labels_nor_their_number() -> None:
    """Kolmogorov-Smirnov distances of every quantity and of the opacity, between sets of labels."""
    sets, count = ((0,), (1,), (0, 2), (1, 5), (0, 3, 4), (6, 8)), 400
    by_set = []
    for n, labels in enumerate(sets):
        rows = []
        for i in range(count):
            video = Video("0", "train", labels, ("a flag", "a fish"), (7, n, i), "vp9", 112, 88, 25, 32, False, 3)
            a, b = (path[16] for path in poses(np.random.default_rng([*video.entropy, 1]), video))
            rows.append([*quantities(a, b), a.opacity])
        by_set.append(np.sort(np.array(rows), axis=0))
    for quantity in range(6):
        for p, first in enumerate(by_set):
            for second in by_set[:p]:
                grid = np.concatenate((first[:, quantity], second[:, quantity]))
                below = [np.searchsorted(rows[:, quantity], grid, "right") for rows in (first, second)]
                assert np.abs(below[0] - below[1]).max() / count < 2.3 * math.sqrt(2 / count)


def test_it_is_read_as_a_multi_label_dataset(root: Path) -> None:
    data = read_demo("demo_multilabel", str(root), motions=2, **SIZES)
    head = data.heads["label"]
    assert head.multi_label and set(head.classes) == set(CLASSES)
    planned = {v.id: v for v in plan(0, **SIZES, motions=2)}
    seen = [record for split in ("train", "val", "test") for record in data.splits[split]]
    assert {split: len(records) for split, records in data.splits.items()} == SIZES
    for record in seen:
        video = planned[record.id]
        assert {head.classes[k] for k in record.target["label"]} == {CLASSES[k] for k in video.labels}  # type: ignore[union-attr]
        assert record.media["frames"] == root / "videos" / video.name
    mirrored = {head.classes[a]: head.classes[b] for a, b in data.mirrored["label"].items()}
    assert mirrored == {CLASSES[a]: CLASSES[b] for a, b in LEFT_RIGHT.items()}


def test_the_kinds_of_demo_do_not_mix(root: Path) -> None:
    with pytest.raises(UserError, match=r"was made with .*motions=2, not .*; delete that folder or set data\.root"):
        prepare_demo(root, **SIZES)
    with pytest.raises(UserError, match=r"motions=6 must be 1 to 5"):
        prepare_demo(root, motions=6)


def test_mutual_learning_of_several_labels(train: Callable[..., dict[str, Any]], root: Path) -> None:
    given = ("setup=demo_multilabel", "data.reader.motions=2", f"data.root={root}")
    result = train(*given, "stage=mml", "modality=[rgb,rgbdiff]", "schedule.epochs=1")
    assert result["setup"] == "demo_multilabel" and set(result["metrics"]["test"]) == {"rgb", "rgbdiff", "ensemble"}
    assert 0 < result["metrics"]["test"]["rgb"]["map"] <= 100
