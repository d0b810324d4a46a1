"""Checkpoints of a run: when they are written, what is in them, and which of them can be read.

Two generations lie in `<run>/checkpoints/`: `last.ckpt` and, before it, `previous.ckpt`. Each is written beside its
name, read back and compared with its checksums, then renamed. A run that continues from one has the weights, numbers
and logs of one that was never interrupted; what Lightning does not keep for that is added here.
"""

from __future__ import annotations

import errno
import functools
import logging
import random
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint

from mml_lightning.training import lightning_internals
from mml_lightning.training.csv_logger import MetricsLog
from mml_lightning.training.monitored import stays_stopped, stopped_early
from mml_lightning.utils.distributed import gather_objects
from mml_lightning.utils.errors import Preempted, UserError
from mml_lightning.utils.files import check_archive, remove_leftovers, write_tensors
from mml_lightning.utils.preemption import LISTENER, Agreement, Listener

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
MARGIN = 2**20  # bytes that are left free beside a checkpoint
PATIENCE = 20  # looks at a loader after which one of several ranks that received a signal exits without saving


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, tensors mapped from the file.

    Raises:
        ValueError: it is cut, damaged or something else.
        OSError: it can't be read.
    """
    check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises many unrelated types for files that aren't checkpoints
        raise ValueError(f"it is not a checkpoint ({type(error).__name__})") from None
    if not isinstance(content, dict) or not {"state_dict", "loops", "hyper_parameters"} <= set(content):
        raise ValueError("it is not a checkpoint of a run")
    return content


def epochs_of(content: Mapping[str, Any]) -> int:
    """Epochs whose steps are done."""
    return int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])


def exist(run: Path) -> bool:
    """Whether a run has a checkpoint, good or not."""
    return any((run / FOLDER / name).is_file() for name in (LAST, PREVIOUS))


def newest(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """The last checkpoint of a run that can be read, and its content; None where there is none.

    Raises:
        UserError: none that is there can be read.
    """
    refused = []
    for path in (run / FOLDER / LAST, run / FOLDER / PREVIOUS):
        if not path.is_file():
            continue
        try:
            content = read(path)
        except (ValueError, OSError) as error:
            refused.append(f"{path} can't be used: {error}")
            continue
        for line in refused:
            log.warning("%s; CONTINUING FROM THE PREVIOUS ONE, %s (step %d)", line, path.name, content["global_step"])
        return path, content
    if refused:
        raise UserError(f"{'; '.join(refused)}: delete it to train again from the start")
    return None


def write(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint; the one before becomes :data:`PREVIOUS`.

    Raises:
        OSError: no room, or the disk gives back something else; the checkpoints that were there still are.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    needed, free = _size(content) + MARGIN, shutil.disk_usage(path.parent).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed / 2**20:.0f} MiB needed, {free / 2**20:.0f} MiB free", str(path.parent))
    keep = path.with_name(PREVIOUS) if path.name == LAST else None
    write_tensors(path, content, keep)


def _size(value: Any) -> int:
    """Bytes of the tensors in nested containers."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return sum(_size(item) for item in inside if isinstance(item, torch.Tensor | Mapping | list | tuple))


def _not_plain(value: Any) -> str | None:
    """The type of something in nested containers that no checkpoint can hold; None where there is none."""
    if isinstance(value, Mapping):
        inside = [*value, *value.values()]
    elif isinstance(value, list | tuple | set):
        inside = list(value)
    else:
        plain = (
            value is None or isinstance(value, torch.Tensor) or type(value) in (bool, int, float, str, bytes, complex)
        )
        return None if plain or isinstance(value, torch.dtype | torch.device | torch.Size) else type(value).__name__
    return next((wrong for item in inside if (wrong := _not_plain(item))), None)


class CheckpointFiles(TorchCheckpointIO):
    """How Lightning writes checkpoints. A failed write is logged, and training continues.

    Lightning's own writer goes through the system's temporary folder, which may lie on another disk.
    """

    failed = False

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Plain values and tensors, whatever Lightning or the environment would let through."""
        return dict(torch.load(path, map_location=map_location, weights_only=True))

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        try:
            write(checkpoint, Path(path))
            self.failed = False
        except OSError as error:
            self.failed = True
            log.warning(
                "THE CHECKPOINT OF STEP %s COULD NOT BE WRITTEN (%s): training continues, the previous one is kept; "
                "free some space in %s",
                checkpoint.get("global_step"),
                error.strerror or error,
                Path(path).parent,
            )


class Checkpoints(Checkpoint):
    """Writes `last.ckpt` after every epoch and, if asked to, in between; leaves with one when the run is preempted.

    Args:
        folder: of the checkpoints.
        every_steps: optimiser steps between two checkpoints; None for epochs only.
        every_minutes: minutes between two checkpoints, by the clock of the first rank; None for epochs only.
        enabled: False writes none: a preempted run leaves with nothing.
        listener: who hears that the run shall leave.
        now: the clock, in seconds.
    """

    def __init__(
        self,
        folder: Path,
        every_steps: int | None = None,
        every_minutes: float | None = None,
        enabled: bool = True,
        listener: Listener = LISTENER,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.enabled, self.listener, self.now = folder, enabled, listener, now
        self.every_steps, self.every_minutes = every_steps, every_minutes
        self._agreement: Agreement | None = None
        self._saved_at = 0.0
        self._saved_step = -1
        self._looks = 0
        self._waits_for_validation = False
        self._loaded: list[dict[str, Any]] | None = None

    # what is in a checkpoint

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what Lightning leaves out: every rank's own part, how many rows the log had, whether training is over.

        Raises:
            UserError: a callback keeps something that no checkpoint can hold.
        """
        for key, state in checkpoint.get("callbacks", {}).items():
            if wrong := _not_plain(state):
                raise UserError(
                    f"the state of callback {key} holds a {wrong}: keep tensors, numbers, text, lists and dicts"
                )
        if (why := stopped_early(trainer)) is not None:
            checkpoint["stopped_early"] = why
        if self._waits_for_validation:
            lightning_internals.await_validation(checkpoint)
        own = {"random": random_state(), **{name: part.rank_state() for name, part in _parts(trainer).items()}}
        checkpoint["ranks"] = gather_objects(own, trainer.world_size)
        checkpoint["rows"] = sum(rows.rows for rows in _rows(trainer))

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._loaded = list(checkpoint.get("ranks") or [])
        if stays_stopped(trainer, checkpoint):
            trainer.should_stop = True  # as it did then: no epoch follows
        for rows in _rows(trainer):
            rows.continue_after(checkpoint.get("rows", 0))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._agreement = Agreement(trainer.world_size)
        self._saved_at = self.now()
        if self.enabled and trainer.is_global_zero:
            remove_leftovers(self.folder)
        if self._loaded is not None:
            self._restore(trainer)
        self._defer(trainer)

    def _restore(self, trainer: pl.Trainer) -> None:
        assert self._loaded is not None
        ranks, rank = self._loaded, trainer.global_rank
        self._saved_step = trainer.global_step
        for name, part in _parts(trainer).items():
            states = [states[name] for states in ranks if name in states]
            if len(ranks) == trainer.world_size:
                part.load_rank_states(states[rank : rank + 1])
            else:  # other ranks than before: the first one has seen it all
                part.load_rank_states(states if rank == 0 else [])
        if len(ranks) == trainer.world_size:
            set_random_state(ranks[rank]["random"])
        self._loaded = None

    # when one is written

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if lightning_internals.accumulates(trainer):
            return  # gradients are under way
        leave, due = self._wishes(trainer)
        if trainer.is_last_batch and not lightning_internals.validates(trainer):
            return  # the end of the epoch follows at once
        ends_within = not trainer.is_last_batch and lightning_internals.ends(trainer)
        if leave or due or ends_within:
            self._save(trainer, waits_for_validation=trainer.is_last_batch)
        self._leave(trainer, leave)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin_loop(trainer)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin_loop(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        leave, _ = self._wishes(trainer)
        if leave and trainer.state.fn == "fit":
            self._save(trainer, waits_for_validation=True)
        self._leave(trainer, leave)

    def on_test_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        self._leave(trainer, self._wishes(trainer)[0])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_last_batch:  # Lightning counts one that was cut as whole, and a resume would leave out its rest
            self._save(trainer)
        self._leave(trainer, self._wishes(trainer)[0])

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.listener.deferring = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end_loop(trainer)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end_loop(trainer)

    def _begin_loop(self, trainer: pl.Trainer) -> None:
        if trainer.state.fn != "fit":
            self._agreement = self._agreement or Agreement(trainer.world_size)
            self._defer(trainer)

    def _defer(self, trainer: pl.Trainer) -> None:
        """From here on a signal waits for the end of a step, or for the loader to look."""
        self.listener.install()  # Lightning has just put its own handlers there
        self.listener.leave = functools.partial(self._leave_waiting, trainer)
        self.listener.deferring = True

    def _leave_waiting(self, trainer: pl.Trainer) -> None:
        """Leave while the loader waits for data that may never come.

        One rank saves: it stands between two steps. One of several can't, since the others may stand within one; it
        gives the data some time, for the next step saves them all, and leaves as it is: they go on from the last
        checkpoint.
        """
        if trainer.world_size > 1:
            self._looks += 1
            if self._looks < PATIENCE:
                return
        elif trainer.state.fn == "fit" and self._between_steps(trainer):
            self._save(trainer, waits_for_validation=not trainer.training)
        self._leave(trainer, True)

    def _between_steps(self, trainer: pl.Trainer) -> bool:
        """Whether there is something to save here: not at the start of an epoch, where the one before was saved."""
        begun = lightning_internals.batches_begun(trainer) > 0
        return begun and not (trainer.training and lightning_internals.accumulates(trainer))

    def _end_loop(self, trainer: pl.Trainer) -> None:
        if trainer.state.fn != "fit":
            self.listener.deferring = False

    def _wishes(self, trainer: pl.Trainer) -> list[bool]:
        """Whether to leave and whether to save, the same on every rank."""
        assert self._agreement is not None
        late = self.every_minutes is not None and self.now() - self._saved_at >= 60 * self.every_minutes
        leave, late = self._agreement.any(self.listener.wants_to_leave, late and trainer.is_global_zero)
        steps = trainer.global_step
        return [leave, late or bool(self.every_steps and steps % self.every_steps == 0 and steps != self._saved_step)]

    def _save(self, trainer: pl.Trainer, waits_for_validation: bool = False) -> None:
        if not self.enabled:
            return
        for rows in _rows(trainer):
            rows.sync()
        self._waits_for_validation = waits_for_validation
        try:
            trainer.save_checkpoint(self.folder / LAST, weights_only=False)
        finally:
            self._waits_for_validation = False
        self._saved_at, self._saved_step = self.now(), trainer.global_step

    def _leave(self, trainer: pl.Trainer, leave: bool) -> None:
        if leave:
            self.listener.deferring = False
            saved = self.enabled and trainer.global_step > 0 and self._saved_step == trainer.global_step
            place = f"epoch {trainer.current_epoch + 1}, step {trainer.global_step}"
            raise Preempted(f"{self.listener.heard}: {'checkpoint saved' if saved else 'stopped'} at {place}")


def _parts(trainer: pl.Trainer) -> dict[str, Any]:
    """What is another thing on every rank: the module and the callbacks that have a `rank_state`."""
    parts = [trainer.lightning_module, *trainer.callbacks]  # type: ignore[attr-defined]
    return {type(part).__name__: part for part in parts if hasattr(part, "rank_state")}


def _rows(trainer: pl.Trainer) -> list[MetricsLog]:
    return [logger for logger in trainer.loggers if isinstance(logger, MetricsLog)]


def random_state() -> dict[str, Any]:
    """Of all generators of this process that have no key of their own; plain values and tensors."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": [version, torch.tensor(words, dtype=torch.int64), gauss],  # one object instead of hundreds
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    version, words, gauss = state["python"]
    # earlier checkpoints have a list
    random.setstate((version, tuple(words.tolist() if torch.is_tensor(words) else words), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
