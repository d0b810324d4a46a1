"""Declared runs: what a pipeline, a table or a catalogue says of a run, as overrides of the command line.

mml_rgb_base: {stage: mml, modality: [rgb, flow], init: {rgb: ce, flow: base}}
-> stage=mml modality=[rgb,flow] init.rgb=ce init.flow=<init.base>
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mml_lightning.utils.errors import UserError

BASE = "base"


@dataclass(frozen=True)
class RunSpec:
    """One run as yaml declares it.

    Args:
        stage: option of conf/stage.
        modality: the modalities; None leaves them to the command line.
        init: where the peers start: a word for all, or one per modality, and `copies` for further networks; None
            leaves it to the stage. The word `base` is `init.base`.
        copies: networks per modality; None leaves it to the stage.
        repeat: number of an independent run beside that of the same name.
        set: further overrides, which beat the command line.
        default: fields (such as `modality`) that yield to the command line.
        tag: ends the name of a run whose `set` would not tell in it.
    """

    stage: str
    modality: tuple[str, ...] | None = None
    init: str | Mapping[str, str] | None = None
    copies: int | None = None
    repeat: int = 0
    set: tuple[str, ...] = ()
    default: Mapping[str, Any] = field(default_factory=dict)
    tag: str = ""

    def options(self) -> list[str]:
        """Overrides that choose options of groups; they beat the command line."""
        return [f"stage={self.stage}", *_modality(self.modality), *self.set]

    def yielding(self) -> list[str]:
        """Overrides that yield to the command line."""
        return _modality(self.default.get("modality"))

    def values(self, base: str) -> dict[str, Any]:
        """Single values that beat the command line, by their keys; `base` is what the word of that name means."""
        found: dict[str, Any] = {}
        init = {"all": self.init} if isinstance(self.init, str) else dict(self.init or {})
        for name, word in init.items():
            found[f"init.{name}"] = base if word == BASE else word
        if self.copies is not None:
            found["stage.copies"] = self.copies
        if self.repeat:
            found["repeat"] = self.repeat
        return found


def declare(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, RunSpec]:
    """Declared runs by their names.

    Raises:
        UserError: a run has an unknown field or no stage.
    """
    found = {}
    for name, fields in runs.items():
        try:
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
            found[name] = RunSpec(**values)
        except TypeError as error:
            raise UserError(f"run {name} of the catalogue: {str(error).removeprefix('Declared.__init__() ')}") from None
    return found


def _modality(names: Iterable[str] | None) -> list[str]:
    return [] if names is None else [f"modality=[{','.join(names)}]"]
