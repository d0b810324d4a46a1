"""How the peers of a run are computed: memory format, compilation, activations computed twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from mml_lightning.backbones.execution import FORMATS, checkpoint_blocks, set_memory_format
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.side_by_side import choose
from mml_lightning.utils.errors import UserError


@dataclass(frozen=True)
class StepSettings:
    """The node `step` of the config. Nothing here changes what is computed, but for its rounding.

    Args:
        memory_format: see :func:`mml_lightning.backbones.execution.set_memory_format`.
        compile: true compiles every peer by itself with torch's default backend; a word names another one.
        checkpointing: see :func:`mml_lightning.backbones.execution.checkpoint_blocks`.
        keep_memory: see :func:`mml_lightning.utils.malloc.keep_freed_memory`; auto: on a CPU.
        side_by_side: see :func:`mml_lightning.training.side_by_side.choose`.

    Raises:
        UserError: a value is unknown, or two of them exclude each other.
    """

    memory_format: str = "auto"
    compile: bool | str = False
    checkpointing: bool = False
    keep_memory: bool | str = "auto"
    side_by_side: bool | str = "auto"

    def __post_init__(self) -> None:
        if self.memory_format not in FORMATS:
            raise UserError(f"step.memory_format={self.memory_format} is unknown; use one of {', '.join(FORMATS)}")
        if not isinstance(self.checkpointing, bool):
            raise UserError(f"step.checkpointing={self.checkpointing} must be true or false")
        for key in ("keep_memory", "side_by_side"):
            if not isinstance(value := getattr(self, key), bool) and value != "auto":
                raise UserError(f"step.{key}={value} must be auto, true or false")
        if not isinstance(self.compile, bool) and self.compile not in _backends():
            raise UserError(f"step.compile={self.compile} must be true, false or one of {', '.join(_backends())}")
        if self.compile and self.checkpointing:
            raise UserError("step.compile and step.checkpointing exclude each other; leave one of them at false")
        if self.side_by_side is True and (self.compile or self.checkpointing):
            other = "compile" if self.compile else "checkpointing"
            raise UserError(f"step.side_by_side=true and step.{other} exclude each other; leave one of them out")

    def settle(self, cohort: Cohort, device: torch.device, ranks: int) -> str:
        """:meth:`apply` to the networks of a run, and :meth:`arrange`; says how they are computed, a few words."""
        words = self.apply(dict(cohort.peers.items())), self.arrange(cohort, device, ranks)
        return ", ".join(filter(None, words))

    def arrange(self, cohort: Cohort, device: torch.device, ranks: int) -> str:
        """Choose how the peers of a training step are computed, in turn or side by side; says so where it is worth it.

        Args:
            device, ranks: of the trainer.

        Raises:
            UserError: they can't be computed as `side_by_side` wants it.
        """
        wanted = False if self.compile or self.checkpointing else self.side_by_side
        nets = dict(cohort.peers.items())
        all_learn = all(nets.keys() <= phase.trains.keys() for phase in cohort.phases)
        cohort.beside = choose(wanted, nets, device, ranks, all_learn)
        return cohort.beside.told

    def apply(self, nets: Mapping[str, nn.Module]) -> str:
        """Prepare networks, in place; says how they are computed, a few words.

        Raises:
            UserError: a network can't be computed like this.
        """
        words = []
        for net in nets.values():
            words.append(set_memory_format(net, self.memory_format))
            if self.checkpointing:
                try:
                    checkpoint_blocks(net)
                except ValueError as error:
                    raise UserError(f"step.checkpointing=true: {error}") from None
            if self.compile:
                net.compile(backend="inductor" if self.compile is True else self.compile)
        told = [*dict.fromkeys(words), "compiled" * bool(self.compile), "blocks computed twice" * self.checkpointing]
        return ", ".join(filter(None, told))


def _backends() -> list[str]:
    return torch.compiler.list_backends(exclude_tags=())  # type: ignore[no-any-return]
