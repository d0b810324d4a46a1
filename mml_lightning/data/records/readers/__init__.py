"""Dataset readers: annotation files to :class:`mml_lightning.data.records.records.Dataset`, joined by id.

Each is one function bound in conf/data/. Files are looked for below the root of the dataset; what is wrong with them is
one line that names the file, the line and the fixing.
"""

from mml_lightning.data.records.readers.annotated import read_annotated
from mml_lightning.data.records.readers.columns import COLUMNS
from mml_lightning.data.records.readers.demo import read_demo
from mml_lightning.data.records.readers.folders import read_folders
from mml_lightning.data.records.readers.frame_lists import read_frame_lists
from mml_lightning.data.records.readers.mirrored import mirrored_classes
from mml_lightning.data.records.readers.pack import read_pack
from mml_lightning.data.records.readers.ssv2 import read_ssv2
from mml_lightning.data.records.readers.table import read_csv

__all__ = [
    "COLUMNS",
    "mirrored_classes",
    "read_annotated",
    "read_csv",
    "read_demo",
    "read_folders",
    "read_frame_lists",
    "read_pack",
    "read_ssv2",
]
