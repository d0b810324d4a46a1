"""One file touches what Lightning keeps to itself."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import pytorch_lightning

import mml_lightning

PACKAGE = Path(mml_lightning.__file__).parent
OWN = PACKAGE / "training" / "lightning_internals.py"
PRIVATE = re.compile(r"_[a-z]\w*[a-z0-9]")


def defined(root: Path) -> set[str]:
    """Private names of functions, methods and attributes that the sources below `root` define."""
    names: set[str] = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and own(node.value):
                names.add(node.attr)
    return {name for name in names if PRIVATE.fullmatch(name)}


def own(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


LIGHTNING = defined(Path(pytorch_lightning.__file__).parent) - defined(PACKAGE)


def touched(text: str) -> set[str]:
    """Private names of Lightning in a source."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and node.attr in LIGHTNING | {"batch_progress"}:
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith(("pytorch_lightning", "lightning")):
            found |= {alias.name for alias in node.names if alias.name.startswith("_")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_names_of_lightning_stand_in_one_file(path: Path) -> None:
    found = touched(path.read_text(encoding="utf-8"))
    assert bool(found) == (path == OWN), f"{sorted(found)}: ask training/lightning_internals.py"


@pytest.mark.parametrize(
    "text",
    [
        "trainer.fit_loop._should_accumulate()",
        "x = trainer.fit_loop.epoch_loop._batches_that_stepped",
        "self._trainer is None",
        "from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher",
    ],
)
def test_they_are_found(text: str) -> None:
    assert touched(text)
