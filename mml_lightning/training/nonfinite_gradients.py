"""What happens to a step whose gradients are not finite.

Peers are judged one by one, by the gradients that the optimiser would use: accumulated, and averaged over the ranks, so
that all ranks see the same ones and decide alike. A peer whose gradients hold a NaN or an infinity is left exactly as
it was before the step: weights, the state of the optimiser, running statistics. The others take their step.

All of that happens on the device, which the host does not wait for: it hears of a step in the one after, or when the
run is saved or ends. Only where the optimiser can't take a flag from the device must the host know first.
"""

from __future__ import annotations

import csv
import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from mml_lightning.training import peer_parallel
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.parameter_groups import ByPeer
from mml_lightning.utils.async_copy import HostCopy
from mml_lightning.utils.distributed import gather_objects
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import write_atomically

log = logging.getLogger(__name__)

POLICIES = ("skip", "stop", "ignore")
KEPT = 3  # batches that are kept whole
FLAGGED = ("cpu", "cuda")  # devices whose fused kernels are known to heed a flag
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


@dataclass(frozen=True)
class Judged:
    """A step that the host has yet to hear of.

    Args:
        epoch, step: counted from 1.
        peers: those that were judged; flags: of each, 1 where its step is left out.
        batches: of the step, and their losses.
    """

    epoch: int
    step: int
    peers: tuple[str, ...]
    flags: HostCopy
    batches: list[tuple[Any, Tensor | None]]

    @functools.cached_property
    def bad(self) -> list[str]:
        """The peers whose step is left out."""
        return [name for name, flag in zip(self.peers, self.flags.tolist(), strict=True) if flag]


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
        self._good: dict[str, Buffers] = {}  # of every peer before the coming step
        self._judged: tuple[pl.Trainer, Judged] | None = None

    def state_dict(self) -> dict[str, Any]:
        self._hear()
        return {"skipped": dict(self.skipped), "row": dict(self.row), "rows": [list(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.row = dict(state_dict["skipped"]), dict(state_dict["row"])
        self.rows = [list(row) for row in state_dict["rows"]]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._window, self._judged = [], None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self._window:
            assert isinstance(pl_module, Cohort)
            self._good = {name: Buffers(peer) for name, peer in pl_module.trained_peers.items()}
            for buffers in self._good.values():
                buffers.keep()
        self._window.append((batch if self.settings.keep_batch else {"id": batch["id"]}, None))

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if self._window:
            self._window[-1] = (self._window[-1][0], loss.detach())

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert isinstance(pl_module, Cohort)
        peers = pl_module.trained_peers
        flags = not_finite(list(peers.values()), pl_module.device)
        if (placed := peer_parallel.strategy_of(trainer)) is not None:  # a rank has the gradients of its own peer only
            flags = placed.agree(flags)
        for name, flag in zip(peers, flags.unbind(), strict=True):
            self._good[name].put_back(flag)
        self._hear()
        where = (trainer.current_epoch + 1, trainer.global_step + 1)
        judged = Judged(*where, tuple(peers), HostCopy(flags), self._window)
        self._window, self._judged = [], (trainer, judged)
        if isinstance(optimizer, ByPeer) and optimizer.heeds_flags() and flags.device.type in FLAGGED:
            optimizer.left_out = dict(zip(peers, flags.unbind(), strict=True))
            return
        for name in judged.bad:
            for parameter in peers[name].parameters():
                parameter.grad = None  # the optimiser passes by what has no gradient
        self._hear()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._hear()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if trainer.world_size == 1:  # other ranks may not get here
            self._hear()

    def _hear(self) -> None:
        """Count the latest step; every rank does at the same time, and finds the same.

        Raises:
            UserError: it ends the run.
        """
        if self._judged is None:
            return
        (trainer, judged), self._judged = self._judged, None
        for name in judged.peers:
            self.row[name] = self.row.get(name, 0) + 1 if name in judged.bad else 0
        for name in judged.bad:
            self.skipped[name] = self.skipped.get(name, 0) + 1
        if judged.bad:
            self._tell(trainer, judged)

    def _tell(self, trainer: pl.Trainer, judged: Judged) -> None:
        """Name the videos; end the run where the policy, or too many such steps in a row, say so."""
        epoch, step, bad = judged.epoch, judged.step, judged.bad
        own = [(list(batch["id"]), float(loss) if loss is not None else None) for batch, loss in judged.batches]
        told = gather_objects(own, trainer.world_size)
        found = [(rank, loss, ids) for rank, batches in enumerate(told) for ids, loss in batches]
        # batches whose loss is finite are not the cause, unless they all are: then a gradient overflowed
        causes = [row for row in found if row[1] is None or row[1] - row[1] != 0] or found
        self.rows += [[epoch, step, " ".join(bad), rank, loss, " ".join(ids)] for rank, loss, ids in causes]
        if trainer.is_global_zero:
            with write_atomically(self.folder / "nonfinite.csv", newline="") as handle:
                csv.writer(handle).writerows([COLUMNS, *self.rows])
        if self.settings.keep_batch and sum(self.skipped.values()) <= KEPT * len(bad):
            for number, (batch, _) in enumerate(judged.batches):
                name = f"step{step}_rank{trainer.global_rank}_{number}.pt"
                with write_atomically(self.folder / "nonfinite" / name, "wb") as handle:
                    torch.save(batch, handle)
        where = f"epoch {epoch}, step {step}: the gradients of {', '.join(bad)} are not finite"
        advice = f"see {self.folder / 'nonfinite.csv'}; lower optimizer.lr, or set optimizer.clip_norm"
        if self.settings.policy == "stop":
            raise UserError(f"{where}; {advice}, or nonfinite.policy=skip")
        if max(self.row[name] for name in bad) > self.settings.stop_after:
            raise UserError(
                f"{where}, as in the previous {self.settings.stop_after} steps (nonfinite.stop_after); {advice}"
            )
        log.warning("%s; the step is skipped (%s)", where, ", ".join(f"{n}: {self.skipped[n]}" for n in bad))


def not_finite(peers: list[nn.Module], device: torch.device) -> Tensor:
    """[P] float32 on `device`: 1 where a peer has a gradient that is NaN or infinite, else 0."""
    flags = torch.zeros(len(peers), dtype=torch.float32, device=device)
    for peer, flag in zip(peers, flags.unbind(), strict=True):
        if gradients := [p.grad for p in peer.parameters() if p.grad is not None]:
            # what torch's gradient scaler uses: one pass, exact (a norm may overflow); times 1, the same bits
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, flag, torch.ones_like(flag))
    return flags


class Buffers:
    """The buffers of a network and their values at one time, in one piece per type: few kernels, however many.

    Its modules are looked for once: going through them costs as much as the rest, at every step.
    """

    def __init__(self, net: nn.Module) -> None:
        self._modules = [module for module in net.modules() if module._buffers]
        self._kept: dict[torch.dtype, Tensor] = {}

    def _by_type(self) -> dict[torch.dtype, list[Tensor]]:
        found: dict[torch.dtype, list[Tensor]] = {}
        for module in self._modules:
            for buffer in module._buffers.values():
                if buffer is not None:
                    found.setdefault(buffer.dtype, []).append(buffer)
        return found

    @torch.no_grad()
    def keep(self) -> None:
        self._kept = {kind: torch.cat([b.reshape(-1) for b in own]) for kind, own in self._by_type().items()}

    @torch.no_grad()
    def put_back(self, flag: Tensor) -> None:
        """As they were when they were kept, where `flag` is 1; as they are where it is 0."""
        for kind, own in self._by_type().items():
            now = torch.cat([b.reshape(-1) for b in own])
            right = torch.where(flag == 1, self._kept[kind], now).split([b.numel() for b in own])
            torch._foreach_copy_(own, [part.view(b.shape) for part, b in zip(right, own, strict=True)])


def skipped(trainer: pl.Trainer) -> dict[str, int]:
    """Steps left out per peer, where there are any."""
    found = [callback.skipped for callback in trainer.callbacks if isinstance(callback, NonFinite)]  # type: ignore[attr-defined]
    return dict(found[0]) if found else {}


def callbacks(settings: NonFiniteSettings, folder: Path) -> list[NonFinite]:
    """What the trainer needs for `settings`."""
    return [] if settings.policy == "ignore" else [NonFinite(folder, settings)]
