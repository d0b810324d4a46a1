"""The embedded demo, generated on first use."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from mml_lightning.data.records.readers.ssv2 import read_ssv2
from mml_lightning.data.records.readers.table import read_csv
from mml_lightning.data.records.records import Dataset


def read_demo(name: str, root: str, motions: int = 1, sound: bool = False, **sizes: Any) -> Dataset:
    """The demo at `root`, made first where it is not there: in the form of Something-Something V2; with several
    `motions` a video, as a table with several labels a line; or the one with `sound`, whose table tells the parts.

    Raises:
        UserError: what `prepare_demo` and the readers of these forms find.
    """
    from mml_lightning.data.demo import LEFT_RIGHT, prepare_demo

    if sound:
        from mml_lightning.data.demo.generate import TABLE

        folder = prepare_demo(Path(root).expanduser(), motions=motions, sound=True, **sizes)
        return read_csv(name, str(folder / "annotations" / TABLE), str(folder))
    if motions == 1:
        return read_ssv2(name, root, mirrored=LEFT_RIGHT, prepare=lambda folder: prepare_demo(folder, **sizes))
    from mml_lightning.data.demo.generate import SEPARATOR, TABLE
    from mml_lightning.data.demo.scenes import CLASSES

    folder = prepare_demo(Path(root).expanduser(), motions=motions, **sizes)
    data = read_csv(name, str(folder / "annotations" / TABLE), str(folder), SEPARATOR)
    number = {text: index for index, text in enumerate(data.heads["label"].classes)}
    partners = {number[CLASSES[one]]: number[CLASSES[other]] for one, other in LEFT_RIGHT.items()}
    return dataclasses.replace(data, mirrored={"label": partners})
