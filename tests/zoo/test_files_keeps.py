"""Ten commands as a user types them, each a process of its own: whatever was trained to its end can still be loaded,
bit by bit, and every alias means what its command asks for, or says why not."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.zoo.files import load_peer, weights_hash

Shell = Callable[..., subprocess.CompletedProcess[str]]
MML = ("stage=mml", "modality=[rgb,flow]", "init=ce")
CE = "zoo/demo/tiny/ce_rgb_from_scratch/seed0"


class Zoo:
    """What was ever finished: {file: hash of its weights}, asserted after every command."""

    def __init__(self, root: Path) -> None:
        self.root, self.known = root, dict[Path, str]()

    def check(self) -> list[Path]:
        """Every network seen before is still there with the same weights; returns the new ones of the zoo."""
        for file, told in self.known.items():
            assert weights_hash(load_peer(file)["state_dict"]) == told, f"{file} is another network now"
        files = [*self.root.glob("zoo/**/*.pt"), *self.root.glob("s*/**/peers*/*.pt")]
        new = [file for file in files if file not in self.known]
        self.known |= {file: weights_hash(load_peer(file)["state_dict"]) for file in new}
        return sorted(file for file in new if "zoo" in file.relative_to(self.root).parts)


def result(root: Path, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The result.json of the run that a process has told of."""
    found = re.search(r"output +(\S.*)", done.stdout)
    assert found, done.stdout + done.stderr
    told: dict[str, Any] = json.loads((root / found[1] / "result.json").read_text())
    return told


@pytest.mark.slow
def test_ten_typed_commands(
    shell: Shell, started: Callable[..., subprocess.Popen[str]], small: list[str], tmp_path: Path
) -> None:
    zoo = Zoo(tmp_path)

    def typed(*overrides: str, program: str = "train") -> subprocess.CompletedProcess[str]:
        done = shell(program, *overrides)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    # 1 cross-entropy
    ce = result(tmp_path, typed())
    (first,) = zoo.check()
    assert str(first.parent) == ce["zoo"]

    # 2 to 4: a smoke run, Lightning's own debug run, a limited one
    smoke = result(tmp_path, typed("trainer=smoke"))
    assert (smoke["epochs"], smoke["steps"]) == (1, 2)
    assert smoke["limited"][:2] == ["trainer.limit_train_batches=2", "trainer.limit_epochs=1"] and "zoo" not in smoke
    refused = shell("train", "+trainer.fast_dev_run=true")
    assert refused.returncode == 2 and "use trainer=smoke" in refused.stdout + refused.stderr
    limited = result(tmp_path, typed("trainer.limit_train_batches=1", "+trainer.max_steps=1"))
    assert limited["steps"] == 1 and "zoo" not in limited
    refused = shell("train", "trainer.limit_train_batches=0")
    assert refused.returncode == 2 and "no training step" in refused.stdout + refused.stderr
    assert zoo.check() == [], "none of them is in the zoo"

    # 5 a sweep over learning rates, its jobs under one name
    typed("-m", "optimizer.lr=0.01,0.02")
    assert len(zoo.check()) == 2, "each job of the sweep is kept"

    # 6 killed once its first checkpoint is there, and 7 resumed
    cut = tmp_path / "single/cut"
    process = started("schedule.epochs=6", "callbacks.checkpoint_every_steps=1", f"hydra.run.dir={cut}")
    try:
        while process.poll() is None and not (cut / "checkpoints/last.ckpt").is_file():
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert zoo.check() == [], "a killed run leaves nothing"
    settings = (cut / ".hydra/overrides.yaml").read_bytes()
    again = shell("train", f"hydra.run.dir={cut}")
    assert again.returncode == 2 and "already holds a run" in again.stdout + again.stderr
    assert (cut / ".hydra/overrides.yaml").read_bytes() == settings
    (cache,) = [word for word in small if word.startswith("paths.cache=")]  # elsewhere: no file is trusted with that
    done = shell("train", f"resume={cut}", cache, plain=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (third,) = zoo.check()
    assert load_peer(third)["provenance"]["epochs"] == 6

    # 8 mutual modality learning from the alias: of five networks of that name it takes the one asked for
    mml = typed(*MML)
    assert result(tmp_path, mml)["peers"]["flow"]["origin"] == str(first)
    assert f"init.rgb=ce is {first}: 2 epochs, 6 steps" in mml.stdout
    assert len(zoo.check()) == 2
    longer = typed(*MML, "schedule.epochs=6")
    assert result(tmp_path, longer)["peers"]["rgb"]["origin"] == str(third)
    zoo.check()

    # 9 settings that nobody has trained a first network with: both commands are told, and do what they say
    refused = shell("train", *MML, "optimizer.lr=0.03")
    said = refused.stdout + refused.stderr
    assert refused.returncode == 2 and "its optimizer.lr was" in said and "but 0.03 is asked for" in said, said
    train_it, take_it = re.findall(r"python train\.py (.*?)(?= -- or take|\n|$)", said)[:2]
    taken = shell("train", *shlex.split(take_it), plain=True)
    assert result(tmp_path, taken)["peers"]["rgb"]["origin"].startswith(str(tmp_path / CE)), taken.stderr
    zoo.check()
    assert shell("train", *shlex.split(train_it), plain=True).returncode == 0
    (fourth,) = zoo.check()
    exact = typed(*MML, "optimizer.lr=0.03")
    assert result(tmp_path, exact)["peers"]["rgb"]["origin"] == str(fourth)
    zoo.check()

    # 10 measured by its alias, and a trial of MML, which starts from the whole network
    measured = typed("ckpt=ce", program="eval")
    assert f"ckpt=ce is {first}" in measured.stdout
    trial = result(tmp_path, typed(*MML, "trainer=smoke"))
    assert trial["peers"]["rgb"]["origin"] == str(first) and trial["limited"]
    assert zoo.check() == []
    assert len(list((tmp_path / CE).iterdir())) == 5
