"""The floors of the package, read from its syntax trees: imports go down only, and some names live in one place.

A new module fails here until it stands in FLOORS. F0 files must be liftable: each imports nothing but Python, torch,
numpy and, inside a folder, its neighbours.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mml_lightning"

# Longest matching prefix wins, so a folder is named once and its exceptions beneath it.
FLOORS = {
    "": 0,
    "modalities": 0,
    "sampling": 0,
    "transforms": 0,
    "stems": 0,
    "schedules": 0,
    "optim": 0,
    "backbones": 0,
    "objectives": 0,
    "metrics": 0,
    "motion": 0,
    "means": 0,
    "presence": 0,
    "dumps": 1,
    "ensembles": 1,
    "members": 1,
    "submissions": 1,
    "errors": 1,
    "plain_text": 0,
    "foreign": 1,
    "saved_overrides": 3,
    "config_guard": 3,
    "life": 1,
    "console": 1,
    "ranks": 3,
    "files": 1,
    "results": 1,
    "data": 1,
    "zoo": 1,
    "entries": 1,
    "weights": 1,
    "importing": 1,
    "cohort": 2,
    "views": 2,
    "callbacks": 2,
    "checkpoints": 2,
    "preemption": 1,
    "metrics_log": 2,
    "norms": 2,
    "loaders": 2,
    "step": 2,
    "heap": 0,
    "idle": 0,
    "host_copy": 0,
    "arithmetic": 0,
    "advice": 1,
    "throughput": 2,
    "build": 3,
    "build_data": 3,
    "limits": 3,
    "lineage": 3,
    "benchmarks": 3,
    "benchmarks.commands": 4,
    "nodes": 3,
    "run": 3,
    "resume": 3,
    "revisions": 1,
    "manifest": 3,
    "plan": 3,
    "usage": 3,
    "progress": 1,
    "provenance": 3,
    "process": 3,
    "watchdog": 2,
    "nonfinite": 2,
    "placement": 2,
    "pipelines": 3,
    "evaluate": 3,
    "estimates": 3,
    "tracking": 3,
    "arguments": 3,
    "mistakes": 3,
    "resolvers": 3,
    "hydra_callbacks": 3,
    "report": 3,
    "report.statistics": 0,
    "cli": 4,
    "commands": 4,
    "__main__": 4,
}
# An F0 folder that can't do without an F0 file: whoever lifts the folder takes the file along.
LIFTED_TOGETHER = {"backbones": {"stems"}, "modalities": {"motion"}}
LIFTABLE = {"torch", "numpy", *sys.stdlib_module_names}
MAX_FILE, MAX_FUNCTION = 450, 60
MACHINE_PATH = re.compile(r"(?<![\w.}\-])/(work|home|root|Users|tmp|mnt)/")


def module_name(path: Path) -> str:
    """Dotted name below the package; "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"), str(FILES[module]))


def floor(module: str) -> int | None:
    """Floor of the longest prefix that FLOORS names; None where there is none."""
    parts = module.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((FLOORS[prefix] for prefix in prefixes if prefix in FLOORS), None)


def imports(module: str, source: ast.Module | None = None) -> Iterator[str]:
    """Absolute dotted names of all imports anywhere in the file; `from a import b` gives a.b."""
    package = ["mml_lightning", *filter(None, module.split("."))]
    if FILES.get(module, PACKAGE / "x.py").name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(source or tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def own_imports(module: str) -> Iterator[str]:
    """Modules of this package that the file imports, as keys of FILES."""
    for name in imports(module):
        if name.split(".")[0] == "mml_lightning":
            parts = name.split(".")[1:]
            yield next(".".join(parts[:n]) for n in range(len(parts), -1, -1) if ".".join(parts[:n]) in FILES)


def where(module: str) -> str:
    return FILES[module].relative_to(PACKAGE.parent).as_posix()


def names_used(module: str) -> set[str]:
    """Every dotted name the code mentions, imported or not, strings and comments aside."""
    plain = (ast.unparse(node) for node in ast.walk(tree(module)) if isinstance(node, ast.Attribute | ast.Name))
    return {*plain, *imports(module)}


@pytest.mark.parametrize("module", FILES)
def test_module_has_a_floor(module: str) -> None:
    assert floor(module) is not None, f"place {where(module)} in FLOORS"


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down_only(module: str) -> None:
    height = floor(module) or 0
    upward = sorted({target for target in own_imports(module) if (floor(target) or 0) > height})
    assert not upward, f"{where(module)} (F{height}) imports {upward} from above"


@pytest.mark.parametrize("module", [module for module in FILES if floor(module) == 0])
def test_ground_floor_is_liftable(module: str) -> None:
    foreign = {name.split(".")[0] for name in imports(module)} - LIFTABLE - {"mml_lightning"}
    assert not foreign, f"{where(module)} imports {sorted(foreign)}; F0 has torch and numpy only"
    folder = module.split(".")[0]
    others = {target for target in own_imports(module) if target.split(".")[0] != folder}
    others -= LIFTED_TOGETHER.get(folder, set())
    assert not others, f"{where(module)} imports {sorted(others)}; an F0 file must work outside of this package"


@pytest.mark.parametrize("module", FILES)
def test_names_that_live_in_one_place(module: str) -> None:
    used = names_used(module)
    if module != "data.decode":
        assert not any(name.split(".")[0] == "decord" for name in imports(module)), "decord lives in data/decode.py"
    if module != "nodes":
        assert not any(name.split(".")[-1] == "instantiate" for name in used), "instantiate is called in nodes.py"
    assert "hydra.main" not in used, "hydra.main lives in train.py and eval.py"


@pytest.mark.parametrize("module", FILES)
def test_files_and_functions_stay_readable(module: str) -> None:
    lines = len(FILES[module].read_text(encoding="utf-8").splitlines())
    assert lines < MAX_FILE, f"{where(module)} has {lines} lines: split it by meaning"
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length < MAX_FUNCTION, f"{where(module)}: {node.name} has {length} lines"


@pytest.mark.parametrize("module", FILES)
def test_no_path_of_one_machine(module: str) -> None:
    found = [line for line in FILES[module].read_text(encoding="utf-8").splitlines() if MACHINE_PATH.search(line)]
    assert not found, f"{where(module)}: {found}"


def test_hydra_main_stays_out_of_other_scripts() -> None:
    root = PACKAGE.parent
    users = [path.name for path in root.glob("*.py") if "hydra.main" in path.read_text(encoding="utf-8")]
    assert set(users) <= {"train.py", "eval.py"}


def test_the_reader_of_imports_sees_every_form() -> None:
    source = ast.parse(
        "import a.b\nfrom c import d\nfrom . import e\nfrom ..zoo import f\n"
        "def g():\n    from .decode import h\nif TYPE_CHECKING:\n    from mml_lightning.run import stage\n"
    )
    assert sorted(imports("data.clips", source)) == [
        "a.b",
        "c.d",
        "mml_lightning.data.decode.h",
        "mml_lightning.data.e",
        "mml_lightning.run.stage",
        "mml_lightning.zoo.f",
    ]


def test_floor_of_a_module_is_that_of_its_longest_prefix() -> None:
    assert (floor("report.statistics"), floor("report.table"), floor("data.demo.render")) == (0, 3, 1)
    assert floor("never_heard_of") is None


def test_machine_paths_are_told_from_other_slashes() -> None:
    assert MACHINE_PATH.search('"/home/me/clips"') and MACHINE_PATH.search("root=/work/data")
    assert not MACHINE_PATH.search("multirun/work/x ${root}/home/a ../tmp/b https://host.org/home/")
