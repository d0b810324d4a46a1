"""docs/datasets.md: every command composes, and every option of the group is on the page."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mml_lightning.config.compose import compose

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.strip().splitlines()]


def test_every_dataset_is_on_the_page() -> None:
    assert len(COMMANDS) >= 14
    for file in (ROOT / "conf" / "data").glob("*.yaml"):
        assert f"`{file.stem}`" in PAGE or f"data={file.stem} " in PAGE, file


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: re.search(r"(data|setup)=\w+", command)[0])  # type: ignore[index]
def test_command_composes(hydra: None, command: str) -> None:
    python, program, *overrides = shlex.split(command)
    assert (python, program) == ("python", "train.py")
    compose("train", overrides=overrides)


def titles(text: str) -> set[str]:
    """Anchors of a page's headings."""
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.M)}


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        file, _, title = target.partition("#")
        page = ROOT / "docs" / (file or "datasets.md")
        assert page.exists(), target
        assert not title or title in titles(page.read_text(encoding="utf-8")), target
