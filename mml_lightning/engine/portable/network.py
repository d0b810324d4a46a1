"""A peer with its preparation inside, as a file: uint8 clips in, logits of each head out.

Legend: B clips, T steps, C stored channels of a step (window x 3, of flow window x 2), H W pixels, K classes of a head.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mml_lightning.backbones.execution import set_memory_format
from mml_lightning.backbones.peer import Peer
from mml_lightning.backbones.registry import BUILDERS, rebuild
from mml_lightning.modalities import Modality
from mml_lightning.utils.errors import UserError

FORMATS = ("onnx", "torch", "safetensors")
FILES = {"onnx": "model.onnx", "torch": "model.pt2", "safetensors": "model.safetensors"}
INPUT = "clip"
SOURCES = ("frames", "flow")
"""What clips may be cut from: `infer.py` knows how."""
PREPARED = ("normalise", "difference")
"""Preparations that a portable network does itself."""
Run = Callable[[np.ndarray], list[np.ndarray]]
"""uint8 [B, T, C, H, W] -> logits [B, K] of each head."""


class PortableNetwork(nn.Module):
    """What is exported: a copy of a network in eval mode, with the preparation of its modality.

    Raises:
        UserError: its modality is prepared in a way that can't be exported.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, peer: Peer, modality: Modality) -> None:
        super().__init__()
        check_modality(modality)
        self.peer = copy.deepcopy(peer).cpu().float().eval().requires_grad_(False)
        set_memory_format(self.peer, "contiguous")
        self.window, self.differs = modality.window, modality.prepare == "difference"
        self.items = modality.item_channels
        for name in ("mean", "std"):
            values = getattr(modality, name)
            values = list(values) * (modality.window * modality.item_channels // len(values))
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        """uint8 [B, T, C, H, W] -> [B, K] of each head."""
        prepared = (clip.to(torch.float32) / 255.0 - self.mean) / self.std
        if self.differs:
            steps = prepared.unflatten(2, (self.window, self.items))
            prepared = (steps[:, :, 1:] - steps[:, :, :-1]).flatten(2, 3)
        return tuple(self.peer(prepared).logits.values())


def check_modality(modality: Modality) -> None:
    """Raises:
    UserError: clips of this modality are cut or prepared in a way that is not exported.
    """
    name, prepare = modality.name, modality.prepare
    if modality.source not in SOURCES:
        raise UserError(
            f"{name} looks at {modality.source}, which infer.py can't read: use mml predict; networks of frames and "
            "flow can be exported"
        )
    if prepare not in PREPARED:
        how = f"prepare={prepare}" if isinstance(prepare, str) else "a function of another package"
        raise UserError(
            f"the clips of {name} are prepared by {how}, which is not exported: use mml predict; networks with "
            f"prepare={' or '.join(PREPARED)} can be exported"
        )


def check_network(arch: Mapping[str, Any], form: str) -> None:
    """Raises:
    UserError: files of this format need their network built again, and this one is of another package.
    """
    builder = arch.get("builder")
    if form == "safetensors" and builder not in BUILDERS:
        raise UserError(
            f"infer.py can't build {builder}, a network of another package, from safetensors: use --format onnx, or "
            "torch"
        )


def write(network: PortableNetwork, form: str, folder: Path, shape: tuple[int, ...], told: Mapping[str, str]) -> Path:
    """The network as a file of `folder`, for any number of clips of `shape` [T, C, H, W].

    Args:
        told: texts that are put into the file.

    Raises:
        UserError: it can't be exported, or a package is missing.
    """
    path = folder / FILES[form]
    if form == "safetensors":
        write_safetensors(path, network.peer.state_dict(), told)
        return path
    example = torch.zeros(2, *shape, dtype=torch.uint8)
    try:
        with _quiet(), torch.no_grad():
            if form == "onnx":
                _write_onnx(network, path, example, told)
            else:
                batch = torch.export.Dim("batch", min=1)
                made = torch.export.export(network, (example,), dynamic_shapes={INPUT: {0: batch}})
                buffer = io.BytesIO()  # torch's own writer does not say why a disk refuses
                torch.export.save(made, buffer, extra_files={f"{key}.json": text for key, text in told.items()})
                path.write_bytes(buffer.getvalue())
    except (UserError, OSError):
        raise
    except Exception as error:  # exporters raise many unrelated types
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"this network can't be exported as {form} ({type(error).__name__}: {reason})") from None
    return path


def _write_onnx(network: PortableNetwork, path: Path, example: Tensor, told: Mapping[str, str]) -> None:
    onnx = _package("onnx")
    _package("onnxscript")
    made = torch.onnx.export(
        network,
        (example,),
        input_names=[INPUT],
        output_names=list(network.peer.num_classes),
        dynamic_shapes={INPUT: {0: "batch"}},
        dynamo=True,
        verbose=False,
    )
    assert made is not None
    model = made.model_proto
    onnx.helper.set_model_props(model, dict(told))
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def load(form: str, path: Path, network: PortableNetwork) -> Run:
    """The file, as its runtime runs it on one thread of a CPU.

    Raises:
        UserError: the runtime is missing.
    """
    if form == "onnx":
        return onnx_session(path)
    if form == "torch":
        return of_module(torch.export.load(path).module())
    again = copy.deepcopy(network)
    again.peer.load_state_dict(read_safetensors(path))
    return of_module(again)


def onnx_session(path: Path) -> Run:
    """Raises:
    UserError: onnxruntime is missing.
    """
    runtime = _package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda clips: [np.asarray(one) for one in session.run(None, {INPUT: clips})]


def of_module(module: nn.Module) -> Run:
    def run(clips: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [one.numpy() for one in module(torch.from_numpy(clips))]

    return run


def rebuilt(folder: Path) -> PortableNetwork:
    """The network of an exported folder of the format safetensors.

    Raises:
        ValueError: it is no such folder.
    """
    told = json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))
    modality = Modality(
        told["modality"],
        told["source"],
        told["window"],
        told["items"],
        told["mean"],
        told["std"],
        prepare=told["prepare"],
    )
    made = PortableNetwork(rebuild(told["network"]), modality)
    made.peer.load_state_dict(read_safetensors(folder / FILES["safetensors"]))
    return made


def require(form: str) -> None:
    """Raises:
    UserError: what a format needs is not installed; said before anything is computed.
    """
    for name in ("onnx", "onnxscript", "onnxruntime") if form == "onnx" else ():
        _package(name)


def _package(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"--format onnx needs the package {name}: pip install 'mml_lightning[export]'") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters tell their steps on standard output, and warn of what they do themselves."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)


# ------------------------------------------------------------------------------------------- safetensors, as specified

KINDS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64"}
KINDS |= {torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}
HEADER_BYTES = 2**27


def write_safetensors(path: Path, state: Mapping[str, Tensor], told: Mapping[str, str]) -> None:
    """A length (8 bytes), names and places as JSON, then the bytes of all tensors."""
    header: dict[str, Any] = {"__metadata__": dict(told)}
    parts, end = [], 0
    for name, tensor in state.items():
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        places = [end, end := end + len(raw)]
        header[name] = {"dtype": KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": places}
        parts.append(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Raises:
    ValueError: it is no such file.
    """
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    if not 2 <= size <= min(HEADER_BYTES, len(content) - 8):
        raise ValueError(f"{path} is not a safetensors file")
    header, data = json.loads(content[8 : 8 + size]), bytearray(content[8 + size :])
    kinds, found = {name: kind for kind, name in KINDS.items()}, {}
    for name, one in header.items():
        if name == "__metadata__":
            continue
        begin, end = one["data_offsets"]
        raw = torch.frombuffer(data[begin:end], dtype=torch.uint8) if end > begin else torch.zeros(0, dtype=torch.uint8)
        found[name] = raw.view(kinds[one["dtype"]]).reshape(one["shape"])
    return found
