"""Exported weights of single peers, with their provenance inside the file.

A zoo file is a dict of plain values and tensors that loads with `weights_only=True`: `state_dict`, `arch` (how to
rebuild the network), `modality`, `classes` and `provenance`. What is decided about weights is decided from these
entries, never from a file name.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import check_unpacked, file_hash, write_tensors

log = logging.getLogger(__name__)

FORMAT = 1
REQUIRED = ("state_dict", "arch", "modality", "classes", "provenance")


def export_peer(path: Path, entry: Mapping[str, Any]) -> Path:
    """Write a zoo file, whole or not at all.

    Args:
        entry: the keys :data:`REQUIRED`; plain values and tensors only.

    Raises:
        ValueError: a required key is missing.
    """
    missing = [key for key in REQUIRED if key not in entry]
    if missing:
        raise ValueError(f"zoo entry lacks {missing}")
    write_tensors(path, {"format": FORMAT, **entry})
    return path


def load_peer(path: Path) -> dict[str, Any]:
    """Read a zoo file to the CPU.

    Raises:
        UserError: no such file, not a zoo file, or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weight file")
    try:
        check_unpacked(path)
        entry = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many unrelated types for files that aren't checkpoints
        raise UserError(f"{path} can't be read as weights: damaged or other format ({type(error).__name__})") from None
    if not isinstance(entry, dict) or any(key not in entry for key in REQUIRED):
        found = sorted(map(str, entry))[:6] if isinstance(entry, dict) else type(entry).__name__
        raise UserError(
            f"{path} is not a zoo file (found {found}); use a <peer>.pt that a run exported below multirun/zoo"
        )
    check_fields(path, entry)
    return entry


def check_fields(path: Path, entry: Mapping[str, Any]) -> None:
    """Raises:
    UserError: a field of an entry is not what its name says.
    """
    classes, modality = entry.get("classes"), entry.get("modality")
    state = entry.get("state_dict")
    right = {
        "state_dict": isinstance(state, Mapping)
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()),
        "arch": isinstance(entry.get("arch"), Mapping),
        "modality": isinstance(modality, Mapping) and isinstance(modality.get("name"), str),
        "classes": isinstance(classes, Mapping)
        and all(isinstance(n, list) and all(isinstance(name, str) for name in n) for n in classes.values()),
        "provenance": isinstance(entry.get("provenance"), Mapping),
    }
    wrong = next((key for key, fine in right.items() if not fine), None)
    if wrong:
        raise UserError(f"{path}: its field {wrong!r} is damaged; use the file that the run exported")


def same_classes(entry: Mapping[str, Any], classes: Mapping[str, list[str]]) -> bool:
    """Whether the file's heads name the same classes in the same order."""
    return {head: list(names) for head, names in entry["classes"].items()} == {h: list(n) for h, n in classes.items()}


def unfilled(provenance: Mapping[str, Any]) -> list[str]:
    """Tensors of the trunk that an import left random because its source lacks them."""
    return list(((provenance.get("imported") or {}).get("report") or {}).get("missing") or ())


def warn_of_unfilled(path: object, provenance: Mapping[str, Any]) -> None:
    """One warning if the trunk of an imported file is not complete."""
    if names := unfilled(provenance):
        log.warning(
            "%s: %d trunk tensors are randomly initialised, the imported file lacked them (first %s)",
            path,
            len(names),
            names[0],
        )


def split_heads(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(trunk, heads) of a recogniser's state dict."""
    heads = {key: value for key, value in state.items() if key.startswith("heads.")}
    return {key: value for key, value in state.items() if key not in heads}, heads


def own_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a network without what belongs to the lessons that it was taught."""
    return {key: value for key, value in state.items() if not key.startswith("projections.")}


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """Of names, kinds, shapes and bits of all tensors, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


CHECKPOINT = ".ckpt"
AVERAGES = "AverageWeights"
"""The state of the callback of this name in a checkpoint has the averages of weights."""


def load_entry(path: Path, peer: str, modality: str) -> dict[str, Any]:
    """The network that a file offers to `peer`: a zoo file's only one; of a checkpoint the one of the same name, else
    the first one of the same modality.

    Raises:
        UserError: nothing to load there, or a checkpoint of other peers.
    """
    if path.suffix != CHECKPOINT:
        return load_peer(path)
    entries = checkpoint_entries(path)
    alike = [name for name, entry in entries.items() if entry["modality"]["name"] == modality]
    chosen = peer if peer in entries else alike[0] if alike else next(iter(entries)) if len(entries) == 1 else None
    if chosen is None:
        raise UserError(f"{path} holds the peers {list(entries)}, none of them {modality}; use one peer's file instead")
    return entries[chosen]


def checkpoint_entries(path: Path) -> dict[str, dict[str, Any]]:
    """The peers inside a checkpoint of a run, each as in a zoo file: with the averages of its weights where the run
    exports those.

    Raises:
        UserError: no such file, not a checkpoint of a run, or one without the averages.
    """
    try:
        check_unpacked(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        described, config = content["hyper_parameters"]["peers"], content["hyper_parameters"]["config"]
        state, averaged = _measured(content, path)
        fused = _fusion(content, state)
        fingerprint = file_hash(path)[:16]
        if averaged:  # earlier versions took the trained weights of the same file
            fingerprint = hashlib.sha256(f"{fingerprint} averaged".encode()).hexdigest()[:16]
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except UserError:
        raise
    except Exception as error:  # torch.load raises many unrelated types for damaged files
        raise UserError(f"{path} is not a readable checkpoint of a run ({type(error).__name__})") from None
    try:
        entries = {
            name: {
                **entry,
                "state_dict": own_weights(
                    {
                        key.removeprefix(f"peers.{name}."): value
                        for key, value in state.items()
                        if key.startswith(f"peers.{name}.")
                    }
                ),
                **fused,
                "provenance": {
                    "peer": name,
                    "run": config["name"],
                    "stage": config["stage"]["name"],
                    "seed": config["seed"],
                    **_backbone(config, entry["modality"]["name"]),
                    **_made(content),
                    **averaged,
                    "fingerprint": fingerprint,
                    "sampling": config["sampling"],
                    "transforms": config["transforms"],
                },
            }
            for name, entry in described.items()
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a complete checkpoint of a run ({type(error).__name__}: {error})") from None
    for entry in entries.values():
        check_fields(path, entry)
    return entries


def _measured(content: Mapping[str, Any], path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights in a checkpoint that its run measures and exports, and what their provenance says of them.

    Raises:
        UserError: they are averages, which the checkpoint does not have.
    """
    state, wanted = dict(content["state_dict"]), content["hyper_parameters"]["config"].get("ema") or {}
    decay = wanted.get("decay")
    if decay is None or wanted.get("weights", "averaged") != "averaged":
        return state, {}
    averages = (content.get("callbacks") or {}).get(AVERAGES, {}).get("averages")
    if not averages:
        raise UserError(
            f"{path} is of a run that exports averaged weights (ema.decay={decay:g}) and holds only the trained ones: "
            "use last.ckpt or peers/<peer>.pt of the run"
        )
    return state | averages, {"averaged": decay}


def _fusion(content: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What entries of a checkpoint have of the fusion of its run: `fusion`, if that has learned.

    Args:
        content: of the file; state: its weights, or their averages.
    """
    arch = content["hyper_parameters"].get("fusion")
    if not isinstance(arch, Mapping):
        return {}
    own = {key.removeprefix("fusion."): value for key, value in state.items() if key.startswith(("fusion.", "gate."))}
    gate = content["hyper_parameters"].get("gate")
    gated = {"gate": dict(gate)} if isinstance(gate, Mapping) else {}
    return {"fusion": {"arch": dict(arch), "state_dict": own, **gated, "provenance": {}}}


def _backbone(config: Mapping[str, Any], modality: str) -> dict[str, str]:
    """What is told of the network of a modality by the config of a run."""
    told = config.get("backbone")
    if told is None:
        return {}
    own = told.get(modality)
    return {"backbone": str((own if isinstance(own, Mapping) and "name" in own else told)["name"])}


def _made(content: Mapping[str, Any]) -> dict[str, Any]:
    """How long a checkpoint was trained: whole epochs and steps, and whether it is that of a run's end."""
    if "loops" not in content:
        return {"epochs": content["epoch"] + 1}
    epochs = int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])  # completed after it is saved
    planned = int(content["hyper_parameters"]["config"]["schedule"]["epochs"])
    cut = [] if epochs >= planned else [f"a checkpoint after {epochs} of {planned} epochs"]
    return {"epochs": epochs, "steps": int(content["global_step"]), "planned_epochs": planned, "limited": cut}
