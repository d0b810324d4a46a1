"""Everything that this package asks of Lightning beyond its public interface, in one file: what a new version of
Lightning can break is here. Tried with pytorch-lightning 2.6.6."""

from __future__ import annotations

import gc
import math
import subprocess
from typing import Any, Protocol

import pytorch_lightning as pl
from lightning_fabric.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch.nn.parallel import DistributedDataParallel


def is_attached(module: pl.LightningModule) -> bool:
    """Whether a trainer has the module; `module.trainer` raises where none has."""
    return module._trainer is not None


def accumulates(trainer: pl.Trainer) -> bool:
    """Whether the step that this batch belongs to goes on after it: gradients are under way."""
    return bool(trainer.fit_loop._should_accumulate())


def steps_logged(trainer: pl.Trainer) -> int:
    """The number of the step as Lightning's own rows of a log have it."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def replaces_samplers(trainer: pl.Trainer) -> bool:
    """Whether Lightning puts its own sampler into loaders on several devices."""
    return bool(trainer._accelerator_connector.use_distributed_sampler)


def batches_begun(trainer: pl.Trainer) -> int:
    """Batches of this epoch that have begun."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def validates(trainer: pl.Trainer) -> bool:
    """Whether a validation follows the last step of this epoch."""
    epoch = trainer.fit_loop.epoch_loop._should_check_val_epoch()
    return bool(epoch and trainer.enable_validation and sum(trainer.num_val_batches))


def validate_the_end(trainer: pl.Trainer) -> None:
    """Have a validation follow the last step of a fit too, whatever ends it: the last epoch, a limit on steps or on
    time. Lightning validates in every n-th epoch only, and what is best is chosen among what was validated.

    A callback that ends the fit after its epoch comes too late for it.
    """
    loop = trainer.fit_loop.epoch_loop
    usual_epoch, usual_batch = loop._should_check_val_epoch, loop._should_check_val_fx

    def epoch() -> bool:
        last = trainer.current_epoch + 1 == trainer.max_epochs or ends(trainer)
        return bool(usual_epoch() or (trainer.enable_validation and last))

    def batch(fetcher: Any) -> bool:
        return bool(usual_batch(fetcher) or (trainer.enable_validation and _out_of_steps(trainer)))

    loop._should_check_val_epoch, loop._should_check_val_fx = epoch, batch  # type: ignore[method-assign,assignment]


def ends(trainer: pl.Trainer) -> bool:
    """Whether the fit ends with this step, be it within an epoch."""
    return bool(trainer.should_stop or _out_of_steps(trainer))


def _out_of_steps(trainer: pl.Trainer) -> bool:
    return trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps


def steps_per_epoch(trainer: pl.Trainer) -> int:
    """Steps of the optimiser in an epoch."""
    _ = trainer.estimated_stepping_batches  # Lightning counts the batches for it
    return max(1, math.ceil(int(trainer.num_training_batches) / int(trainer.accumulate_grad_batches)))


def renews_optimizers(strategy: Strategy) -> bool:
    """Whether :func:`renew_optimizer` works with a strategy: others have laid parameters out for one optimiser."""
    return isinstance(strategy, DDPStrategy | SingleDeviceStrategy)


Optimizers = tuple[list[Any], list[Any]]
"""Optimisers, and schedules as Lightning has them."""


def optimizers_of(trainer: pl.Trainer) -> Optimizers:
    """Those in use."""
    return list(trainer.strategy.optimizers), list(trainer.strategy.lr_scheduler_configs)


def states_of(kept: Optimizers) -> dict[str, Any]:
    """What a checkpoint keeps of them."""
    return {
        "optimizers": [one.state_dict() for one in kept[0]],
        "schedules": [one.scheduler.state_dict() for one in kept[1]],
    }


def load_optimizers(trainer: pl.Trainer, states: dict[str, Any]) -> None:
    """Give the optimisers and schedules in use the states of :func:`states_of`."""
    optimizers, schedules = optimizers_of(trainer)
    for one, state in zip(optimizers, states["optimizers"], strict=True):
        one.load_state_dict(state)
    for one, state in zip(schedules, states["schedules"], strict=True):
        one.scheduler.load_state_dict(state)


def renew_optimizer(trainer: pl.Trainer, kept: Optimizers | None = None) -> None:
    """Have the module configure its optimiser and schedule anew, between two epochs, or take up those that were `kept`.
    Ranks that average gradients average those of the parameters that learn now."""
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and isinstance(strategy.model, DistributedDataParallel):
        strategy.model = strategy.lightning_module
        gc.collect()  # the wrapper that is left takes its hooks off the gradients
        strategy.configure_ddp()
    if kept is None:
        strategy.setup_optimizers(trainer)
    else:
        strategy.optimizers, strategy.lr_scheduler_configs = kept


def complete_epoch(trainer: pl.Trainer) -> None:
    """Count the epoch that a checkpoint was written at the end of, as Lightning does where the last one was reached."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    progress.completed = progress.processed


def write_failed(trainer: pl.Trainer) -> bool:
    """Whether the latest checkpoint could not be written, which our writer notes on the rank that writes."""
    return bool(getattr(trainer.strategy.checkpoint_io, "failed", False))


def await_validation(checkpoint: dict[str, Any]) -> None:
    """Make the progress in a checkpoint that of an epoch whose steps are done and whose validation begins.

    Lightning counts a step as completed after the hooks that may save, and has counts for a validation that was cut.
    """
    loops = checkpoint["loops"]["fit_loop"]
    batches = loops["epoch_loop.batch_progress"]
    for part in ("total", "current"):
        batches[part]["completed"] = batches[part]["processed"] = batches[part]["ready"]
    begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    loops["epoch_loop.val_loop.batch_progress"] = {"total": begun, "current": dict(begun), "is_last_batch": False}


class Watch(Protocol):
    """Who looks after the ranks that a process has started."""

    def watch(self, processes: list[subprocess.Popen[bytes]]) -> None: ...

    def send(self, number: int) -> None: ...


class _Launcher(_SubprocessScriptLauncher):
    """Starts the other ranks as Lightning does, and has another than Lightning watch them."""

    def __init__(self, watch: Watch, usual: _SubprocessScriptLauncher) -> None:
        super().__init__(usual.cluster_environment, usual.num_processes, usual.num_nodes)
        self._watch = watch

    def _call_children_scripts(self) -> None:
        super()._call_children_scripts()
        self._watch.watch(self.procs)
        self.procs = []  # Lightning's own watch has nobody to look after

    def kill(self, signum: Any) -> None:
        self._watch.send(signum)


def hand_ranks_to(watch: Watch, trainer: pl.Trainer) -> bool:
    """Have `watch` look after the ranks of a trainer, where Lightning starts them itself and no scheduler looks after
    them; whether it is so."""
    usual = trainer.strategy.launcher
    if type(usual) is not _SubprocessScriptLauncher:
        return False
    if not isinstance(usual.cluster_environment, LightningEnvironment):
        return False
    trainer.strategy._launcher = _Launcher(watch, usual)
    return True
