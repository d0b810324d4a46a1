"""A hook of mkdocs: README, CHANGELOG and CONTRIBUTING as pages; their links lead to the same places as elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
ROOT = Path(__file__).resolve().parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages; of files that are no pages, the name stays and the link goes."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=re.sub(r"\[([^\]]*)\]\(([^)#:]+)(#[^)]*)?\)", linked, text)))
    return files


def on_page_markdown(markdown: str, page: object, config: MkDocsConfig, files: Files) -> str:
    """Links of a page out of docs/ to code: the name stays."""
    return re.sub(r"\[([^\]]*)\]\((?:\.\./)+(?:mml_lightning|conf|tests)/?[^)]*\)", r"\1", markdown)


def linked(match: re.Match[str]) -> str:
    """A link of a file beside docs/ as one of a page."""
    words, target, anchor = match[1], match[2], match[3] or ""
    if not (ROOT / target).exists():
        raise ValueError(f"a link leads nowhere: {target}")
    if target in PAGES:
        return f"[{words}]({PAGES[target]}{anchor})"
    return f"[{words}]({target.removeprefix('docs/')}{anchor})" if target.startswith("docs/") else words
