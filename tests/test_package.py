"""The wheel: built from a copy of the checkout, installed into a fresh environment, used in an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import CONF, ROOT, environment
from tests.patience import LONGEST
from tests.test_api import BLOCKS as PYTHON
from tests.test_plugins import write_page

pytestmark = pytest.mark.slow
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the checkout holds: building leaves folders behind."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("mml_lightning", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "eval.py", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def built(kind: str, source: Path, out: Path) -> Path:
    out.mkdir()
    words = [sys.executable, "-c", BUILD.format(kind=kind), str(out)]
    done = subprocess.run(words, cwd=source, capture_output=True, text=True, timeout=LONGEST)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (source / "build/lib/mml_lightning/conf").mkdir(parents=True)
    (source / "build/lib/mml_lightning/conf/left_over.yaml").write_text("x: 1\n")  # by the build of an earlier version
    return built("wheel", source, tmp_path_factory.mktemp("wheel") / "dist")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a new environment with the wheel, which borrows all other packages from this one: nothing is downloaded,
    and of this checkout nothing is found."""
    place = tmp_path_factory.mktemp("env")
    venv.create(place, with_pip=True)
    site = next(place.glob("lib/python*/site-packages"))
    (site / "borrowed.pth").write_text("".join(f"{one}\n" for one in sys.path if one.endswith("site-packages")))
    pip = [str(place / "bin/python"), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, check=True, timeout=LONGEST, env=environment(PIP_DISABLE_PIP_VERSION_CHECK="1"))
    return place / "bin"


class Shell:
    """A user in a folder that has nothing to do with the checkout."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.binaries, self.folder, self.variables = binaries, folder, dict[str, str]()

    def __call__(self, *words: str, code: int = 0) -> str:
        env = environment(PATH=f"{self.binaries}{os.pathsep}{os.environ['PATH']}")
        env = {key: value for key, value in env.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        env |= self.variables
        program = str(self.binaries / words[0])
        done = subprocess.run(
            [program, *words[1:]], cwd=self.folder, env=env, capture_output=True, text=True, timeout=LONGEST
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, said
        return said


@pytest.fixture(scope="module")
def user(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    before = {path for path in ROOT.rglob("*.json") if "multirun" in path.parts}
    yield Shell(installed, tmp_path_factory.mktemp("empty"))
    assert {path for path in ROOT.rglob("*.json") if "multirun" in path.parts} == before, "runs went to the checkout"


WORDS = [
    *("data.videos.train=16", "data.videos.val=8", "data.videos.test=8", "data.batch_size=8", "schedule.epochs=2"),
    *("sampling.num_segments=4", "backbone.net.width=8", "transforms.output=32", "transforms.short_side=36"),
    *("trainer.accelerator=cpu", "trainer.num_threads=1"),
]


def test_wheel_and_source_have_every_config_and_both_programs(wheel: Path, source: Path, tmp_path: Path) -> None:
    configs = {path.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml")}
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    assert {n.removeprefix("mml_lightning/conf/") for n in names if n.startswith("mml_lightning/conf/")} == configs
    assert {"mml_lightning/programs/train.py", "mml_lightning/programs/eval.py", "mml_lightning/py.typed"} <= names
    assert not {n for n in names if n.startswith(("conf/", "tests/", "train.py"))}
    sdist = built("sdist", source, tmp_path / "sdist")
    shutil.unpack_archive(sdist, tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert {path.relative_to(unpacked / "conf").as_posix() for path in (unpacked / "conf").rglob("*.yaml")} == configs
    with zipfile.ZipFile(built("wheel", unpacked, tmp_path / "again")) as file:
        assert set(file.namelist()) == names, "the wheel of the source distribution is the same"


def test_a_run_is_trained_measured_reported_resumed_and_repeated(user: Shell) -> None:
    where = user("python", "-c", "import mml_lightning; print(mml_lightning.__file__)")
    assert str(user.binaries.parent) in where and str(ROOT) not in where
    said = user("mml", "train", *WORDS, "name=first")
    assert "rgb" in said
    (run,) = (user.folder / "multirun/single").iterdir()
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "completed" and result["git_sha"] is None
    assert result["command"].startswith("mml train data.videos.train=16"), "as it was typed"
    assert (user.folder / "multirun/data/demo").is_dir() and (run / "train.log").is_file()
    relative = str(run.relative_to(user.folder))
    user("mml", "eval", f"ckpt={relative}", "name=measured")
    (measured,) = (user.folder / "multirun/single").glob("*_measured")
    assert json.loads((measured / "result.json").read_text())["metrics"]["test"] == result["metrics"]["test"]
    user("mml", "train", f"resume={relative}", "schedule.epochs=3", "resume_force=true")
    assert json.loads((run / "result.json").read_text())["epochs"] == 3
    user("mml", "train", *WORDS, "name=second")
    (second,) = (user.folder / "multirun/single").glob("*_second")
    assert "equal: " in user("mml", "rerun", str(second))
    assert "first" in user("mml", "report", str(run))
    user("mml", "check", *WORDS)


def test_the_python_page_and_a_plug_in_work_from_it(user: Shell) -> None:
    """The blocks of README, docs/python.md and docs/plugins.md, by an installed package."""
    user("mml", "train", *WORDS, "name=data")  # whoever comes first makes the demo
    clip = next((user.folder / "multirun/data/demo/videos").iterdir())
    (user.folder / "clip.mp4").symlink_to(clip)
    for name in ("train", "readme"):
        code = PYTHON[name].replace('"schedule.epochs=2"]', f'"schedule.epochs=2", *{WORDS!r}]')
        (user.folder / "script.py").write_text(code)
        assert "[(" in user("python", "script.py")
    write_page(user.folder)
    own = ["hydra.searchpath=[my_conf]", "trusted=[my_package]"]
    small = [word for word in WORDS if not word.startswith("backbone.")]
    made = [*own, *small, "backbone=my_net", "modality=[edges]", "name=own"]
    missing = user("mml", "train", *made, code=2)
    assert "my_package" in missing and "can't be found" in missing, "the folder of the user is on no path of its own"
    user.variables["PYTHONPATH"] = str(user.folder)
    user("mml", "train", *made)
    (run,) = (user.folder / "multirun/single").glob("*_own")
    user("mml", "eval", f"ckpt={run}", *own, "name=own_again")
    words = ["--ckpt", str(run), "--set", own[0], "--set", own[1]]
    assert "edges" in user("mml", "predict", "clip.mp4", *words)
    assert "type trusted=[my_package]" in user("mml", "predict", "clip.mp4", *words[:4], code=2)


def test_pipelines_sweeps_and_ranks_start_the_installed_program(user: Shell) -> None:
    said = user("mml", "train", *WORDS, "pipeline=reduced_mml", "pipeline.jobs=2", "name=pipeline")
    assert "3 runs" in said or "runs;" in said
    user("mml", "train", "-m", *WORDS, "schedule.epochs=1", "seed=7,8")
    (sweep,) = (user.folder / "multirun/sweep").iterdir()
    assert len(list(sweep.glob("*/result.json"))) == 2 and (sweep / "table.md").is_file()
    user("mml", "train", *WORDS, "trainer=ddp", "trainer.devices=2", "name=ranks")
    (ranks,) = (user.folder / "multirun/single").glob("*_ranks")
    assert json.loads((ranks / "result.json").read_text())["status"] == "completed"


def test_what_to_type_next_is_what_is_installed(user: Shell) -> None:
    said = user("mml", "train", *WORDS, "stage=mml", "modality=[rgb,flow]", "init=ce", "seed=99", code=2)
    assert "make it with: mml train stage=ce" in said and "train.py" not in said
    assert "mml train stage=mml" in user("mml", "train", "--help")
    assert "mml eval ckpt=" in user("python", "-m", "mml_lightning", "eval", "--help").replace(
        "python -m mml_lightning", "mml"
    )
    assert "optimzer.lr" in user("mml", "train", "optimzer.lr=1", code=2)
