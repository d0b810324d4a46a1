"""A pack as a dataset: its records, labels and splits stand in it."""

from __future__ import annotations

from pathlib import Path

from mml_lightning.data.records.pack_index import read_dataset
from mml_lightning.data.records.records import Dataset


def read_pack(name: str, root: str) -> Dataset:
    """The dataset that `mml pack` has put below `root`.

    Raises:
        UserError: there is no pack, it is not finished, a file of it is missing, damaged or cut off.
    """
    return read_dataset(name, Path(root).expanduser())
