"""What has learned beside the peers of a run, in a file beside theirs: the fusion of their outputs.

It is a dict of plain values and tensors that loads with `weights_only=True`: `arch` (how to make the fusion again),
`state_dict` and `provenance`; where a policy was trained as well, `gate` (how to make it again), whose weights have
names that begin with :data:`GATE`. In an entry that was loaded it stands under `fusion`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import check_unpacked, write_tensors
from mml_lightning.zoo.files import load_peer

FILE = "fusion.pth"
FORMAT = 1
GATE = "gate."
REQUIRED = ("state_dict", "arch", "provenance")


def export_fusion(folder: Path, entry: Mapping[str, Any]) -> Path:
    """Write the fusion of the peers whose files lie in `folder`, whole or not at all.

    Args:
        entry: the keys :data:`REQUIRED`.
    """
    path = folder / FILE
    write_tensors(path, {"format": FORMAT, **entry})
    return path


def load_fusion(path: Path) -> dict[str, Any]:
    """Raises:
    UserError: it can't be read, or is something else.
    """
    try:
        check_unpacked(path)
        entry = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many unrelated types for files that aren't checkpoints
        raise UserError(f"{path} can't be read: damaged or other format ({type(error).__name__})") from None
    if not isinstance(entry, dict) or any(not isinstance(entry.get(key), Mapping) for key in REQUIRED):
        raise UserError(f"{path} is not the fusion of a run: use the file that the run exported beside its peers")
    state: Mapping[Any, Any] = entry["state_dict"]
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise UserError(f"{path}: its field 'state_dict' is damaged; use the file that the run exported")
    return entry


def load_with_fusion(file: Path) -> dict[str, Any]:
    """The network in a zoo file, and the fusion that was trained with it, if one lies beside it.

    Raises:
        UserError: as of `load_peer` and :func:`load_fusion`.
    """
    entry, beside = load_peer(file), file.with_name(FILE)
    return entry | ({"fusion": load_fusion(beside)} if beside.is_file() else {})
