"""`mml errors`: a page of a real run with its pictures, comparisons of runs, and mistakes told in one line."""

from __future__ import annotations

import csv
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mml_lightning.cli.main import main
from mml_lightning.evaluation import predictions
from mml_lightning.evaluation.predictions import Predictions
from tests.evaluation.test_errors import IDS, good

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """A run directory that holds a dump and nothing else."""

    def make(dump: Predictions, name: str = "run", file: str = "test") -> Path:
        dump.save(tmp_path / name / "predictions" / f"{file}.npz")
        return tmp_path / name

    return make


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line that a wrong command gets."""
    capsys.readouterr()
    assert main(["errors", *map(str, words)]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and told.err.startswith("mml: error: ")
    return told.err


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_page_of_a_run_with_what_its_networks_saw(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["errors", str(trained), "--out", str(tmp_path / "new" / "e"), "--worst", "3"]) == 0
    told = capsys.readouterr().out
    dump = predictions.load(trained / "predictions" / "test.npz")
    top1 = dump.metrics()["fused"]["top1"]
    wrong = round(len(dump.ids) * (1 - top1 / 100))
    assert f"fused: {wrong} of {len(dump.ids)} videos of test wrong" in told and f"wrote {tmp_path}" in told
    page = (tmp_path / "new" / "e" / "test.html").read_text()
    pictures = re.findall(r"\.(p\d+)\{background-image:url\(data:image/jpeg;base64,/9j/", page)
    assert pictures and len(pictures) % 2 == 0 and all(f'class="strip {name}"' in page for name in pictures)
    assert "MB of pictures, of at most 8 (--pictures-mb)" in page
    assert not re.search(r"(src|href)=\"?(http|/|file)", page) and "@import" not in page
    table = rows(tmp_path / "new" / "e" / "test.csv")
    assert [row["id"] for row in table] == list(dump.ids)
    assert sum(row["fused correct"] == "0" for row in table) == wrong
    names = sorted(path.name for path in (tmp_path / "new" / "e").iterdir())
    assert names == ["test.csv", "test.html", "test_classes.csv", "test_confusion.csv"]
    assert not (trained / "errors").exists()


def test_pictures_are_optional_and_a_peer_is_chosen(save: Save, capsys: pytest.CaptureFixture[str]) -> None:
    run = save(good())
    assert main(["errors", str(run), "--peer", "flow"]) == 0
    assert "no pictures: " in capsys.readouterr().out  # nothing tells its data
    assert main(["errors", str(run / "predictions" / "test.npz"), "--peer", "flow", "--pictures-mb", "0"]) == 0
    assert "no pictures" not in capsys.readouterr().out
    page = (run / "errors" / "test.html").read_text()
    assert "<b>flow</b>" in page and "data:image" not in page


@pytest.mark.parametrize("several", [False, True])
def test_against_another_run(save: Save, several: bool, capsys: pytest.CaptureFixture[str]) -> None:
    before = save(good(1, several, ("rgb",)).take(IDS[4:]), "before")
    now = save(good(2, several, ("rgb", "flow")), "now")
    assert main(["errors", str(now), "--peer", "flow", "--against", str(before), "--pictures-mb", "0"]) == 0
    told = capsys.readouterr().out
    assert "has no output flow: rgb is compared" in told and "4 videos (v0, v1, v2, v3) of" in told
    page = (now / "errors" / "test.html").read_text()
    assert "flow of now against rgb of before on 36 videos that both have" in page
    changed = [row["change"] for row in rows(now / "errors" / "test.csv")]
    assert changed[:4] == [""] * 4 and {"better", "worse"} <= set(changed)


def test_videos_without_scores_and_labels_are_told(save: Save) -> None:
    dump = good()
    target = dump.target.clone()
    target[:2] = -1
    run = save(replace(dump, target=target, unreadable={"broken": "no video stream"}))
    assert main(["errors", str(run), "--pictures-mb", "0"]) == 0
    page = (run / "errors" / "test.html").read_text()
    assert "test: 2 of 40 videos have no label: not counted" in page and "1 video (broken)" in page
    assert rows(run / "errors" / "test.csv")[-1]["error"] == "no video stream"


def test_wrong_paths_and_missing_scores(
    save: Save, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "there is no nowhere; give a run directory" in refused(capsys, "nowhere")
    assert "no scores of the split val (found: test)" in refused(capsys, save(good()), "--split", "val")
    (tmp_path / "text.npz").write_text("id,score\n")
    assert "is not a score dump" in refused(capsys, tmp_path / "text.npz")
    unmeasured = tmp_path / "unmeasured"
    shutil.copytree(trained / "peers", unmeasured / "peers")
    told = refused(capsys, unmeasured)
    assert f"eval ckpt={unmeasured} split=test, and give" in told.replace("eval.py ", "eval ")
    (tmp_path / "unfinished" / "checkpoints").mkdir(parents=True)
    assert "did not finish: " in (told := refused(capsys, tmp_path / "unfinished")) and "resume=" in told
    save(good(), "pipeline/1_ce_rgb"), save(good(), "pipeline/2_mml")
    assert "holds several runs; give one of them: 1_ce_rgb, 2_mml" in refused(capsys, tmp_path / "pipeline")
    two = save(good(), "two", "test_verb"), save(good(), "two", "test_noun")
    assert "has several heads; give one file" in refused(capsys, two[0])
    assert main(["errors", str(two[0] / "predictions" / "test_noun.npz"), "--pictures-mb", "0"]) == 0
    assert (two[0] / "errors" / "test_noun.html").is_file()


def test_wrong_options(save: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = save(good())
    assert "no output audio; use one of rgb, flow, ensemble" in refused(capsys, run, "--peer", "audio")
    assert "--worst 0 must be 1 or more" in refused(capsys, run, "--worst", 0)
    assert "--pictures-mb -1 must be" in refused(capsys, run, "--pictures-mb", -1)
    assert "--pictures-mb nan must be" in refused(capsys, run, "--pictures-mb", "nan")
    assert "--set data.root: write it as KEY=VALUE" in refused(capsys, run, "--set", "data.root")
    assert "is the run itself" in refused(capsys, run, "--against", run)
    other = save(replace(good(), classes=tuple("hijklmn")), "other")
    assert "different classes" in refused(capsys, run, "--against", other)
    blank = save(replace(good(), target=torch.full((40,), -1)), "blank")
    assert "both a label and scores of ensemble" in refused(capsys, blank)
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "can't write the errors to" in refused(capsys, run, "--out", out)
    assert (tmp_path / "file").read_text() == "mine" and not (run / "errors").exists()
    (tmp_path / "elsewhere").mkdir()
    (run / "errors").symlink_to(tmp_path / "elsewhere")
    assert "is a link to another place; say with --out" in refused(capsys, run)
    assert not list((tmp_path / "elsewhere").iterdir())


@contextmanager
def room(size: int) -> Iterator[None]:
    """Files of this process can't grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_without_room_nothing_is_written(save: Save, capsys: pytest.CaptureFixture[str]) -> None:
    run = save(good())
    with room(6000):
        told = refused(capsys, run, "--pictures-mb", "0")
    assert "can't write the errors to" in told and not (run / "errors").exists()
    assert main(["errors", str(run), "--pictures-mb", "0"]) == 0
    before = {path.name: path.read_bytes() for path in (run / "errors").iterdir()}
    with room(6000):
        refused(capsys, run, "--peer", "flow", "--pictures-mb", "0")
    assert {path.name: path.read_bytes() for path in (run / "errors").iterdir()} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_can_not_be_written(save: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    assert "can't be written to; give another --out" in refused(
        capsys, save(good()), "--out", tmp_path / "shut" / "e", "--pictures-mb", "0"
    )
