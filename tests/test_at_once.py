"""Two of every command that writes, at once in one folder: what is there in the end is what one alone leaves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mml_lightning.utils.files import TEMPORARY
from tests.conftest import ROOT, assert_same_weights, command, environment

BUSY = 2  # exit code of a command that another process keeps from writing


def mml(*words: object) -> list[str]:
    return [sys.executable, "-m", "mml_lightning", *map(str, words)]


def at_once(*commands: list[str]) -> list[int]:
    """Start all of them, wait for all; their exit codes. None may say more than a line of what went wrong."""
    environ = environment(PYTHONPATH=str(ROOT))
    pipe = subprocess.PIPE
    started = [subprocess.Popen(words, env=environ, stdout=pipe, stderr=pipe, text=True) for words in commands]
    said = ["".join(process.communicate()) for process in started]
    assert not any("Traceback" in text for text in said), said
    codes = [process.returncode for process in started]
    assert all(code == 0 or text.count("error: ") == 1 for code, text in zip(codes, said, strict=True)), said
    return codes


def content(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    files = [path for path in folder.rglob(pattern) if path.is_file()]
    assert not [path for path in files if path.name.endswith((TEMPORARY, ".part", ".lock"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def videos(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words for a table of twelve videos of the demo."""
    folder = tmp_path_factory.mktemp("at_once")
    lines = ["id,path,label,split"]
    for number, file in enumerate(sorted((demo / "data/videos").iterdir())[:12]):
        split = ("train", "val", "test")[number % 3]
        lines.append(f"v{number},{file},class{number // 3 % 2},{split}")
    (folder / "videos.csv").write_text("\n".join(lines) + "\n")
    return ["data=csv", f"data.index={folder / 'videos.csv'}", "data.name=twelve"]


def test_flow_and_its_export(videos: list[str], tmp_path: Path) -> None:
    def words(place: str) -> list[str]:
        out = ("--workers", 1, "--export", tmp_path / place / "images", "--images", "png")
        return mml("flow", *videos, "flow.preset=ultrafast", f"paths.root={tmp_path / place}", *out)

    assert at_once(words("alone")) == [0]
    assert at_once(words("both"), words("both"), words("both")) == [0, 0, 0]
    alone, both = content(tmp_path / "alone"), content(tmp_path / "both")
    assert any(name.endswith(".npy") for name in alone) and any(name.endswith(".png") for name in alone)
    assert alone == both
    assert at_once(words("both")) == [0] and content(tmp_path / "both") == alone


def test_check(videos: list[str], tmp_path: Path) -> None:
    def words(place: str) -> list[str]:
        return mml("check", *videos, f"paths.root={tmp_path / place}", "--no-timing", "--threads", 1)

    (code,) = at_once(words("alone"))
    assert at_once(words("both"), words("both")) == [code, code]
    alone, both = (
        {name: text.replace(place.encode(), b"") for name, text in content(tmp_path / place).items()}
        for place in ("alone", "both")
    )
    named = {
        Path(name).name for name in alone if "videos" not in Path(name).parts
    }  # there: what is known of each video
    assert named == {"findings.csv", "leaks.csv", "report.html"}
    assert alone == both


def test_pack(videos: list[str], tmp_path: Path) -> None:
    """One at a time writes a pack; flow that both compute on the way is no matter of the other."""

    def words(place: str) -> list[str]:
        more = ("modality=[rgb,flow]", "flow.preset=ultrafast", f"paths.root={tmp_path}", "--out", tmp_path / place)
        return mml("pack", *videos, *more, "--workers", 1)

    assert at_once(words("alone")) == [0]
    assert sorted(at_once(words("both"), words("both"), words("another"))) in ([0, 0, 0], [0, 0, BUSY])
    assert content(tmp_path / "alone") == content(tmp_path / "both") == content(tmp_path / "another")


def test_report(tmp_path: Path) -> None:
    for seed in range(3):
        (folder := tmp_path / "runs" / str(seed)).mkdir(parents=True)
        told = {"schema": 1, "status": "completed", "name": "a", "seed": seed, "overrides": [f"seed={seed}"]}
        told |= {"metrics": {"test": {"rgb": {"top1": 10.0 * seed}}}}
        (folder / "result.json").write_text(json.dumps(told))
    at_once(mml("report", tmp_path / "runs"))
    alone = content(tmp_path / "runs", "table.*")
    for path in (tmp_path / "runs").glob("table.*"):
        path.unlink()
    assert at_once(*[mml("report", tmp_path / "runs")] * 3) == [0, 0, 0]
    assert len(alone) == 4 and content(tmp_path / "runs", "table.*") == alone


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(folder.rglob("result.json"))]


def check_run(folder: Path, alone: Path) -> None:
    """One run, whole: its networks, scores, rows and numbers are those of one that nobody disturbed."""
    told, wanted = (json.loads((place / "result.json").read_text()) for place in (folder, alone))
    for key in ("status", "metrics", "fingerprint", "steps", "overrides"):
        own = ("hydra.run.dir", "paths.root")
        one, two = ([w for w in t[key] if own[1] not in w] if key == "overrides" else t[key] for t in (told, wanted))
        assert one == two, key
    for peer in (alone / "peers").glob("*.pt"):
        assert_same_weights(peer, folder / "peers" / peer.name)
    assert content(folder / "logs") == content(alone / "logs")
    with np.load(folder / "predictions/test.npz") as one, np.load(alone / "predictions/test.npz") as two:
        assert all(np.array_equal(one[key], two[key]) for key in one.files)


def test_train_in_one_directory(small: list[str], tmp_path: Path) -> None:
    """The second is refused, or begins when the first has ended; nothing is mixed."""

    def words(place: str) -> list[str]:
        return command("train", *small, f"paths.root={tmp_path}", f"hydra.run.dir={tmp_path / place}", "name=mine")

    assert at_once(words("alone")) == [0]
    assert sorted(at_once(words("both"), words("both"))) in ([0, 0], [0, BUSY])
    check_run(tmp_path / "both", tmp_path / "alone")
    assert not (tmp_path / "both/.lock").exists()
    saved = (tmp_path / "both/.hydra/overrides.yaml").read_text()
    assert saved == (tmp_path / "alone/.hydra/overrides.yaml").read_text()


@pytest.mark.slow
def test_train_of_one_name(small: list[str], tmp_path: Path) -> None:
    """Each has a directory of its own, and the zoo holds one whole entry."""

    def words(place: str) -> list[str]:
        return command("train", *small, f"paths.root={tmp_path / place}", "name=mine")

    assert at_once(words("alone")) == [0]
    assert at_once(words("both"), words("both")) == [0, 0]
    (alone,) = (tmp_path / "alone/single").iterdir()
    runs = [*(tmp_path / "both/single").iterdir()]
    assert len(runs) == 2
    for run in runs:
        check_run(run, alone)
    zoos = [tmp_path / place / "zoo" for place in ("alone", "both")]
    assert [{*content(zoo)} for zoo in zoos] == [{*content(zoos[0])}] * 2
    for file in zoos[0].rglob("*.pt"):
        assert_same_weights(file, zoos[1] / file.relative_to(zoos[0]))


def table(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "table.json").read_text())["rows"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sweep", "pipeline"])
def test_many_runs(small: list[str], tmp_path: Path, kind: str) -> None:
    """Sweeps and pipelines of one name beside each other: all runs of each are there, with the numbers of one alone."""
    many = ["-m", "seed=0,1"] if kind == "sweep" else ["seeds=[0,1]"]

    def words(place: str) -> list[str]:
        return command("train", *many, *small, f"paths.root={tmp_path / place}", "name=mine")

    assert at_once(words("alone")) == [0]
    assert at_once(words("both"), words("both")) == [0, 0]
    place = "sweep" if kind == "sweep" else "single"
    (alone,) = (tmp_path / "alone" / place).iterdir()
    wanted = {told["seed"]: told["metrics"] for told in results(alone) if told.get("fingerprint")}
    assert len(wanted) == 2
    both = [*(tmp_path / "both" / place).iterdir()]
    assert len(both) == 2
    for folder in both:
        found = results(folder)
        assert {told["status"] for told in found} == {"completed"}
        assert {told["seed"]: told["metrics"] for told in found if told.get("fingerprint")} == wanted
        stamp = re.compile(r"\d{4}-\d\d-\d\d_[\d-]+")
        one, two = (stamp.sub("", (where / "table.md").read_text()) for where in (folder, alone))
        assert one == two
    for file in (tmp_path / "alone/zoo").rglob("*.pt"):
        assert_same_weights(file, tmp_path / "both/zoo" / file.relative_to(tmp_path / "alone/zoo"))
