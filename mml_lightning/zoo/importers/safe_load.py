"""Checkpoint files of other projects, read without running any code that they may hold.

PyTorch files go through `torch.load(weights_only=True)`. Plain pickles (Caffe2) go through an unpickler that knows
numpy arrays, dicts, lists, strings and numbers, and refuses every other name before it is imported.
"""

from __future__ import annotations

import io
import pickle
import re
import tarfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import check_unpacked, file_hash

ZIP, GZIP = b"PK\x03\x04", b"\x1f\x8b"
TORCH_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number that torch wrote before its zip format
CONTAINERS = ("state_dict", "model_state", "model_state_dict", "model", "blobs")
DEEPEST = 3  # containers inside one another

_RECONSTRUCT = np.ndarray(0).__reduce__()[0]
_SCALAR = np.float32(0).__reduce__()[0]
# Names that numpy 1, numpy 2 and Python 2 write for the same few things.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _SCALAR for core in ("core", "_core")},
}


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Args:
        state: tensors by the names the file uses.
        sha256: of the file's bytes.
        container: keys that led to the tensors, such as `state_dict`; empty for a bare state dict.
        content: the whole file.
    """

    state: dict[str, Tensor]
    sha256: str
    container: str
    content: Any


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint to the CPU.

    Raises:
        UserError: no such file, an archive that must be unpacked first, code inside, or no tensors.
    """
    content = load_file(path)
    state, container = _find_state(content, path)
    return Checkpoint(state, file_hash(path), container, content)


def load_file(path: Path) -> Any:
    """The content of a PyTorch file or a plain pickle.

    Raises:
        UserError: see `read_checkpoint`.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    with path.open("rb") as handle:
        start = handle.read(len(TORCH_LEGACY))
    if start.startswith(GZIP):
        raise UserError(f"{path} is compressed with gzip: unpack it (tar xzf, or gunzip) and give the file inside")
    if start.startswith(ZIP) or start == TORCH_LEGACY:
        return _load_torch(path)
    if tarfile.is_tarfile(path):
        raise UserError(f"{path} is a tar archive: unpack it (tar xf) and give the file inside")
    return _load_pickle(path)


def _load_torch(path: Path) -> Any:
    # best accuracies and the like are often stored as numpy scalars
    numbers: list[Any] = [np.dtype, *{type(np.dtype(kind)) for kind in "fdilq?"}]
    numbers += [(_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        check_unpacked(path)
        with torch.serialization.safe_globals(numbers):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|class|global) ([\w.]+\.[\w.]+)", str(error))
        what = f" ({found.group(1)})" if found else ""
        raise UserError(
            f"{path} holds more than tensors and plain values{what}, and loading that could run code: where you trust "
            "it, save its state dict alone with torch.save and import that file"
        ) from None
    except Exception as error:  # torch.load raises many unrelated types for damaged files
        raise UserError(f"{path} can't be read as weights, it is damaged ({type(error).__name__})") from None


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes in protocol 2
            return _encode
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _ForbiddenName(f"{module}.{name}") from None


class _ForbiddenName(Exception):
    """A pickle names something other than arrays and plain values."""


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


def _load_pickle(path: Path) -> Any:
    try:
        # latin1: the byte strings of Python 2, keys and array buffers alike
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except _ForbiddenName as error:
        raise UserError(
            f"{path} is rejected: its pickle calls {error}, and only numpy arrays, dicts, strings and numbers are read"
        ) from None
    except Exception as error:  # damaged pickles raise many unrelated types
        raise UserError(
            f"{path} is not a checkpoint: neither a PyTorch file nor a pickle of arrays ({type(error).__name__})"
        ) from None


def _find_state(content: Any, path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors, at the top or inside a container."""
    keys: list[str] = []
    while isinstance(content, Mapping):
        inner = next((key for key in CONTAINERS if isinstance(content.get(key), Mapping)), None)
        if inner is None or len(keys) == DEEPEST:
            break
        keys.append(inner)
        content = content[inner]
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dict of tensors: save the state dict itself")
    state = {key: _tensor(value) for key, value in content.items() if isinstance(key, str) and _is_array(value)}
    if not state:
        first = ", ".join(str(key) for key in list(content)[:4]) or "nothing"
        raise UserError(f"{path} holds no tensors (found {first}; looked into {', '.join(CONTAINERS)})")
    return state, ".".join(keys)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiu")


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
