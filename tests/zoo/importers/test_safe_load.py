"""Files that hold code, archives and rubbish are refused in one line; plain pickles of any age are read."""

from __future__ import annotations

import argparse
import gzip
import os
import pickle
import tarfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mml_lightning.utils.errors import UserError
from mml_lightning.zoo.importers import read_checkpoint
from mml_lightning.zoo.importers.safe_load import TORCH_LEGACY, ZIP


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def refused(file: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_checkpoint(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_runs_nothing(protocol: int, tmp_path: Path) -> None:
    marker, file = tmp_path / "ran", tmp_path / "x.pkl"
    file.write_bytes(pickle.dumps({"blobs": {"conv1_w": Malicious(marker)}}, protocol))
    refused(file, r"is rejected: its pickle calls (posix|nt)\.system, and only numpy arrays")
    assert not marker.exists()
    pickle.loads(file.read_bytes())  # the same bytes would have run it
    assert marker.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_torch_file_runs_nothing(legacy: bool, tmp_path: Path) -> None:
    marker, file = tmp_path / "ran", tmp_path / "x.pth"
    content = {"state_dict": {"conv1.weight": Malicious(marker)}}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    assert file.read_bytes().startswith(TORCH_LEGACY if legacy else ZIP)
    refused(file, r"holds more than tensors and plain values \((posix|nt)\.system\)")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["eval", "getattr", "__import__", "open"], ids=lambda name: f"builtins.{name}")
def test_builtins_are_no_plain_values(name: str, tmp_path: Path) -> None:
    file = tmp_path / "x.pkl"
    file.write_bytes(f"cbuiltins\n{name}\n(S'1'\ntR.".encode())
    refused(file, rf"calls builtins\.{name}")


def test_options_of_a_training_script_are_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "args": argparse.Namespace(lr=1)}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", r"argparse\.Namespace.*save its state dict alone")


def test_numpy_numbers_beside_tensors_are_read(tmp_path: Path) -> None:
    content = {"state_dict": {"a": torch.ones(1)}, "best": np.float64(61.2), "epoch": np.int64(3)}
    torch.save(content, tmp_path / "x.pth")
    read = read_checkpoint(tmp_path / "x.pth")
    assert list(read.state) == ["a"] and read.container == "state_dict" and read.content["best"] == 61.2


ARRAYS = OrderedDict(a=np.arange(6, dtype=np.float32).reshape(2, 3), b=np.ones((2, 1, 1), np.float64), n=np.float32(2))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("core", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_arrays_of_every_protocol_and_numpy(protocol: int, core: bytes, tmp_path: Path) -> None:
    data = pickle.dumps({"blobs": ARRAYS}, protocol)
    if protocol < 4:  # later ones write the length before a name
        data = data.replace(b"numpy._core.multiarray", core)
    (tmp_path / "x.pkl").write_bytes(data)
    state = read_checkpoint(tmp_path / "x.pkl").state
    assert torch.equal(state["a"], torch.arange(6.0).reshape(2, 3)) and state["b"].shape == (2, 1, 1)
    assert set(state) == {"a", "b"}  # a number is no weight


def test_the_byte_strings_of_python_2(tmp_path: Path) -> None:
    """Keys and buffers as Python 2 wrote them: SHORT_BINSTRING, whose bytes are latin1 to Python 3."""
    values = np.array([1.5, -2.0, 200.25], "<f4")
    dtype = b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(K\x03t" + dtype
    array += b"\x89U\x0c" + values.tobytes() + b"tb"
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02}U\x05blobs}U\x07conv1_w" + array + b"ss.")
    state = read_checkpoint(tmp_path / "x.pkl").state
    assert state["conv1_w"].tolist() == [1.5, -2.0, 200.25]


def test_big_endian_arrays_become_native(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"a": np.array([1.0, 2.0], ">f4")}))
    assert read_checkpoint(tmp_path / "x.pkl").state["a"].tolist() == [1, 2]


def test_archives_are_to_be_unpacked(tmp_path: Path) -> None:
    inner = tmp_path / "x.pkl"
    inner.write_bytes(pickle.dumps({"a": np.ones(2)}))
    with gzip.open(tmp_path / "x.pkl.gz", "wb") as handle:
        handle.write(inner.read_bytes())
    refused(tmp_path / "x.pkl.gz", "compressed with gzip: unpack it")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(inner, "x.pkl")
    refused(tmp_path / "x.tar", "tar archive: unpack it")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is not a checkpoint"),
        (b"<!DOCTYPE html><html>404</html>", "is not a checkpoint"),
        (ZIP + b"nothing", "damaged"),
        (pickle.dumps([1, 2]), "holds a list, not a dict"),
        (pickle.dumps({"epoch": 3}), r"holds no tensors \(found epoch"),
        (pickle.dumps({"a": np.array([None, "x"], object)}), "holds no tensors"),
    ],
)
def test_rubbish(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    refused(tmp_path / "x.pth", message)


def test_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "gone.pth", "no such checkpoint")
