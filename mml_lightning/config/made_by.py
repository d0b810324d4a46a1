"""The settings of the run that made a network, as they stand beside it. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mml_lightning.config.saved_overrides import Source, admitted, key_of
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.foreign import Foreign, read_json, read_yaml

OVERRIDES = Path(".hydra") / "overrides.yaml"
TRAINING_ONLY = re.compile(r"callbacks\.|logger\.[^.]+\.")  # keys of callbacks and loggers that were typed


def overrides_beside(path: Path, typed: Sequence[str]) -> list[str] | None:
    """Overrides of the run that made what lies at `path` (a run directory, or a file in it or in the zoo), so that it
    is used on the same data in the same way; None where nothing tells them. Callbacks and loggers that were typed for
    the training are left out.

    Args:
        typed: overrides of the command line, see :func:`admitted`.

    Raises:
        UserError: a file is damaged, or holds what files are not trusted with.
    """
    folders = [path] if path.is_dir() else [path.parent, path.parent.parent] if path.is_file() else []
    for folder in folders:
        saved = saved_overrides(folder, typed, training=False)
        if saved is None:
            saved = _told_overrides(folder, typed)
        if saved is not None:
            # a trial run that trained on a few batches is still measured on every video
            return [item for item in saved if not item.startswith(("trainer=smoke", "trainer.limit_"))]
    return None


def saved_overrides(folder: Path, typed: Sequence[str], training: bool = True) -> list[str] | None:
    """Of `.hydra/overrides.yaml`, as Hydra has written them; None where there is no such file.

    Args:
        training: whether a training goes on, which needs :data:`TRAINING_ONLY`.
    """
    file = folder / OVERRIDES
    if not file.is_file():
        return None
    try:
        saved = read_yaml(file)
    except (OSError, Foreign) as error:
        raise UserError(f"{file} is damaged: {error}; give a weights file instead, or type the settings") from None
    items = [] if saved is None else saved
    return admitted(items if training else _for_evaluation(items), Source(file, folder), typed)


def _told_overrides(folder: Path, typed: Sequence[str]) -> list[str] | None:
    """Of `result.json`; None where there is no such file, or it tells none."""
    file = folder / "result.json"
    try:
        told = read_json(file)
    except FileNotFoundError:
        return None
    except (OSError, Foreign) as error:
        raise UserError(f"{file} is damaged: {error}; copy the weights elsewhere, or delete it") from None
    if not isinstance(told, dict) or told.get("overrides") is None:
        return None
    return admitted(_for_evaluation(told["overrides"]), Source(file, folder), typed)


def _for_evaluation(items: object) -> object:
    if not isinstance(items, list):
        return items
    return [item for item in items if not (isinstance(item, str) and TRAINING_ONLY.match(key_of(item)))]
