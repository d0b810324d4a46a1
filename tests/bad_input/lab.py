"""Where datasets are damaged, and the cases of docs/bad_input.md by the words of their row."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.config import data as config_data
from mml_lightning.config.settings import Settings
from mml_lightning.data.check import lines
from mml_lightning.engine import check_data
from mml_lightning.engine import train as engine_train
from mml_lightning.utils.errors import UserError
from tests import tiny

Shell = Callable[..., subprocess.CompletedProcess[str]]
FLOW = ["modality=[rgb,flow]", "stage=mml"]
CASES: dict[str, Callable[[Lab], str]] = {}


@dataclass
class Lab:
    """A place to damage data in and to hear what is said."""

    root: Path
    clips: Path
    typed: list[str]
    shell: Shell
    train: Callable[..., dict[str, Any]]
    where: str = ""

    def config(self, *overrides: str, program: str = "train") -> tuple[Settings, list[str]]:
        from mml_lightning.config.compose import compose

        words = [*self.typed, f"paths.root={self.root / 'out'}", f"paths.cache={self.root / 'cache'}", *overrides]
        folder = f"paths.output_dir={self.root / 'out' / 'run'}"
        return compose(program, overrides=[*words, folder]), words

    def start(self, *overrides: str) -> str:
        """What a run says that does not start; it must leave nothing behind."""
        self.where = "start"
        with pytest.raises(UserError) as caught:
            engine_train.stage(*self.config(*overrides))
        assert not (self.root / "out" / "run").exists()
        return str(caught.value)

    def sample(self, *overrides: str, index: int = 3, split: str = "train") -> str:
        """The reason that a run gives for a video it can't use."""
        self.where = "sample"
        cfg, _ = self.config(*overrides)
        chosen = config_data.modalities(cfg)
        data = config_data.dataset(cfg)
        made = config_data.clip_datasets(cfg, data, config_data.flow_cache(cfg, chosen), list(chosen.values()))
        failures = made[split][(0, index)]["failures"]
        assert [video for video, _ in failures] == [data.splits[split][index].id], "only the damaged video may fail"
        return failures[0][1]

    def check(self, word: str, *overrides: str) -> str:
        """The one remark of mml check that contains `word`."""
        self.where = "check"
        report, _ = check_data.run_check(self.config(*overrides)[0], 2, 1, timed=False)
        found = [line for line in lines(report) if word in line]
        assert len(found) == 1, lines(report)
        return found[0]

    def ssv2(self) -> list[str]:
        return ["data=ssv2", f"data.root={tiny.ssv2(self.root / 'data', self.clips)}"]

    def csv(self, *columns: str) -> list[str]:
        return ["data=csv", f"data.index={tiny.table(self.root / 'data', self.clips, *columns)}"]

    def lists(self, flow: bool = False) -> list[str]:
        root = tiny.frame_lists(self.root / "data")
        words = ["data=frame_lists", f"data.root={root}", "data.sources.frames.test=test.txt"]
        lists = ",".join(f"{split}:{split}_flow.txt" for split in tiny.SPLITS)
        return (
            [*words, f"data.sources.flow={{folder:flow,template:'flow_{{}}_{{:05d}}.jpg',{lists}}}"] if flow else words
        )

    def charades(self) -> list[str]:
        return ["data=charades", f"data.root={tiny.charades(self.root / 'data')}"]

    @property
    def data(self) -> Path:
        return self.root / "data"

    def video(self, number: int) -> Path:
        return self.data / "videos" / f"{number}.mp4"

    def annotation(self, name: str) -> Path:
        return self.data / "annotations" / name


def case(damage: str) -> Callable[[Callable[[Lab], str]], Callable[[Lab], str]]:
    """The function makes the damage of that row and returns what is said."""

    def keep(function: Callable[[Lab], str]) -> Callable[[Lab], str]:
        assert damage not in CASES
        CASES[damage] = function
        return function

    return keep
