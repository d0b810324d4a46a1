"""What is installed is what was tested: constraints.txt pins it all, and it fits together. Offline; known holes of the
pinned versions are looked up by whoever has a network: docs/robustness.md."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = {"pip", "setuptools", "wheel", "mml-lightning"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [line.split("#")[0].strip().split("==") for line in lines if line.split("#")[0].strip()]
    assert all(len(parts) == 2 for parts in found), "constraints.txt holds name==version only"
    return {normal(name): version for name, version in found}


def needed(name: str, found: set[str], extras: frozenset[str] = frozenset()) -> set[str]:
    """Distributions that `name` brings along."""
    from packaging.requirements import Requirement

    for line in metadata.requires(name) or []:
        requirement = Requirement(line)
        chosen = [{"extra": extra} for extra in extras] or [{"extra": ""}]
        if requirement.marker and not any(requirement.marker.evaluate(env) for env in [*chosen, {"extra": ""}]):
            continue
        other = normal(requirement.name)
        if other not in found:
            found.add(other)
            needed(other, found, frozenset(requirement.extras))
    return found


def test_every_dependency_is_pinned_to_what_is_installed() -> None:
    pinned = pins()
    wanted = needed("mml_lightning", set(), frozenset({"test", "dev"})) - TOOLS
    assert wanted <= set(pinned), f"not in constraints.txt: {sorted(wanted - set(pinned))}"
    for name in wanted:
        have = metadata.version(name).partition("+")[0]
        assert have == pinned[name].partition("+")[0], f"{name} {have} is installed, {pinned[name]} is pinned"


def test_what_is_installed_fits_together() -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    if "No module named pip" in done.stderr:
        pytest.skip("no pip here")
    assert done.returncode == 0, done.stdout
