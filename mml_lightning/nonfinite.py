"""What happens to a step whose gradients are not finite.

Peers are judged one by one, by the gradients that the optimiser would use: accumulated, and averaged over the ranks, so
that all ranks see the same ones and decide alike. A peer whose gradients hold a NaN or an infinity is left exactly as
it was before the step: weights, the state of the optimiser, running statistics. The others take their step.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from mml_lightning import placement
from mml_lightning.cohort import Cohort
from mml_lightning.errors import UserError
from mml_lightning.files import write_atomically

log = logging.getLogger(__name__)

POLICIES = ("skip", "stop", "ignore")
KEPT = 3  # batches that are kept whole
COLUMNS = ("epoch", "step", "peers", "rank", "loss", "videos")


@dataclass(frozen=True)
class NonFiniteSettings:
    """The node `nonfinite` of the config.

    Args:
        policy: skip, the peer's step is left out; stop, the run ends; ignore, nobody looks.
        stop_after: steps in a row of one peer that may be left out; one more ends the run.
        keep_batch: keep the first batches whole beside the list, with which the step can be taken again.

    Raises:
        UserError: a value is unknown.
    """

    policy: str = "skip"
    stop_after: int = 10
    keep_batch: bool = False

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise UserError(f"nonfinite.policy={self.policy} is unknown; use one of {', '.join(POLICIES)}")
        if isinstance(self.stop_after, bool) or not isinstance(self.stop_after, int) or self.stop_after < 1:
            raise UserError(f"nonfinite.stop_after={self.stop_after} must be a whole number from 1")
        if not isinstance(self.keep_batch, bool):
            raise UserError(f"nonfinite.keep_batch={self.keep_batch} must be true or false")


class NonFinite(pl.Callback):
    """Leaves out the steps of peers whose gradients are not finite, counts them, and names their videos.

    Args:
        folder: of the run; `nonfinite.csv` and `nonfinite/` are written there where there is something to write.
    """

    def __init__(self, folder: Path, settings: NonFiniteSettings) -> None:
        self.folder, self.settings = folder, settings
        self.skipped: dict[str, int] = {}  # per peer
        self.row: dict[str, int] = {}  # of which without a good step since
        self.rows: list[list[Any]] = []
        self._window: list[tuple[Any, Tensor | None]] = []  # batches of the coming step and their losses
        self._good: dict[str, list[Tensor]] = {}  # buffers of every peer before the coming step

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": dict(self.skipped), "row": dict(self.row), "rows": [list(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.row = dict(state_dict["skipped"]), dict(state_dict["row"])
        self.rows = [list(row) for row in state_dict["rows"]]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._window = []
        self._good = {name: [b.clone() for b in peer.buffers()] for name, peer in _trained(pl_module).items()}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self._window:
            for name, peer in _trained(pl_module).items():
                _copy(self._good[name], list(peer.buffers()))
        self._window.append((batch, None))

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if self._window:
            self._window[-1] = (self._window[-1][0], loss.detach())

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        peers = _trained(pl_module)
        fine = finite_gradients(list(peers.values()))
        if (placed := placement.of(trainer)) is not None:  # a rank has the gradients of its own peer only
            fine = placed.agree(fine)
        bad = [name for name, finite in zip(peers, fine, strict=True) if not finite]
        window, self._window = self._window, []
        for name in peers:
            self.row[name] = self.row.get(name, 0) + 1 if name in bad else 0
        if bad:
            for name in bad:
                self.skipped[name] = self.skipped.get(name, 0) + 1
                _copy(list(peers[name].buffers()), self._good[name])
                for parameter in peers[name].parameters():
                    parameter.grad = None  # the optimiser passes by what has no gradient
            self._tell(trainer, bad, window)

    def _tell(self, trainer: pl.Trainer, bad: list[str], window: list[tuple[Any, Tensor | None]]) -> None:
        """Name the videos; end the run where the policy, or too many such steps in a row, say so."""
        epoch, step = trainer.current_epoch + 1, trainer.global_step + 1
        own = [(list(batch["id"]), float(loss) if loss is not None else None) for batch, loss in window]
        told: list[Any] = [own]
        if trainer.world_size > 1:
            told = [None] * trainer.world_size
            torch.distributed.all_gather_object(told, own)
        found = [(rank, loss, ids) for rank, batches in enumerate(told) for ids, loss in batches]
        # batches whose loss is finite are not the cause, unless they all are: then a gradient overflowed
        causes = [row for row in found if row[1] is None or row[1] - row[1] != 0] or found
        self.rows += [[epoch, step, " ".join(bad), rank, loss, " ".join(ids)] for rank, loss, ids in causes]
        if trainer.is_global_zero:
            with write_atomically(self.folder / "nonfinite.csv", newline="") as handle:
                csv.writer(handle).writerows([COLUMNS, *self.rows])
        if self.settings.keep_batch and sum(self.skipped.values()) <= KEPT * len(bad):
            for number, (batch, _) in enumerate(window):
                name = f"step{step}_rank{trainer.global_rank}_{number}.pt"
                with write_atomically(self.folder / "nonfinite" / name, "wb") as handle:
                    torch.save(batch, handle)
        where = f"epoch {epoch}, step {step}: the gradients of {', '.join(bad)} are not finite"
        advice = f"see {self.folder / 'nonfinite.csv'}; lower optimizer.lr, or set optimizer.clip_norm"
        if self.settings.policy == "stop":
            raise UserError(f"{where}; {advice}, or nonfinite.policy=skip")
        if max(self.row[name] for name in bad) > self.settings.stop_after:
            raise UserError(
                f"{where}, as in the {self.settings.stop_after} steps before (nonfinite.stop_after); {advice}"
            )
        log.warning("%s; the step is left out (%s)", where, ", ".join(f"{n}: {self.skipped[n]}" for n in bad))


def finite_gradients(peers: list[nn.Module]) -> list[bool]:
    """Whether all gradients of each peer are finite; one wait for the device in all."""
    gradients = [[p.grad for p in peer.parameters() if p.grad is not None] for peer in peers]
    fine = _finite(gradients, 2.0)
    # a sum of squares may overflow where no gradient does, a largest value may not; it takes ten times as long on a CPU
    return fine if all(fine) else _finite(gradients, float("inf"))


def _finite(gradients: list[list[Tensor]], order: float) -> list[bool]:
    norms = [torch.stack(torch._foreach_norm(own, order)).max() if own else torch.zeros(()) for own in gradients]
    device = norms[0].device
    return torch.stack([norm.to(device=device, dtype=torch.float32) for norm in norms]).isfinite().tolist()


@torch.no_grad()
def _copy(to: list[Tensor], source: list[Tensor]) -> None:
    if to:
        torch._foreach_copy_(to, source)


def _trained(module: pl.LightningModule) -> Mapping[str, nn.Module]:
    assert isinstance(module, Cohort)
    return {name: peer for name, peer in module.peers.items() if name not in module.frozen}


def skipped(trainer: pl.Trainer) -> dict[str, int]:
    """Steps left out per peer, where there are any."""
    found = [callback.skipped for callback in trainer.callbacks if isinstance(callback, NonFinite)]  # type: ignore[attr-defined]
    return dict(found[0]) if found else {}


def callbacks(settings: NonFiniteSettings, folder: Path) -> list[NonFinite]:
    """What the trainer needs for `settings`."""
    return [] if settings.policy == "ignore" else [NonFinite(folder, settings)]
