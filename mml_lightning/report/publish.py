"""Where a table goes: table.md, .csv, .json and .html in a directory, and one summary run of W&B."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mml_lightning.errors import UserError
from mml_lightning.files import write_atomically
from mml_lightning.report.collect import Run, collect_all
from mml_lightning.report.page import page
from mml_lightning.report.render import markdown, to_csv, to_json
from mml_lightning.report.table import Table, tabulate


def write(
    roots: Path | Sequence[Path],
    split: str = "test",
    metrics: Sequence[str] | None = None,
    out: Path | None = None,
) -> Table:
    """Make the table of all runs below `roots` and write it to `out` (default: the only root); returns it.

    Safe while other processes do the same: each file is replaced as a whole. Raises UserError as collect and
    tabulate do, for several roots without `out`, and where `out` can't be written.
    """
    roots = [Path(roots)] if isinstance(roots, str | Path) else [Path(root) for root in roots]
    if out is None and len(roots) != 1:
        raise UserError("several directories have no common place for their table; name one with --out DIR")
    runs = collect_all(roots)
    table = tabulate(runs, split, metrics)
    save(table, roots[0] if out is None else Path(out), runs)
    return table


def save(table: Table, directory: Path, runs: Sequence[Run] = (), baseline: str | None = None) -> list[Path]:
    """Write the four files of one table; returns their paths. For `runs` and `baseline` see
    :func:`mml_lightning.report.page.page`.

    Raises:
        UserError: `baseline` is no row, or the files can't be written.
    """
    try:
        html = page(table, directory.resolve().name, runs, directory, baseline)
    except ValueError as error:
        raise UserError(f"--baseline: {error}") from None
    texts = {
        "table.md": markdown(table),
        "table.csv": to_csv(table),
        "table.json": to_json(table),
        "table.html": html,
    }
    try:
        for name, text in texts.items():
            with write_atomically(directory / name) as handle:
                handle.write(text)
    except OSError as error:
        raise UserError(f"can't write the table to {directory}: {error.strerror or error}") from error
    return [directory / name for name in texts]


def wandb_mode(configured: str = "auto") -> str:
    """`configured`; for "auto" what WANDB_MODE says, else online when logged in and offline when not."""
    import wandb

    if configured != "auto":
        return configured
    return os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")


def to_wandb(
    table: Table, directory: Path, project: str | None = None, entity: str | None = None, mode: str = "auto"
) -> Path:
    """Log the table and its means as one W&B run of job_type "report", in the group named after `directory`.

    Returns the folder of the run, below `directory` unless WANDB_DIR says otherwise. For `mode` see
    :func:`wandb_mode`; without `project`, WANDB_PROJECT is obeyed. The run is its own even inside a process that has
    another one open. Raises UserError if W&B refuses.
    """
    import wandb

    name = directory.resolve().name
    try:
        run = wandb.init(
            project=project or os.environ.get("WANDB_PROJECT") or "mml_lightning",
            entity=entity,
            group=name,
            name=f"report_{name}",
            job_type="report",
            mode=wandb_mode(mode),  # type: ignore[arg-type]
            dir=os.environ.get("WANDB_DIR") or str(directory),
            reinit="create_new",
        )
    except wandb.errors.Error as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"W&B refused the report: {reason}; WANDB_MODE=offline keeps it on disk") from error
    try:
        rows = [[row[column] for column in table.columns] for row in table.rows]
        run.log({"table": wandb.Table(columns=list(table.columns), data=rows, allow_mixed_types=True)})
        for row in table.rows:
            for quantity in table.measured:
                if row[quantity] is not None:
                    run.summary[f"{row['name']}/{row['split']}/{quantity}"] = row[quantity]
        return Path(run.dir).parent
    finally:
        run.finish()
