"""The folders of the package, read from its syntax trees: imports go up the table, and some names live in one place.

A new folder fails here until it stands in IMPORTS. What is LIFTABLE imports nothing but Python, torch, torchmetrics,
numpy and its neighbours, so that it can be copied into another project.
"""

from __future__ import annotations

import ast
import graphlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mml_lightning"

# Folder: what it may import beside itself and the package's version. The longest matching prefix of a module wins.
PURE = ["audio", "optical_flow", "sampling", "transforms", "objectives", "backbones", "fusion", "evaluation.metrics"]
DATA = ["data.video", "data.records", "data.flow", "data.loading", "data.packs", "data.check", "data.demo"]
IMPORTS: dict[str, list[str]] = {
    "utils": [],
    **{folder: [] for folder in PURE},
    "fusion": ["backbones"],
    "modalities": ["audio", "optical_flow"],
    "zoo": ["backbones", "utils"],
    "evaluation": ["evaluation.metrics", "utils"],
    "data.demo": ["utils"],
    "data.video": ["transforms", "utils"],
    "data.records": ["data.video", "data.demo", "utils"],
    "data.flow": ["data.video", "data.records", "optical_flow", "utils"],
    "data.loading": [
        *("data.video", "data.records", "data.flow", "modalities", "audio", "sampling", "transforms", "utils"),
    ],
    "data.packs": ["data.video", "data.records", "data.flow", "data.loading", "utils"],
    "data.check": ["data.video", "data.records", "data.loading", "utils"],
    "data": ["data.records"],
    "training": ["data.loading", "data.video", "modalities", "evaluation", *PURE, "utils"],
    "config.key_roles": [],
    "config": ["config.key_roles", "training", *DATA, "zoo", "modalities", *PURE, "utils"],
    "runs": ["config", "config.key_roles", "training", "data.records", "data.check", "zoo", "utils"],
    "report": ["runs", "config.key_roles", "evaluation", "evaluation.metrics", "objectives", "utils"],
    "engine": [
        *("runs", "config", "config.key_roles", "training", *DATA, "zoo", "evaluation", "modalities", *PURE, "utils"),
    ],
    "pipelines": [
        *("engine", "report", "runs", "config", "config.key_roles", "training", "data.records", "data.flow"),
        *("zoo", "utils"),
    ],
    "benchmarks": [
        *("engine", "report", "runs", "config", "training", *DATA, "zoo", "evaluation", "modalities", *PURE, "utils"),
    ],
    "serve": [
        *("engine", "config", "training", "data.video", "data.records", "evaluation", "modalities", *PURE, "utils"),
    ],
    "cli": [
        *("serve", "benchmarks", "pipelines", "engine", "report", "runs", "config", "training", *DATA),
        *("zoo", "evaluation", "modalities", *PURE, "utils"),
    ],
    "__main__": ["cli"],
    "api": ["cli", "pipelines", "engine", "config", "utils"],
    "": ["api", "engine", "training", "utils"],
}
LIFTABLE = [
    *PURE,
    "modalities",
    *("training.epoch_means", "training.parameter_groups", "training.schedules"),
    "evaluation.explain",
    *("utils.async_copy", "utils.gpu_idle", "utils.malloc", "report.statistics"),
]
# Whoever lifts the one takes the other along.
LIFTED_TOGETHER = {"modalities": {"audio", "optical_flow"}, "fusion": {"backbones"}}
FOREIGN = {"torch", "torchmetrics", "numpy", *sys.stdlib_module_names}
MAX_FILE, MAX_FUNCTION = 400, 60
MACHINE_PATH = re.compile(r"(?<![\w.}\-])/(work|home|root|Users|tmp|mnt)/")


def module_name(path: Path) -> str:
    """Dotted name below the package; "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"), str(FILES[module]))


def folder(module: str, known: Iterator[str] | list[str] | None = None) -> str | None:
    """The longest prefix that IMPORTS (or `known`) names; None where there is none."""
    names = set(IMPORTS if known is None else known)
    parts = module.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in names), "" if not module and known is None else None)


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


def test_the_table_is_an_order() -> None:
    above: set[str] = set()
    for name, allowed in IMPORTS.items():
        assert set(allowed) <= above, f"{name} may import {sorted(set(allowed) - above)}, which stand below it"
        above.add(name)


@pytest.mark.parametrize("module", FILES)
def test_imports_go_up_the_table_only(module: str) -> None:
    own = folder(module)
    assert own is not None, f"place {where(module)} in a folder of IMPORTS"
    wrong = sorted({t for t in own_imports(module) if folder(t) not in ("", own, *IMPORTS[own])})
    assert not wrong, f"{where(module)} ({own}) imports {wrong}"


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {module: {t for t in own_imports(module) if t not in ("", module)} for module in FILES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", [module for module in FILES if folder(module, LIFTABLE) is not None])
def test_what_is_liftable_works_outside_of_this_package(module: str) -> None:
    foreign = {name.split(".")[0] for name in imports(module)} - FOREIGN - {"mml_lightning"}
    assert not foreign, f"{where(module)} imports {sorted(foreign)}; it may import torch and numpy only"
    own = folder(module, LIFTABLE)
    together = {own, *LIFTED_TOGETHER.get(own or "", ())}
    others = {target for target in own_imports(module) if folder(target, LIFTABLE) not in together}
    assert not others, f"{where(module)} imports {sorted(others)}; it must work outside of this package"


@pytest.mark.parametrize("module", FILES)
def test_names_that_live_in_one_place(module: str) -> None:
    used = names_used(module)
    if module != "data.video.decode":
        assert not any(name.split(".")[0] == "decord" for name in imports(module)), (
            "decord lives in data/video/decode.py"
        )
    if module != "config.instantiate":
        assert "hydra.utils.instantiate" not in used, "Hydra's instantiate is called in config/instantiate.py"
    assert "hydra.main" not in used, "hydra.main lives in train.py and eval.py"


COMPOSING = ("config", "engine", "cli", "api")
"""The folders that know a config of Hydra's; all others take `config.settings.Settings`."""


@pytest.mark.parametrize("module", [module for module in FILES if module.split(".")[0] not in COMPOSING])
def test_settings_have_types_outside_of_config_engine_and_cli(module: str) -> None:
    assert not [name for name in imports(module) if name.split(".")[0] == "omegaconf"], "take Settings"
    source = FILES[module].read_text(encoding="utf-8")
    assert "DictConfig" not in source and "OmegaConf" not in source, "take Settings"
    assert not {"hydra.compose", "hydra.initialize_config_dir"} & set(imports(module)), "config/compose.py composes"


@pytest.mark.parametrize("module", FILES)
def test_files_and_functions_stay_readable(module: str) -> None:
    lines = len(FILES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE, f"{where(module)} has {lines} lines: split it by meaning"
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length < MAX_FUNCTION, f"{where(module)}: {node.name} has {length} lines"


@pytest.mark.parametrize("module", FILES)
def test_no_path_of_one_machine(module: str) -> None:
    found = [line for line in FILES[module].read_text(encoding="utf-8").splitlines() if MACHINE_PATH.search(line)]
    assert not found, f"{where(module)}: {found}"


def test_tests_stand_in_the_folders_of_what_they_test() -> None:
    tests = Path(__file__).parent
    own = {"attacks", "bad_input", "fuzz", "vectors"}  # of the whole program, and what tests need
    folders = {path.parent.relative_to(tests).as_posix() for path in tests.rglob("*.py")} - {".", *own}
    assert not [name for name in folders if not (PACKAGE / name).is_dir()]


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


def test_folder_of_a_module_is_its_longest_prefix() -> None:
    assert [folder(m) for m in ("evaluation.metrics.pooling", "evaluation.predictions", "data.demo.render", "")] == [
        "evaluation.metrics",
        "evaluation",
        "data.demo",
        "",
    ]
    assert folder("never_heard_of") is None and folder("report.table", LIFTABLE) is None


def test_machine_paths_are_told_from_other_slashes() -> None:
    assert MACHINE_PATH.search('"/home/me/clips"') and MACHINE_PATH.search("root=/work/data")
    assert not MACHINE_PATH.search("multirun/work/x ${root}/home/a ../tmp/b https://host.org/home/")
