"""The saved workspace and report of a sweep in W&B, made through W&B's own library `wandb-workspaces`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mml_lightning.report.table import Table
from mml_lightning.report.wandb_report import JOB_TYPE, Place
from mml_lightning.runs.tracking import wandb_mode
from mml_lightning.utils.errors import UserError

NEEDED = "pip install 'mml_lightning[wandb]'"


def save_views(table: Table, directory: Path, place: Place) -> list[str]:
    """Make the workspace and the report of the sweep in `directory`; returns their addresses.

    Raises:
        UserError: wandb-workspaces is not installed, nobody is logged in, or W&B refuses.
    """
    workspaces, reports = library()
    if wandb_mode(place.mode) != "online":
        raise UserError(
            "not logged in to W&B, so no workspace or report is saved there: wandb login, upload the runs with "
            "wandb sync, then this command again"
        )
    entity = place.entity or _entity()
    name = directory.resolve().name
    workspace = build_workspace(workspaces, reports, table, name, entity, place.named_project)
    report = build_report(reports, table, name, entity, place.named_project)
    try:
        workspace.save()
        report.save()
    except Exception as error:  # W&B's errors share no base: a missing project, rights, the network
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"W&B did not save the views: {lines[0]}") from error
    return [str(workspace.url), str(report.url)]


def library() -> tuple[Any, Any]:
    """`wandb_workspaces.workspaces` and `wandb_workspaces.reports.v2`.

    Raises:
        UserError: not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError:
        raise UserError(f"saved views of W&B need wandb-workspaces: {NEEDED}") from None
    return workspaces, reports


def _entity() -> str:
    import wandb

    try:
        return str(wandb.Api().default_entity)
    except Exception as error:  # as above
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"W&B does not respond: {lines[0]}; logger.mode=offline keeps everything on disk") from error


def build_workspace(workspaces: Any, reports: Any, table: Table, name: str, entity: str, project: str) -> Any:
    """Runs of the group `name` by row: the final numbers with their spread over seeds, and the curves."""
    by_row = reports.Config("ablation/name")
    numbers = [
        reports.BarPlot(
            title=f"{quantity} ({split})",
            metrics=[f"{split}/{quantity}"],
            groupby=by_row,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        )
        for split in _splits(table)
        for quantity in table.measured
    ]
    curves = [
        reports.LinePlot(
            title=f"val/{quantity}", x="epoch", y=[f"val/{quantity}"], groupby=by_row, groupby_rangefunc="stddev"
        )
        for quantity in table.measured
    ]
    shown = ["ablation/stage", "ablation/modality", "ablation/seed"]
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            workspaces.Section(name="Results by row", panels=numbers, is_open=True),
            workspaces.Section(name="Validation", panels=curves, is_open=True),
        ],
        runset_settings=workspaces.RunsetSettings(
            filters=f"Group = '{name}' and JobType != '{JOB_TYPE}'",
            groupby=[workspaces.Config("ablation/name")],
            pinned_columns=[f"config:{key}.value" for key in shown],
        ),
    )


def build_report(reports: Any, table: Table, name: str, entity: str, project: str) -> Any:
    """The finished table, its bars, differences and classes (logged by the run `report_<name>`), then the curves."""
    # run sets without a project are of the report's
    made = reports.Runset(name="table", filters=f"Group = '{name}' and JobType = '{JOB_TYPE}'")
    runs = reports.Runset(
        name="runs",
        filters=f"Group = '{name}' and JobType != '{JOB_TYPE}'",
        groupby=["config.ablation/name"],
    )
    keys = [quantity.replace("/", " ") for quantity in table.measured]
    drawn = [reports.MediaBrowser(title=f"{key}, 95 % interval", media_keys=[f"intervals/{key}"]) for key in keys]
    tables = [reports.WeavePanelSummaryTable(table_name=key) for key in ("table", "differences", "classes")]
    curves = [
        reports.LinePlot(title=f"val/{q}", x="epoch", y=[f"val/{q}"], groupby=reports.Config("ablation/name"))
        for q in table.measured
    ]
    return reports.Report(
        entity=entity,
        project=project,
        title=name,
        description="Mean over seeds with 95 % intervals; made by mml report --wandb",
        blocks=[
            reports.H1("Results"),
            reports.PanelGrid(runsets=[made], panels=[*tables[:1], *drawn]),
            reports.H1("Differences to the baseline"),
            reports.PanelGrid(runsets=[made], panels=tables[1:]),
            reports.H1("Training"),
            reports.PanelGrid(runsets=[runs], panels=curves),
            reports.H1("Notes"),
            reports.UnorderedList(items=[*table.notes, f"runs: {sum(map(len, table.runs))}"]),
        ],
    )


def _splits(table: Table) -> list[str]:
    return list(dict.fromkeys(str(row["split"]) for row in table.rows if row["split"]))
