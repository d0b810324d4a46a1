"""docs/callbacks.md: every command of its blocks composes and passes the checks before a run."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

from mml_lightning.config import values
from mml_lightning.config.compose import compose
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "callbacks.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("python train.py")]


def test_the_page_has_them() -> None:
    assert len(COMMANDS) >= 11 and all(line.startswith(("python train.py", "pip install")) for line in LINES)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_composes(hydra: None, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)  # as if every extra were installed
    if "my_package" in line:
        (tmp_path / "my_package.py").write_text(
            "import pytorch_lightning as pl\nclass MyCallback(pl.Callback):\n    def __init__(self, argument): ...\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        sys.modules.pop("my_package", None)
    words = shlex.split(line, comments=True)[2:]
    given = [word for word in words if not word.startswith(("-m", "hydra"))]
    values.check_job(compose("train", [re.sub(r"=(tag\(log,)?interval\(([\d.]+),.*", r"=\2", word) for word in given]))
