"""The finished table in W&B: the offline run is read back; the saved views are built and looked at."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.cli.main import main
from mml_lightning.report import Place, collect, tabulate, to_wandb
from mml_lightning.report.wandb_workspace import build_report, build_workspace, library, save_views
from mml_lightning.utils.errors import UserError
from tests.offline import OfflineRun, offline_run
from tests.report.test_page import fill
from tests.report.test_table import make_run

METHOD = "mml_rgb+flow_from_ce"


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    root = tmp_path / "sweep"
    for seed in (0, 1):
        fill(make_run(root / f"{seed}_ce", seed=seed))
        fill(make_run(root / f"{seed}_mml", name=METHOD, seed=seed, top1={"rgb": 63.0, "flow": 50.0}), 2.0)
    return root


@pytest.fixture
def logged(sweep: Path) -> OfflineRun:
    runs = collect(sweep)
    return offline_run(to_wandb(tabulate(runs), sweep, Place(mode="offline"), runs))


def test_the_offline_run_holds_the_table(sweep: Path, logged: OfflineRun) -> None:
    table = tabulate(collect(sweep))
    assert sweep in logged.folder.parents
    assert (logged.run.run_group, logged.run.job_type, list(logged.run.tags)) == ("sweep", "report", ["report"])
    assert logged.config["baseline"] is None and logged.config["rows"][1] == METHOD
    columns, rows = logged.table("table")
    assert columns == table.columns
    assert rows == [[row[column] for column in columns] for row in table.rows]
    assert logged.summary[f"{METHOD}/test/rgb/top1"] == 63.0
    assert logged.summary["ce_rgb_from_scratch/test/rgb/top1/ci95"] == pytest.approx(12.706 / 2)
    import wandb

    assert wandb.run is None


def test_it_holds_seeds_differences_classes_bars_and_the_page(sweep: Path, logged: OfflineRun) -> None:
    columns, rows = logged.table("seeds")
    assert columns == ["row", "split", "quantity", "seed", "value", "path"] and len(rows) == 2 + 4
    assert ["ce_rgb_from_scratch", "test", "rgb/top1", 1, 61.0, str(sweep / "1_ce")] in rows
    _, ((name, base, quantity, mean, half, count, significant),) = logged.table("differences")
    assert (name, base, quantity, mean, count, significant) == (
        METHOD,
        "ce_rgb_from_scratch",
        "rgb/top1",
        2.5,
        2,
        False,
    )
    assert half == pytest.approx(12.706 / 2)
    _, rows = logged.table("classes")
    assert [row[2:] for row in rows] == [["rgb", "pulling", 2.0], ["rgb", "pushing <x>", 2.0]]
    bars = logged.media("intervals/rgb top1").read_text()
    assert bars.count('class="whisker"') == 1 and bars.count('class="dot"') == 4  # one interval is of width 0
    columns, rows = logged.table("bars/rgb top1_table")  # of W&B's own bar chart
    assert columns == ["row", "mean", "low", "high", "n"] and rows[1] == [METHOD, 63.0, 63.0, 63.0, 2]
    assert '<section id="Differences"' in logged.media("page").read_text()


def test_a_sweep_without_a_row_is_logged(tmp_path: Path, sweep: Path) -> None:
    make_run(tmp_path / "x" / "0", status="failed", metrics={})
    table = tabulate(collect(tmp_path / "x"))
    columns, rows = offline_run(to_wandb(table, tmp_path / "x")).table("table")
    assert columns == table.columns and len(rows) == 1


def test_the_command_logs_offline_and_says_why_nothing_is_saved(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(sweep), "--wandb", "--baseline", METHOD]) == 0
    told = capsys.readouterr().out
    assert "no saved views: not logged in to W&B" in told
    (folder,) = sweep.glob("wandb/offline-run-*")
    assert offline_run(folder).config["baseline"] == METHOD
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(UserError, match=r"need wandb-workspaces: pip install 'mml_lightning\[wandb\]'"):
        save_views(tabulate(collect(sweep)), sweep, Place())


@pytest.fixture
def views(sweep: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The workspace and the report as they would be sent."""
    pytest.importorskip("wandb_workspaces")
    workspaces, reports = library()
    table = tabulate(collect(sweep))
    workspace = build_workspace(workspaces, reports, table, "sweep", "me", "mine")
    report = build_report(reports, table, "sweep", "me", "mine")
    return tuple(json.loads(view._to_model().model_dump_json(by_alias=True)) for view in (workspace, report))  # type: ignore[return-value]


def test_the_workspace_shows_the_runs_of_the_sweep_by_row(views: tuple[dict[str, Any], dict[str, Any]]) -> None:
    told = views[0]["spec"]["section"]
    (runs,) = told["runSets"]
    filters = [(f["key"]["name"], f["op"], f["value"]) for f in runs["filters"]["filters"]]
    assert filters == [("group", "=", "sweep"), ("jobType", "!=", "report")]
    assert runs["grouping"] == [{"section": "config", "name": "ablation/name.value"}]
    panels = [panel["config"] for section in told["panelBankConfig"]["sections"] for panel in section["panels"]]
    assert [panel["metrics"] for panel in panels] == [
        [f"{s}/{p}/top1"] for s in ("test", "val") for p in ("rgb", "flow")
    ]
    assert {panel["groupBy"] for panel in panels} == {"ablation/name.value"}


def test_the_report_shows_what_the_run_of_the_table_has_logged(
    views: tuple[dict[str, Any], dict[str, Any]], logged: OfflineRun
) -> None:
    text = json.dumps(views[1])
    for key in ("table", "differences", "classes", "intervals/rgb top1", "intervals/flow top1"):
        assert key in text
        assert logged.media(key).is_file(), f"the run has no {key}"
    assert views[1]["displayName"] == "sweep" and "val/rgb/top1" in text


def test_a_refusal_of_wandb_is_one_line(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb_workspaces")

    def refuse(*given: object) -> None:
        raise ValueError("no such project\nlong trace")

    workspaces, _ = library()
    monkeypatch.setattr(workspaces.Workspace, "save", refuse)
    with pytest.raises(UserError, match=r"W&B did not save the views: no such project$"):
        save_views(tabulate(collect(sweep)), sweep, Place(entity="me", mode="online"))
