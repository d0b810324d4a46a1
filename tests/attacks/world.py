"""A small world that attacks are let loose in: a good run, things of the victim beside it, and a watch over all files.

Every command runs in a fork of this process, through the same entry as from a shell, up to the moment when a run would
begin. Whatever it changes outside of its output folder is a hit, and so is the canary, which only code of an attack
makes.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

import eval as eval_program
import train as train_program
from mml_lightning.cli import hydra_app, main
from mml_lightning.cli.commands import rerun
from mml_lightning.data.demo import generate
from mml_lightning.engine import train
from mml_lightning.runs import result
from tests.fuzz.cases import CONF, Ground, Started

PATIENCE = 1200.0  # seconds for one command: what lasts longer hangs
MEMORY = 8 * 2**30  # bytes of addresses
STARTED = 0
CRASHED = 99
PROGRAMS = {"train": train_program.main, "eval": eval_program.main}
OUTCOMES = {"train": train_program.OUTCOME, "eval": eval_program.OUTCOME}


class Touch:
    """Pickled, it makes a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (Path.touch, (self.file,))


@dataclass
class Outcome:
    """What came of a command.

    Args:
        code: exit code; CRASHED for a traceback.
        said: what it printed.
        hits: what it did that it must not do.
    """

    code: int
    said: str
    hits: list[str]


class World:
    """The folders of one world, below `place`."""

    def __init__(self, place: Path, ground: Ground) -> None:
        self.place, self.ground = place, ground
        self.outside, self.home, self.work = (place / name for name in ("outside", "home", "work"))
        self.foreign = place / "foreign"  # what came from somebody else, but runs, which lie beside one's own
        for folder in (self.outside, self.home, self.work, self.foreign):
            folder.mkdir(parents=True)
        (self.home / ".bashrc").write_text("# mine\n")
        (self.outside / "notes.txt").write_text("mine\n")
        (self.outside / "evil.pkl").write_bytes(pickle.dumps(Touch(self.canary)))
        (self.outside / "evilmod.py").write_text(f"import pathlib\npathlib.Path({str(self.canary)!r}).touch()\n")
        (self.outside / "sitecustomize.py").write_text((self.outside / "evilmod.py").read_text())

    @property
    def canary(self) -> Path:
        return self.outside / "CANARY"

    @property
    def good(self) -> Path:
        return self.ground.trained

    @property
    def forged(self) -> Path:
        return self.good.with_name("forged")

    def forge(self) -> Path:
        """A fresh copy of the good run, for an attack to change."""
        shutil.rmtree(self.forged, ignore_errors=True)
        shutil.copytree(self.good, self.forged, symlinks=True)
        return self.forged

    def clean(self) -> None:
        """As before the attack."""
        shutil.rmtree(self.forged, ignore_errors=True)
        for folder in (self.foreign, self.work):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        self.canary.unlink(missing_ok=True)
        for folder in self.ground.root.glob("*/*"):
            if folder != self.good:
                shutil.rmtree(folder, ignore_errors=True)

    def files(self) -> dict[str, tuple[int, int]]:
        """Size and time of every file and folder that no command may touch: all but the user's own output."""
        found: dict[str, tuple[int, int]] = {}
        own = {str(self.ground.root), str(self.work / "multirun"), str(self.work / "report")}
        own.add(str(self.home / ".cache"))  # W&B logs there what it does, wherever its records lie
        for place, folders, files in os.walk(self.place):
            folders[:] = [name for name in folders if os.path.join(place, name) not in own]
            for name in (*folders, *files):
                path = os.path.join(place, name)
                status = os.lstat(path)
                found[path] = (status.st_size, status.st_mtime_ns) if name in files else (0, 0)
        return found

    def tries(self, program: str, *words: str) -> Outcome:
        """One command, and what it did."""
        before, log = self.files(), self.work / "said.txt"
        log.touch()
        before = self.files() | {str(log): (0, 0)}
        child = os.fork()
        if child == 0:
            _as_a_process(self, log, lambda: _call(program, words))
        code = _wait(child)
        said = log.read_text(errors="replace")
        log.unlink()
        after = {path: state for path, state in self.files().items() if path != str(log)}
        before.pop(str(log))
        changed = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
        hits = ["code ran"] if self.canary.exists() else []
        self.canary.unlink(missing_ok=True)
        return Outcome(code, said, hits + [f"changed {path}" for path in changed if path != str(self.canary)])


def _call(program: str, words: Sequence[str]) -> int:
    if program == "mml":
        return main.main(list(words))
    # Hydra finds conf/ beside the file of a program, and beside the package of a module
    PROGRAMS[program].__wrapped__.__module__ = "__main__"  # type: ignore[attr-defined]
    sys.argv = [str(CONF.parent / f"{program}.py"), *words]
    hydra_app.launch(PROGRAMS[program], CONF, OUTCOMES[program])


def _begin(*args: Any, **more: Any) -> None:
    raise Started


class _Begins:
    def __init__(self, *args: Any, **more: Any) -> None:
        raise Started


def _run_again(command: Sequence[str], env: dict[str, str] | None = None, **more: Any) -> Any:
    """In place of `subprocess.run` of `mml rerun`: the same command, in this process."""
    assert command[0] == sys.executable and Path(command[1]).name == "train.py"
    bad = {"PYTHONPATH", "LD_PRELOAD", "PATH", "HOME", "PYTHONSTARTUP", "LD_LIBRARY_PATH", "PYTHONHOME", "BASH_ENV"}
    bad |= {"TORCH_LOGS"}
    assert env is not None and all(env.get(key) == os.environ.get(key) for key in bad), "HIT: environment of a file"
    assert more.get("cwd") is None, "HIT: folder of a file"
    os.environ.update(env)
    return subprocess.CompletedProcess(list(command), _call("train", command[2:]))


def _as_a_process(world: World, log: Path, call: Callable[[], int]) -> None:
    """The rest of a forked child: what a shell would have started. Never returns."""
    code = CRASHED
    try:
        handle = os.open(log, os.O_WRONLY | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(n), "w", buffering=1) for n in (1, 2))
        os.chdir(world.work)
        os.environ["HOME"] = str(world.home)
        os.environ.pop("MML_STAMP", None)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None
        warnings.simplefilter("ignore")
        for outcome in OUTCOMES.values():
            outcome.failures.clear()
        train.open_result, result.RunResult = _begin, _Begins  # type: ignore[assignment, misc]
        generate._make_missing = _begin  # type: ignore[assignment]  # the folder of the demo is there by then
        rerun.subprocess = types.SimpleNamespace(run=_run_again)  # type: ignore[assignment]
        try:
            code = call()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
        except Started:
            code = STARTED
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(child: int) -> int:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL
