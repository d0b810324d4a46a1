"""Tables over runs, made from the result.json that each run leaves and never typed.

    table = write(Path("multirun/my_sweep"))      # table.md, .csv, .json and .html beside the runs
    print(paired(collect(root), "mml_rgb+flow_from_ce", "ce_rgb_from_imagenet", "test/rgb/top1"))

Accuracies are in percent throughout.
"""

from __future__ import annotations

from mml_lightning.report.collect import collect, collect_all
from mml_lightning.report.dashboard import Place, log_finished, to_wandb, wandb_mode
from mml_lightning.report.differences import differences
from mml_lightning.report.differences import write as write_differences
from mml_lightning.report.filled import Filled, Measured, fill
from mml_lightning.report.filled_page import filled_tables
from mml_lightning.report.filled_text import markdown as filled_markdown
from mml_lightning.report.filled_text import write as write_filled
from mml_lightning.report.groups import Group, group
from mml_lightning.report.pairs import Pairs, paired
from mml_lightning.report.publish import save, write
from mml_lightning.report.render import markdown, to_csv, to_json
from mml_lightning.report.table import Table, tabulate

__all__ = [
    "Filled",
    "Group",
    "Measured",
    "Pairs",
    "Place",
    "Table",
    "collect",
    "collect_all",
    "differences",
    "fill",
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
    "wandb_mode",
    "write",
    "write_differences",
    "write_filled",
]
