"""No name that comes from outside is html: every page with names that would be, as text, in attributes and in links."""

from __future__ import annotations

import tomllib
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from markupsafe import Markup

import mml_lightning
from mml_lightning.cli.commands.ensemble import _matrix
from mml_lightning.data.check.page import page as check_page
from mml_lightning.data.check.remarks import Remark
from mml_lightning.data.check.summary import Report
from mml_lightning.objectives import Objective, drawing
from mml_lightning.report import collect, plots, save, tabulate
from mml_lightning.report.grid import Grid
from mml_lightning.report.html import grid_table, picture_page, tables_page
from mml_lightning.report.page import page
from mml_lightning.report.paper_table import Cell, PaperTable, Verdict
from mml_lightning.report.statistics import Estimate
from mml_lightning.report.table_spec import Claim, Layout
from mml_lightning.utils.templates import FOLDER, render
from tests.report.test_page import fill
from tests.report.test_table import make_run

HOSTILE = [
    "<img src=x onerror=boom>",
    "</td></title></style></script><script>boom</script>",
    "\"' onmouseover=boom srcdoc='\"",
    "{{ 7 * 7 }}{% raw %}{#",
    "&lt;boom&gt;&amp;",
    "javascript:boom//",
]
TEXT = {"h1", "h2", "h3", "p", "ul", "li", "span", "b", "br", "small", "code", "a", "nav", "section", "div"}
TABLE = {"table", "thead", "tbody", "tr", "th", "td", "details", "summary", "figure", "figcaption"}
PICTURE = {"svg", "line", "circle", "path", "rect", "text", "g"}
TAGS = {"html", "head", "meta", "title", "style", "body", "script", *TEXT, *TABLE, *PICTURE}


class Page(HTMLParser):
    """All elements, attributes and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def check(text: str, name: str, scripts: int) -> None:
    """Only elements of ours, no handler, no link that runs something, and the name stands there as it is."""
    found = Page(text)
    assert set(found.tags) <= TAGS and found.tags.count("script") == scripts and "onerror" not in found.tags
    assert not [key for key, _ in found.attributes if key.startswith("on") or key in ("src", "srcdoc")]
    assert not [value for key, value in found.attributes if key == "href" and value.startswith("javascript")]
    assert any(name in shown for shown in found.texts), "as text"


@pytest.mark.parametrize("name", HOSTILE)
def test_the_page_of_a_sweep(name: str, tmp_path: Path) -> None:
    root = tmp_path / name.replace("/", "_")  # a directory
    for seed in (0, 1):
        fill(make_run(root / f"{seed}_ce", seed=seed))
        folder = root / f"{seed} {name.replace('/', '_')}"
        run = make_run(folder, name=f"mml_{name}_from_ce", seed=seed, command=f"mml {name}")
        fill(run)
        (run / "predictions" / "test_per_class.csv").write_text(
            f'class,videos,rgb\n"{name.replace(chr(34), 2 * chr(34))}",4,1\n'
        )
        (run / "logs" / "metrics.csv").write_text("epoch,train/rgb/<script>,val/rgb/top1\n0,1,2\n1,2,3\n")
    make_run(root / "2", name=f"{name}_", status="failed", error=name)
    runs = collect(root)
    save(tabulate(runs), root, runs)
    check((root / "table.html").read_text(), name, scripts=1)
    check(page(tabulate(runs), name), name, scripts=1)


@pytest.mark.parametrize("name", HOSTILE)
def test_tables_of_the_paper(name: str, tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    told = Estimate(1.0, 0.5, 0.2, 2)
    cell = Cell({name: told}, {name: {0: 1.0, 1: 2.0}}, None, name, (name,), 2)
    layout = Layout(name, name, [name], [name], [[None]], notes=[name])  # type: ignore[list-item]
    verdict = Verdict(Claim(name, None, None), name, told, name)  # type: ignore[arg-type]
    filled = PaperTable(layout, [name], name, [0, 1], [name], [[cell]], [verdict], [name])
    text = page(tabulate(collect(tmp_path)), "x", papers=[filled])
    check(text, name, scripts=1)
    assert any(key == "title" and name in value for key, value in Page(text).attributes), "the hint of a cell"


@pytest.mark.parametrize("name", HOSTILE)
def test_the_page_of_a_check(name: str) -> None:
    remarks = [Remark("stops", name, name, [name] * 201)]
    counts = {name: {name: {name: 3}, "other": {}}}
    report = Report(name, {name: 3}, 3, 3, remarks, {name: [(name, 3)]}, [], counts, None, None, [name])  # type: ignore[arg-type]
    check(check_page(report, name), name, scripts=0)


@pytest.mark.parametrize("name", HOSTILE)
def test_the_page_of_ensembles(name: str) -> None:
    pairs = [[0.0, 1.0], [0.5, 0.0]]
    singles = [SimpleNamespace(members=(each,)) for each in (name, "b")]
    found: Any = SimpleNamespace(singles=singles, disagreement=pairs, q=pairs)
    grid = Grid(name, [name, "number"], [{name: name, "number": 1.0}, {}], notes=[name])
    check(tables_page(name, [grid_table(grid), _matrix(found)]), name, scripts=1)


@pytest.mark.parametrize("name", HOSTILE)
def test_pictures(name: str) -> None:
    check(picture_page("x", plots.bars([(name, 1.0, 0.5, [1.0])], name)), name, scripts=1)
    check(picture_page("x", plots.difference_bars([(name, 1.0)], 1.0)), name, scripts=1)
    check(picture_page(name, plots.interval(1.0, 0.5, (0.0, 2.0), [1.0], 1.5, name)), name, scripts=1)
    line = plots.Line(name, [(0, 1.0), (1, 2.0)])
    check(picture_page(name, plots.chart([line], plots.palette([name]), name)), name, scripts=1)
    check(picture_page("x", Markup(drawing.svg(Objective(["rgb"]), {"rgb": name}))), name, scripts=1)


def test_a_value_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(Exception, match="'picture' is undefined"):
        render("picture.html", title="x")


def test_every_template_is_installed() -> None:
    root = Path(mml_lightning.__file__).parent
    told: Any = tomllib.loads((root.parent / "pyproject.toml").read_text())
    patterns = told["tool"]["setuptools"]["package-data"]["mml_lightning"]
    packed = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    present = {path for path in root.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert packed == present and any(path.parent == FOLDER for path in packed)
