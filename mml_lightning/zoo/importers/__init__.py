"""Weights of other projects for our networks: torchvision, TSM, MML, SlowFast, PyTorchVideo and Caffe2 files.

`read_checkpoint` opens a file without running code from it, `recognise` maps its names to ours, `fit` checks them
against a network, `zoo_entry` makes what a zoo file holds.
"""

from mml_lightning.zoo.importers.convert import Imported, import_trunk, zoo_entry
from mml_lightning.zoo.importers.match import MIN_MATCHED, Report, fit, fit_head
from mml_lightning.zoo.importers.naming import Recognised, recognise
from mml_lightning.zoo.importers.safe_load import Checkpoint, read_checkpoint

__all__ = [
    "MIN_MATCHED",
    "Checkpoint",
    "Imported",
    "Recognised",
    "Report",
    "fit",
    "fit_head",
    "import_trunk",
    "read_checkpoint",
    "recognise",
    "zoo_entry",
]
