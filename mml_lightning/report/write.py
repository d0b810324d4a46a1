"""Where a table goes: table.md, .csv, .json and .html in a directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mml_lightning.report.collect import Run, collect_all
from mml_lightning.report.markdown import markdown, to_csv, to_json
from mml_lightning.report.page import page
from mml_lightning.report.paper_table import PaperTable
from mml_lightning.report.paper_table_html import filled_tables
from mml_lightning.report.table import Table, tabulate
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import write_atomically


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
        raise UserError("several directories: say where the table goes with --out DIR")
    runs = collect_all(roots)
    table = tabulate(runs, split, metrics)
    save(table, roots[0] if out is None else Path(out), runs, papers=filled_tables(roots))
    return table


def save(
    table: Table,
    directory: Path,
    runs: Sequence[Run] = (),
    baseline: str | None = None,
    papers: Sequence[PaperTable] = (),
) -> list[Path]:
    """Write the four files of one table; returns their paths. For `runs`, `baseline` and `papers` see
    :func:`mml_lightning.report.page.page`.

    Raises:
        UserError: `baseline` is no row, or the files can't be written.
    """
    try:
        html = page(table, directory.resolve().name, runs, directory, baseline, papers)
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
