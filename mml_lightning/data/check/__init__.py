"""What `mml check` finds out about a dataset, and what runs make of it.

`findings` are the lines it writes, `inspection` makes one of them, `work` makes all, `hashes` and `leaks` find videos
that are the same, `labels`, `remarks` and `summary` say what it means, `text` and `page` show it, `applied` is what
training reads.
"""

from mml_lightning.data.check.applied import FILE, folder, with_check
from mml_lightning.data.check.findings import UNREADABLE, Finding, read
from mml_lightning.data.check.inspection import inspect
from mml_lightning.data.check.leaks import Leaks, find_leaks, write_leaks
from mml_lightning.data.check.page import page
from mml_lightning.data.check.summary import Report, Speed, Wanted, summarise
from mml_lightning.data.check.text import lines
from mml_lightning.data.check.work import check

__all__ = [
    "FILE",
    "UNREADABLE",
    "Finding",
    "Leaks",
    "Report",
    "Speed",
    "Wanted",
    "check",
    "find_leaks",
    "folder",
    "inspect",
    "lines",
    "page",
    "read",
    "summarise",
    "with_check",
    "write_leaks",
]
