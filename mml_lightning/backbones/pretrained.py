"""ImageNet weights for the 2-D trunks: from a file, or fetched on request with a checked hash.

The files are torchvision's IMAGENET1K_V1 weights; the first eight digits of the SHA-256 are part of each name.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor

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


def imagenet_weights(depth: int | str, path: str | Path | None = None) -> dict[str, Tensor]:
    """State dict of a three-channel trunk (`conv1.weight`, `layer1.0.conv1.weight`, ..), without the classifier.

    Feed it through `stem.convert_state` for another modality and `match_shift_names` for a shifted network.

    Args:
        depth: 18, 34, 50, 101 or 152 of a ResNet, or `mobilenet_v2`.
        path: a local .pth file with torchvision's names; None uses the download cache, or downloads.

    Raises:
        ValueError: no ImageNet weights for this depth, unreadable or unfitting file, no connection, wrong hash.
    """
    if depth not in FILES:
        choices = ", ".join(map(str, FILES))
        raise ValueError(f"depth={depth!r} has no ImageNet weights: use init=scratch, or a depth of {choices}")
    state = _download(depth) if path is None else _load(Path(path))
    trunk = {key: value for key, value in state.items() if not key.startswith(("fc.", "classifier."))}
    _check_fit(trunk, depth, path or FILES[depth])
    return trunk


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
        raise ValueError(f"no file {path}: give the path of a torchvision ResNet .pth file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is not a PyTorch weights file: download it again") from error
    if isinstance(state, Mapping):
        state = state.get("state_dict", state)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict: give a torchvision ResNet .pth file")
    return state


def _check_fit(state: Mapping[str, Tensor], depth: int | str, origin: str | Path) -> None:
    with torch.device("meta"):
        network = MobileNetV2() if depth == "mobilenet_v2" else resnet(depth)
    wanted = network.state_dict()
    # the counters came after the oldest of these files; loading fills them in
    shapes = {key: value.shape for key, value in wanted.items() if not key.endswith("num_batches_tracked")}
    found = {key: value.shape for key, value in state.items() if not key.endswith("num_batches_tracked")}
    if found != shapes:
        odd = next(key for key in (*shapes, *found) if shapes.get(key) != found.get(key))
        name = depth if isinstance(depth, str) else f"ResNet-{depth}"
        raise ValueError(f"{origin} does not fit {name} (first difference: {odd}): give the file of this depth")
