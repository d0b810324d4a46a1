"""The comparison of engines: one row each, measured on pairs whose motion is known."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from mml_lightning.benchmarks.flow import compare, error_maps
from mml_lightning.optical_flow import MOTIONS
from mml_lightning.utils.errors import UserError


def test_rows_of_engines() -> None:
    rounds: list[str] = []
    threads = torch.get_num_threads()
    motions = {name: MOTIONS[name] for name in ("translation", "zoom")}
    engines = ["tvl1-fast", "dis-ultrafast", "dis", "mv-h264", "mv-mpeg4", "still"]
    (one, first), (two, rows) = compare(
        engines, motions, seeds=(1, 2), size=(96, 128), repeats=2, advance=rounds.append
    )
    assert (one, two) == (1, 2), "each round is told when it is whole"
    assert all(row.milliseconds <= before.milliseconds for row, before in zip(rows, first, strict=True))
    assert [row.engine for row in rows] == engines and rounds == engines * 2
    assert torch.get_num_threads() == threads
    errors = {row.engine: row.errors for row in rows}
    assert all(0 < row.milliseconds < 1e5 and set(row.errors) == set(motions) for row in rows)
    assert errors["tvl1-fast"]["translation"] < errors["dis"]["translation"] < errors["dis-ultrafast"]["translation"]
    for name in ("mv-h264", "mv-mpeg4"):
        assert all(errors[name][motion] < 0.5 * errors["still"][motion] for motion in motions), "coarse, but motion"
    assert errors["still"]["translation"] == pytest.approx(np.hypot(3.4, 2.1), abs=0.01)


@pytest.mark.parametrize(("engine", "message"), [("mv", "use mv-h264 or mv-mpeg4"), ("raft-x", "use one of")])
def test_engines_that_can_t_be_measured(engine: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        next(compare([engine], {}, seeds=()))
    with pytest.raises(UserError, match="even sides"):
        next(compare(["mv-h264"], {"zoom": MOTIONS["zoom"]}, seeds=(1,), size=(61, 80)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engines", "dis-fast,raft-x"], "--engines raft-x is unknown; use one of ['tvl1-paper',"),
        (["--engines", "dis-fast", "--reference", "still"], "--reference still is not among the engines"),
        (["--engines", "dis-fast", "--batch", "8"], "--batch N is for 1 pair or more of tvl1 engines"),
        (["--batch", "0"], "--batch N is for 1 pair or more of tvl1 engines"),
    ],
)
def test_mistakes_are_told_before_anything_is_imported(words: list[str], message: str) -> None:
    code = (
        f"import sys; from mml_lightning.cli.main import main; main(['bench', 'flow', *{words}]); print(*sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert message in told.stderr and not {"torch", "numpy", "cv2"} & set(told.stdout.split())


def test_error_maps_are_an_image_and_a_map_per_engine() -> None:
    picture = error_maps(["dis-ultrafast", "dis-medium"], motions=["rotation"])
    assert picture.shape == (128, 3 * 170) and picture.dtype == np.uint8
    image, rough, fine = np.split(picture.astype(int), 3, axis=1)
    assert image.std() > 20 and rough[16:-16, 16:-16].mean() > fine[16:-16, 16:-16].mean() > 1
