"""README and docs/commands.md: every command of their tables is run, in small form; the marked blocks are what
`.ci/run` executes."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mml_lightning.backbones.resnet import resnet
from tests.conftest import ROOT, environment
from tests.patience import LONGEST
from tests.tiny import charades

README = (ROOT / "README.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| ([^|]+) \| `([^`]+)` \|$", re.MULTILINE)
ROWS = ROW.findall((ROOT / "docs" / "commands.md").read_text(encoding="utf-8"))
DEMO_ONLY = ("data.videos.", "data.root=")


def test_table_has_the_commands_that_are_run_below():
    """Those of README are among them, word for word; every row of the page is one of them."""
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert len(ROWS) == sum(line.startswith("| ") for line in page.splitlines()) - 1  # the head of the table
    short = [command for _, command in ROW.findall(README)]
    assert len(short) == 6 and set(short) <= {command for _, command in ROWS}


def test_readme_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) < 120
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_marked_blocks_are_complete_by_themselves():
    spec = importlib.util.spec_from_file_location("readme_commands", ROOT / ".ci" / "readme_commands.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    blocks = module.blocks(README)
    assert set(blocks) == {"setup", "test"}
    for block in blocks.values():
        assert "python3 -m venv .venv" in block and "constraints.txt" in block
    for broken in ("<!-- ci:x -->\ntext", "<!-- ci:x -->\n```bash\n\n```\n", "<!-- ci:x -->\n```bash\na\n```\n" * 2):
        with pytest.raises(ValueError, match="ci:x"):
            module.blocks(broken)


@pytest.fixture
def my_videos(demo: Path, tmp_path: Path) -> Path:
    annotations = demo / "data" / "annotations"
    rows = [
        (row["id"], row["template"].replace("[", "").replace("]", ""), split)  # as the answers of test have it
        for split, file in (("train", "train"), ("val", "validation"))
        for row in json.loads((annotations / f"{file}.json").read_text())
    ]
    with (annotations / "test-answers.csv").open() as handle:
        rows += [(row[0], row[1], "test") for row in csv.reader(handle, delimiter=";")]
    paths = {path.stem: path for path in (demo / "data" / "videos").iterdir()}
    file = tmp_path / "my_videos.csv"
    with file.open("w", newline="") as handle:
        csv.writer(handle).writerows(
            [("id", "path", "label", "split"), *((i, paths[i], label, split) for i, label, split in rows)]
        )
    return file


@pytest.mark.slow
def test_every_command_of_the_table_runs(small: list[str], demo: Path, my_videos: Path, tmp_path: Path):
    charades(tmp_path / "charades")
    theirs = resnet(18).state_dict() | {"fc.weight": torch.randn(1000, 512), "fc.bias": torch.randn(1000)}
    torch.save(theirs, tmp_path / "resnet18.pth")
    (tmp_path / "clips").mkdir()
    for video in sorted((demo / "data" / "videos").iterdir())[:5]:
        (tmp_path / "clips" / video.name).symlink_to(video)
    for what, text in ROWS:
        if text.startswith("mml export") and importlib.util.find_spec("onnxruntime") is None:
            text = f"{text} --format torch"  # what ONNX needs is an extra
        words = [filled(word, demo, tmp_path) for word in shlex.split(text)]
        done = run(words, small, demo, tmp_path)
        assert done.returncode == 0, f"{what}: {text}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, what
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 6 and (tmp_path / "model" / "infer.py").is_file()


def filled(word: str, demo: Path, root: Path) -> str:
    """A word of the table with its placeholder filled in from what the commands above it have left."""
    runs = sorted((root / "multirun" / "single").glob("*_ce_rgb_from_scratch"))
    tables = sorted((root / "multirun" / "sweep").glob("*/table.json"), key=lambda file: file.stat().st_size)
    word = word.replace("/data/ssv2", str(demo / "data")).replace("/data/charades", str(root / "charades"))
    if "<run>" in word:
        word = word.replace("multirun/single/<run>", str(runs[0]))
    if "<online_run>" in word:
        (online,) = (one for one in runs if "shift=online" in (one / ".hydra" / "overrides.yaml").read_text())
        word = word.replace("multirun/single/<online_run>", str(online))
    if word == "clip.mp4":
        word = str(min((demo / "data" / "videos").iterdir()))
    if "<flow_run>" in word:
        flow = sorted((root / "multirun" / "single").glob("*_ce_flow_from_scratch"))
        word = word.replace("multirun/single/<flow_run>", str(flow[0]))
    if "<sweep>" in word:
        word = word.replace("multirun/sweep/<sweep>", str(tables[-1].parent))  # the one with most to tell
    if word in ("<row A>", "<row B>"):
        rows = json.loads(tables[-1].read_text())["rows"]
        return str(rows[0 if word == "<row A>" else 1]["name"])
    return word


def run(words: list[str], small: list[str], demo: Path, root: Path) -> subprocess.CompletedProcess[str]:
    """The command with small settings, in `root`, where its multirun/ goes."""
    cache = [word for word in small if word.startswith("paths.cache=")]  # elsewhere: a run is not trusted with that
    if words[0] == "mml":
        given = [sys.executable, "-m", "mml_lightning", *words[1:], *(cache if words[1] == "rerun" else ())]
    else:
        settings = [
            s
            for s in small
            if not {"data=csv", "setup=finetune", "setup=ssv2", "setup=charades"} & set(words)
            or not s.startswith(DEMO_ONLY)
        ]
        if "setup=ssv2" in words:
            settings += [
                "init.base=scratch",
                "trainer=smoke",
                "trainer.accelerator=cpu",
                "trainer.num_threads=1",
                "flow=dis",
            ]
        if "setup=finetune" in words:
            settings = [s for s in settings if not s.startswith("backbone.net.width")]
        if "setup=charades" in words:
            settings = [s for s in settings if not s.startswith("backbone.net.width")]
            settings += [
                "init.base=scratch",
                "backbone=i3d_tiny",
                "trainer=smoke",
                "trainer.accelerator=cpu",
                "views=center",
            ]
        if any(word.startswith("seeds=") for word in words):
            settings.append(
                "pipeline.dry=true"
            )  # planned in full; tests/report/test_paper_table.py and tests/pipelines train
        if any(word.startswith(("resume=", "ckpt=multirun", f"ckpt={root}")) for word in words):
            settings = cache  # the run brings the others
        given = [sys.executable, str(ROOT / words[1]), *words[2:], *settings]
    kept = environment(PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    if "serve" in words:
        return served([*given, "--port", "0"], kept, root)
    return subprocess.run(given, capture_output=True, text=True, env=kept, cwd=root, timeout=LONGEST)


def served(given: list[str], kept: dict[str, str], root: Path) -> subprocess.CompletedProcess[str]:
    """What runs until it is ended, which happens when it says that it is there."""
    pipe = subprocess.PIPE
    with subprocess.Popen(given, stdout=pipe, stderr=pipe, text=True, env=kept, cwd=root) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.terminate()
        rest, errors = process.communicate(timeout=LONGEST)
    assert "http://" in first, (first, errors)
    return subprocess.CompletedProcess(given, process.returncode, first + rest, errors)
