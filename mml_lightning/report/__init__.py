"""Tables over runs, made from the result.json that each run leaves and never typed.

    table = write(Path("multirun/my_sweep"))      # table.md, .csv, .json and .html beside the runs
    print(paired(collect(root), "mml_rgb+flow_from_ce", "ce_rgb_from_imagenet", "test/rgb/top1"))

Accuracies are in percent throughout.
"""

from __future__ import annotations

from mml_lightning.report.collect import collect, collect_all
from mml_lightning.report.differences import differences
from mml_lightning.report.differences import write as write_differences
from mml_lightning.report.markdown import markdown, to_csv, to_json
from mml_lightning.report.measured import Measured
from mml_lightning.report.paired import Pairs, paired
from mml_lightning.report.paper_table import PaperTable, fill_paper_table
from mml_lightning.report.paper_table_html import filled_tables
from mml_lightning.report.paper_table_text import markdown as filled_markdown
from mml_lightning.report.paper_table_text import write as write_filled
from mml_lightning.report.rows import Group, group
from mml_lightning.report.table import Table, tabulate
from mml_lightning.report.wandb_report import Place, log_finished, to_wandb
from mml_lightning.report.write import save, write

__all__ = [
    "Group",
    "Measured",
    "Pairs",
    "PaperTable",
    "Place",
    "Table",
    "collect",
    "collect_all",
    "differences",
    "fill_paper_table",
    "filled_markdown",
    "filled_tables",
    "group",
    "log_finished",
    "markdown",
    "paired",
    "save",
    "tabulate",
    "to_csv",
    "to_json",
    "to_wandb",
    "write",
    "write_differences",
    "write_filled",
]
