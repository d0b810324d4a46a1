"""docs/plugins.md: its package and its configs, as they stand there, train, go on after a kill, and load again."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mml_lightning.config import data as config_data
from mml_lightning.config import plugins
from mml_lightning.config.objective import objective
from mml_lightning.config.peers import new_network
from mml_lightning.config.settings import Settings
from mml_lightning.objectives.lessons import LESSONS
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.result_file import read_result
from tests.conftest import ROOT, command, environment
from tests.patience import LONGEST, wait_for
from tests.test_readme import my_videos  # noqa: F401  # a fixture

Composed = Callable[..., tuple[Settings, list[str]]]
PAGE = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(?:python|yaml)\n# (?P<file>[\w./]+)\n(?P<text>.*?)```", re.DOTALL)
COMMAND = re.findall(r"```bash\n(mml train .*)\n```", PAGE)


def write_page(folder: Path) -> None:
    """The files of the page; blocks of one file are one file."""
    for match in BLOCK.finditer(PAGE):
        file = folder / match["file"]
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as handle:
            handle.write(match["text"])


@pytest.fixture
def own(tmp_path: Path, demo: Path, my_videos: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:  # noqa: F811
    """The words that the page types, and a list of the demo's videos as its reader has it."""
    write_page(tmp_path / "page")
    rows = [line.split(",") for line in my_videos.read_text().splitlines()[1:]]
    listed = tmp_path / "listed"
    listed.mkdir()
    for _, path, _, _ in rows:
        (listed / Path(path).name).symlink_to(path)
    lines = [f"{Path(path).name} {label.replace(' ', '_')} {split}" for _, path, label, split in rows]
    (listed / "list.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path / "page")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "page"))
    lessons = dict(LESSONS)
    (line,) = COMMAND
    typed = [word for word in line.split()[2:] if not word.startswith(("hydra.searchpath=", "data.root="))]
    yield [*typed, f"hydra.searchpath=[file://{tmp_path / 'page/my_conf'}]", f"data.root={listed}"]
    sys.modules.pop("my_package", None)
    LESSONS.clear()
    LESSONS.update(lessons)


@pytest.fixture
def short() -> list[str]:
    return [
        *("data.batch_size=8", "data.eval_batch_size=8", "sampling.num_segments=4", "trainer.num_threads=1"),
        *("transforms.output=32", "transforms.short_side=36", "trainer.accelerator=cpu", "backbone.net.width=8"),
    ]


def test_a_package_trains_is_killed_resumed_and_measured(
    own: list[str], short: list[str], tmp_path: Path, shell: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    run, folder = tmp_path / "single/run", next(word for word in own if word.startswith("hydra.searchpath="))
    trust = ("--set", "trusted=[my_package]")
    words = [*own, *short, f"paths.root={tmp_path}", "schedule.epochs=4", "callbacks.checkpoint_every_steps=1"]
    given = command("train", *words, f"hydra.run.dir={run}")
    process = subprocess.Popen(given, env=environment(), cwd=tmp_path, text=True, stderr=subprocess.PIPE)
    wait_for((run / "checkpoints/last.ckpt").exists, "a checkpoint", process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=LONGEST)
    assert (read_result(run) or {}).get("status") != "completed"
    untrusted = shell("train", f"resume={run}", folder, plain=True)
    assert untrusted.returncode == 2 and "type trusted=[my_package]" in untrusted.stderr + untrusted.stdout
    done = shell("train", f"resume={run}", folder, "trusted=[my_package]", plain=True)
    assert done.returncode == 0, done.stderr
    assert "rgb/agreement" in (run / "logs/metrics.csv").read_text()
    result = read_result(run) or {}
    assert result["status"] == "completed" and result["resumed"] and result["epochs"] == 4
    assert (run / "steps.txt").read_text() == "12\n", "the callback went on where its checkpoint was"
    assert " val/edges/top1 " in (run / "lines.txt").read_text()
    scored = module("predict", str(next((tmp_path / "listed").glob("*.mp4"))), f"--ckpt={run}", "--set", folder, *trust)
    assert scored.returncode == 0, scored.stderr
    assert "edges" in scored.stdout
    entry = torch.load(run / "peers/edges.pt", weights_only=True)
    assert (entry["arch"]["builder"], entry["arch"]["width"]) == ("my_package.my_net", 8)
    assert entry["modality"]["prepare"] == {"_target_": "my_package.edges", "_partial_": True, "gain": 2.0}
    measured = shell(
        "eval", f"ckpt={run}", folder, "trusted=[my_package]", f"hydra.run.dir={tmp_path / 'eval'}", plain=True
    )
    assert measured.returncode == 0, measured.stderr
    assert (read_result(tmp_path / "eval") or {})["metrics"] == {"test": result["metrics"]["test"]}
    refused = shell("eval", f"ckpt={run / 'peers/rgb.pt'}", folder, f"hydra.run.dir={tmp_path / 'no'}", plain=True)
    assert refused.returncode == 2 and "type trusted=[my_package]" in refused.stdout + refused.stderr


def test_an_own_graph_of_lessons_trains(
    own: list[str], tmp_path: Path, shell: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """With the command that stands below its yaml."""
    (line,) = re.findall(r"`mml train (.*objective=one_way)`", PAGE)
    folder = next(word for word in own if word.startswith("hydra.searchpath="))
    words = [word for word in line.split() if not word.startswith("hydra.searchpath=")]
    done = shell("train", folder, *words)
    assert done.returncode == 0, done.stderr
    assert "rgb/kd" in done.stdout + done.stderr and "flow/kd" not in done.stdout + done.stderr


def module(*words: str) -> subprocess.CompletedProcess[str]:
    """`mml` in a process of its own."""
    command = [sys.executable, "-m", "mml_lightning", *words]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LONGEST)


def composed_with(composed: Composed, *words: str) -> Settings:
    return composed("trusted=[my_package]", *words)[0]


def test_names_and_options_are_what_is_stored(own: list[str], composed: Composed) -> None:
    cfg = composed_with(composed, own[-2], "backbone=my_net", "backbone.net.width=4", "stage=ml")
    net = new_network(cfg, config_data.modalities(cfg)["rgb"], {"label": 3})
    assert net.arch == {"builder": "my_package.my_net", "width": 4, "in_channels": 3, "num_classes": {"label": 3}}
    again = plugins.network(net.arch, ["my_package"])
    assert [value.shape for value in again.state_dict().values()] == [v.shape for v in net.state_dict().values()]
    lesson = "{lesson:{_target_:my_package.agreement,power:3.0},weight:0.5}"
    graph = objective(composed_with(composed, "stage=ml", f"objective.edges=[{lesson}]"), ["rgb", "rgb_1"])
    assert [edge.term for edge in graph.edges] == ["agreement", "agreement"]
    assert graph.edges[0].options == {"power": 3.0}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("backbone.net._target_=my_package.MyTrunk", "unexpected keyword argument 'num_classes'"),
        ("backbone.net._target_=my_package.Path", "pathlib|configs may only call"),
        ("backbone.net._target_=my_package.nothing", "my_package.nothing can't be found"),
        ("backbone.net._target_=my_package.grown", "makes another network when it is called again"),
        ("backbone.net._target_=my_package.no_peer", "makes a Linear: a backbone is"),
        ("objective.edges=[{lesson:{_target_:my_package.agreement,pover:3}}]", "has no option 'pover'"),
        ("objective.edges=[{lesson:{power:3}}]", "must be a name or a table with _target_"),
        ("modality.rgb.prepare={_target_:my_package.classes}", "makes a list: for a function"),
        ("modality.rgb.prepare={gain:3}", "must be a name or a table with _target_"),
        ("modality.rgb.prepare={_target_:my_package.nothing}", "my_package.nothing can't be found"),
    ],
)
def test_a_mistake_is_one_line(
    own: list[str], word: str, message: str, tmp_path: Path, composed: Composed, train: Callable[..., object]
) -> None:
    with (tmp_path / "page/my_package.py").open("a") as handle:
        handle.write("\nSEEN = []\n\ndef grown(in_channels, num_classes, width):\n    SEEN.append(1)\n")
        handle.write("    return my_net(in_channels, num_classes, len(SEEN))\n\n")
        handle.write("def no_peer(in_channels, num_classes, width):\n    return nn.Linear(3, 3)\n\n")
        handle.write("def classes():\n    return []\n")
    mine = [own[-2], "backbone=my_net"] if word.startswith("backbone") else []
    with pytest.raises(UserError, match=message) as told:
        train("trusted=[my_package]", "stage=ml", "init=scratch", *mine, word)
    assert "\n" not in str(told.value)


MARKED = """
import os
from pathlib import Path
Path(__file__).with_name("ran").touch()
def call(*values, **options):
    os._exit(3)
"""
HEADS = {"in_channels": 3, "num_classes": {"label": 2}}


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that leaves a file where it is imported; `call` ends the process."""
    (tmp_path / "foreign_code.py").write_text(MARKED)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "ran"
    sys.modules.pop("foreign_code", None)


@pytest.mark.parametrize("trusted", [[], ["my_package"], ["foreign_cod"], ["foreign"]])
@pytest.mark.parametrize(
    "arch",
    [
        {"builder": "foreign_code.call"},
        {"builder": "foreign_code.call.x"},
        {"builder": "my_package.my_net", "trunk": {"_target_": "foreign_code.call"}},
        {"builder": "my_package.my_net", "_target_": "foreign_code.call"},
    ],
)
def test_weights_import_nothing_that_was_not_typed(
    own: list[str], foreign: Path, arch: dict[str, object], trusted: list[str]
) -> None:
    if "_target_" in arch and trusted == ["my_package"]:
        net = plugins.network({**arch, **HEADS}, trusted)  # what is called is the builder, whatever stands beside it
        assert type(net).__name__ == "MyPeer"
    else:
        with pytest.raises(UserError, match=r"trusted=\["):
            plugins.network({**arch, **HEADS}, trusted)
    assert not foreign.exists() and "foreign_code" not in sys.modules


@pytest.mark.parametrize("trusted", [[], ["my_package"]])
@pytest.mark.parametrize(
    "prepare",
    [
        {"_target_": "foreign_code.call"},
        {"_target_": "foreign_code.call", "_partial_": True},
        {"_target_": "my_package.edges", "_partial_": True, "gain": {"_target_": "foreign_code.call"}},
    ],
)
def test_a_modality_in_weights_imports_nothing_that_was_not_typed(
    own: list[str], foreign: Path, prepare: dict[str, object], trusted: list[str]
) -> None:
    values = {"name": "rgb", "source": "frames", "window": 1, "item_channels": 3, "prepare": prepare}
    with pytest.raises(UserError, match=r"rgb: .*trusted=\["):
        plugins.stored_modality("rgb", values, trusted)
    assert not foreign.exists() and "foreign_code" not in sys.modules


def test_what_a_trusted_package_has_imported_is_not_its_own(own: list[str], foreign: Path, tmp_path: Path) -> None:
    with (tmp_path / "page/my_package.py").open("a") as handle:
        handle.write("\nimport subprocess\nfrom os import system\n")
    for name in ("my_package.subprocess.run", "my_package.system", "my_package.Path.touch"):
        with pytest.raises(UserError, match="configs may only call my_package"):
            plugins.network({"builder": name, **HEADS}, ["my_package"])
