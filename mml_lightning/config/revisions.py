"""What earlier versions did otherwise under the same settings: their networks are never taken for equal ones.

An entry holds for the runs that a change has reached and for no other, so that all others have the identity they had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mml_lightning.config import backbones
from mml_lightning.data.records.records import Dataset, Record, rows
from mml_lightning.data.video.decode import DecodeError
from mml_lightning.data.video.images import open_media
from mml_lightning.sampling import independent


def revisions(values: Mapping[str, Any], data: Dataset) -> dict[str, int]:
    """{what is done otherwise than at first: since which version of it} of a plain config and its data.

    draws 2: dense, random and strided clips took one place in the range of the widest modality.
    labels 2: timed labels of networks without rgb were those of their own windows.
    crop 2: networks of stored flow alone were cropped on the grid of the flow, in company on that of the frames.
    missing 2: where a modality is missing, zeros went through the batch norms, and means were those of each rank.
    tail 2: accumulated steps of fewer batches than the others were divided by the number of those.
    nonlocal 2: partial batch norm kept non-local blocks at zero.
    """
    sampling, trainer = values["sampling"], values["trainer"]
    changed = {
        "draws": sampling["policy"] == "fixed" and sampling["mode"] != "uniform",
        "labels": _labels(values, data),
        "crop": _crop(values, data),
        "missing": values["data"].get("missing") == "mask",
        "tail": _has_tail(trainer, len(data.splits.get("train", ())) // int(values["data"]["batch_size"])),
        "nonlocal": values["batch_norm"]["freeze"] == "partial"
        and any(net.get("nonlocal_blocks") for net in backbones.settings(values)),
    }
    return {what: 2 for what, reached in changed.items() if reached}


def _labels(values: Mapping[str, Any], data: Dataset) -> bool:
    sampling, modalities = values["sampling"], values["modality"].values()
    if values["data"].get("labels", "clip") != "clip" or not sampling["shared"]:
        return False
    if any(one["source"] == "frames" and one["window"] == 1 for one in modalities):
        return False
    free = independent(sampling["mode"], sampling["policy"])
    return free and any(row.intervals for row in rows(data.splits.get("train", ())))


def _crop(values: Mapping[str, Any], data: Dataset) -> bool:
    """By the first video: a data set has frames of one kind, and flow of one kind."""
    first = next(iter(data.splits.get("train", ())), None)
    if first is None or {one["source"] for one in values["modality"].values()} != {"flow"}:
        return False
    return {"frames", "flow"} <= first.media.keys() and _sizes_differ(first, values["data"]["decoder"])


def _sizes_differ(record: Record, decoder: str) -> bool:
    sizes = set()
    for source in ("frames", "flow"):
        try:
            with open_media(record.media[source], record.decoder or decoder) as opened:
                sizes.add(opened.size)
        except DecodeError:
            return True  # nobody knows
    return len(sizes) > 1


def _has_tail(trainer: Mapping[str, Any], batches: int) -> bool:
    limit, together = trainer.get("limit_train_batches"), int(trainer["accumulate_grad_batches"])
    if limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return batches % together != 0
