"""The settings of the run that made a network, as they stand beside it. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mml_lightning.config.saved_overrides import Source, admitted
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.foreign import Foreign, read_json, read_yaml

OVERRIDES = Path(".hydra") / "overrides.yaml"


def overrides_beside(path: Path, typed: Sequence[str]) -> list[str] | None:
    """Overrides of the run that made what lies at `path` (a run directory, or a file in it or in the zoo), so that it
    is used on the same data in the same way; None where nothing tells them.

    Args:
        typed: overrides of the command line, see :func:`admitted`.

    Raises:
        UserError: a file is damaged, or holds what files are not trusted with.
    """
    folders = [path] if path.is_dir() else [path.parent, path.parent.parent] if path.is_file() else []
    for folder in folders:
        saved = saved_overrides(folder, typed)
        if saved is None:
            saved = _told_overrides(folder, typed)
        if saved is not None:
            # a trial run that trained on a few batches is still measured on every video
            return [item for item in saved if not item.startswith(("trainer=smoke", "trainer.limit_"))]
    return None


def saved_overrides(folder: Path, typed: Sequence[str]) -> list[str] | None:
    """Of `.hydra/overrides.yaml`, as Hydra has written them; None where there is no such file."""
    file = folder / OVERRIDES
    if not file.is_file():
        return None
    try:
        saved = read_yaml(file)
    except (OSError, Foreign) as error:
        raise UserError(f"{file} is damaged: {error}; give a weights file instead, or type the settings") from None
    return admitted([] if saved is None else saved, Source(file, folder), typed)


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
    return admitted(told["overrides"], Source(file, folder), typed)
