"""Submission files, read back by programs that know nothing of ours. Shapes: N videos, K classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mml_lightning.evaluation import submissions
from mml_lightning.evaluation.metrics import Scoring, measure
from mml_lightning.utils.errors import UserError


def official_map(lines: list[str], truth: dict[str, list[int]], classes: int) -> float:
    """The official rule in plain Python: -inf for who is not in the file, videos without a label not read."""
    told = {line.split()[0]: [float(word) for word in line.split()[1:]] for line in lines}
    assert all(len(row) == classes for row in told.values())
    silent = [-float("inf")] * classes
    precisions = []
    for k in range(classes):
        scores = [(told.get(video, silent) if labels else silent)[k] for video, labels in truth.items()]
        hits = [k in labels for labels in truth.values()]
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        found, total = 0, 0.0
        for place, i in enumerate(order, start=1):
            found += hits[i]
            total += hits[i] * found / place
        precisions.append(total / found)
    return 100 * sum(precisions) / classes


def test_the_official_rule_on_a_charades_file_gives_the_map_of_the_run(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = [f"V{i:03}" for i in range(60)]
    scores = torch.nn.functional.logsigmoid(torch.randn(60, 157, generator=generator, dtype=torch.float64) * 8)
    scores[::2] = scores[0]  # many ties
    target = (torch.rand(60, 157, generator=generator) < 0.1).float()
    target[0], target[5] = 1.0, 0.0
    assert submissions.write("charades", tmp_path / "out" / "charades.txt", ids, scores) == 60
    lines = (tmp_path / "out" / "charades.txt").read_text().splitlines()
    truth = {video: row.nonzero().flatten().tolist() for video, row in zip(ids, target, strict=True)}
    found = measure({"rgb": scores}, target, True, Scoring(ap="sequential"))["rgb"]["map"]
    assert official_map(lines, truth, 157) == pytest.approx(found, rel=1e-12)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["charades.txt"]


def test_something_something_takes_the_five_best_classes_best_first(tmp_path: Path) -> None:
    scores = torch.tensor([[0.0, 6, 5, 1, 3, 2, 4], [1.0, 1, 1, 1, 1, 1, 1]])
    submissions.write("ssv2", tmp_path / "test.csv", ["74225", "116154"], scores)
    assert (tmp_path / "test.csv").read_text() == "74225;1;2;6;4;5\n116154;0;1;2;3;4\n"


def test_videos_without_a_score_have_no_line(tmp_path: Path) -> None:
    scores = torch.eye(6)
    scores[2] = torch.nan
    assert submissions.write("ssv2", tmp_path / "test.csv", list("abcdef"), scores) == 5
    assert [line[0] for line in (tmp_path / "test.csv").read_text().splitlines()] == list("abdef")


def test_nothing_is_written_of_what_can_not_be(tmp_path: Path) -> None:
    for form, scores, message in (
        ("kinetics", torch.zeros(1, 9), "'kinetics' is unknown; use one of charades, ssv2"),
        ("ssv2", torch.zeros(1, 4), "lists five classes, the scores have 4"),
        ("charades", torch.full((1, 9), torch.nan), "no video has a score"),
    ):
        with pytest.raises(UserError, match=message):
            submissions.write(form, tmp_path / "out", ["a"], scores)
    assert list(tmp_path.iterdir()) == []
