"""An exported ONNX network in whole numbers of 8 bits, with its accuracy beside that of the one it is made of.

Legend: B clips, T steps, C channels of a step, H W pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mml_lightning.data.records.records import SPLITS, Dataset, Record
from mml_lightning.engine.portable import network as networks
from mml_lightning.engine.predict import Predictor
from mml_lightning.utils.errors import UserError

FILE = "model_int8.onnx"
CALIBRATED_ON = "train"
CALIBRATION, MEASURED = 64, 500  # videos at most


def quantise(folder: Path, predictor: Predictor, data: Dataset) -> dict[str, Any]:
    """Write :data:`FILE` beside the network of `folder`, calibrated on training clips; what was measured on the others.

    Raises:
        UserError: there are several heads or several labels per video, no videos, or the network can't be quantised.
    """
    if len(predictor.heads) > 1 or next(iter(predictor.heads.values())).multi_label:
        raise UserError("--int8 tells the accuracy of one label per video: leave it out for these networks")
    calibration = [clips for clips, _ in _clips(predictor, data, CALIBRATED_ON, CALIBRATION)]
    if not calibration:
        raise UserError("--int8 is calibrated on training videos, and none could be read")
    convert(folder / networks.FILES["onnx"], folder / FILE, calibration)
    return {
        "calibration": len(calibration),
        "bytes": (folder / FILE).stat().st_size,
        "accuracy": _accuracies(folder, predictor, data),
    }


def convert(network: Path, out: Path, batches: Sequence[np.ndarray]) -> None:
    """Write the ONNX file `network` in 8 bits, calibrated on clips uint8 [B, T, C, H, W].

    Raises:
        UserError: it can't be quantised.
        OSError: it can't be written.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it advises on the root logger
    try:
        quantize_static(
            str(network),
            str(out),
            _Reader(batches),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    except OSError:
        raise
    except Exception as error:  # of many unrelated types
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"this network can't be quantised ({type(error).__name__}: {reason})") from None
    finally:
        logging.getLogger().setLevel(level)


def _accuracies(folder: Path, predictor: Predictor, data: Dataset) -> dict[str, Any]:
    """For each split with labelled videos that 8 bits were not calibrated on, what was measured.

    Raises:
        UserError: there is none.
    """
    found = {split: _accuracy(folder, predictor, data, split) for split in SPLITS if split != CALIBRATED_ON}
    measured = {split: one for split, one in found.items() if one["videos"]}
    if not measured:
        raise UserError("--int8 is measured on labelled videos of val or test, and none could be read")
    return measured


def _accuracy(folder: Path, predictor: Predictor, data: Dataset, split: str) -> dict[str, Any]:
    """Top-1 of both files on labelled videos of a split, in percent; how often they say the same."""
    whole = networks.onnx_session(folder / networks.FILES["onnx"])
    small = networks.onnx_session(folder / FILE)
    right, same, count = np.zeros(2), 0, 0
    for clips, label in _clips(predictor, data, split, MEASURED):
        best = [int(run(clips)[0].mean(0).argmax()) for run in (whole, small)]
        right += [choice == label for choice in best]
        same += best[0] == best[1]
        count += 1
    if not count:
        return {"videos": 0}
    top1 = (100 * right / count).tolist()
    return {"videos": count, "top1": top1[0], "top1_int8": top1[1], "same": 100 * same / count}


def _clips(predictor: Predictor, data: Dataset, split: str, most: int) -> Iterator[tuple[np.ndarray, int]]:
    """(clips uint8 [views, T, C, H, W], label) of labelled videos, evenly spread over a split."""
    (head,), records = predictor.heads, data.splits.get(split, ())
    chosen: Sequence[Record] = [records[k] for k in range(0, len(records), max(1, -(-len(records) // most)))]
    dataset = predictor.clips(predictor.videos("int8", chosen)) if chosen else None
    for index, record in enumerate(chosen):
        sample = dataset[0, index] if dataset is not None else {}
        label = record.target.get(head)
        if "clips" in sample and isinstance(label, int):
            yield sample["clips"][predictor.distinct[0].name].numpy(), label


class _Reader:
    """What onnxruntime calibrates with: one batch after another, then None."""

    def __init__(self, batches: Sequence[np.ndarray]) -> None:
        self._rest = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._rest, None)
        return None if batch is None else {networks.INPUT: batch}
