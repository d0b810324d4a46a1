"""How often a training step makes the host wait for the device: a GPU then runs out of work."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader

from mml_lightning.objectives.lessons import LESSONS
from mml_lightning.training import nonfinite_gradients, step_log
from mml_lightning.training.parameter_groups import fused
from mml_lightning.training.throughput import Throughput
from mml_lightning.utils.async_copy import HostCopy
from tests.training import test_cohort as lab

STEPS = 4
READING = {"item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__", "__index__", "__array__"}
MAKING = {"tensor", "as_tensor", "new_tensor"}  # a copy from memory that is not pinned


class Reads(TorchFunctionMode):
    """Counts what needs the value of a tensor, and numbers of the host that become one."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in READING | MAKING or any(
            isinstance(arg, torch.Tensor) and arg.dtype == torch.bool for arg in _indices(args, name)
        ):
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


def _indices(args: Any, name: str) -> tuple[Any, ...]:
    """A mask as an index is as long as what it lets through: it must be known."""
    return args[1:2] if name in ("__getitem__", "__setitem__", "masked_select") else ()


def test_the_counter_counts() -> None:
    value = torch.tensor([1.0, 2.0])
    reads: list[Callable[[], object]] = [
        *(lambda: float(value[0]), lambda: bool(value.all()), value.tolist, lambda: value[0].item(), value.numpy),
        *(value.nonzero, lambda: value[value > 1], lambda: int(value[0])),
        *(lambda: torch.tensor([1.0]), lambda: value.new_tensor(2.0)),
    ]
    for read in reads:
        with Reads() as counted:
            read()
        assert sum(counted.found.values()) == 1
    with Reads() as counted:
        torch.where(value > 1, value, value.sum()).norm()
    assert not counted.found


@pytest.mark.parametrize(("policy", "flags", "each"), [("skip", True, 0), ("skip", False, 1), ("ignore", True, 0)])
def test_a_step_does_not_wait(
    policy: str, flags: bool, each: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for optimisers that can't leave out a step by a flag on the device. What the host reads, flags in the next
    step and now and then a loss after the backward pass, it had asked for before."""
    counts: list[int] = []
    reads = Reads()
    queued = [False]  # the backward pass
    heard: list[int] = []

    class Asked(HostCopy):
        def __init__(self, tensor: torch.Tensor) -> None:
            super().__init__(tensor)
            self.step, self.queued = len(counts), queued[0]

        def tolist(self) -> Any:
            before = reads.found.copy()
            values = super().tolist()
            steps = len(counts) - self.step
            if steps or (queued[0] and not self.queued):  # the device has been given something to do since
                reads.found = before
            if isinstance(values, list):
                heard.append(steps)
            return values

    class Norms(Asked):
        def tolist(self) -> Any:
            values = super().tolist()
            assert heard.pop() > 0, "in a later step"
            return values

    class Counted(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            queued[0] = False
            reads.found.clear()
            reads.__enter__()

        def on_after_backward(self, *_: Any) -> None:
            queued[0] = True

        def on_train_batch_end(self, *_: Any) -> None:
            reads.__exit__(None, None, None)
            counts.append(sum(reads.found.values()))

    monkeypatch.setattr("mml_lightning.training.cohort.HostCopy", Asked)
    monkeypatch.setattr(nonfinite_gradients, "HostCopy", Asked)
    monkeypatch.setattr(step_log, "HostCopy", Norms)
    cohort = lab.make_cohort({"rgb": lab.RGB, "flow": lab.FLOW}, lab.MUTUAL)
    cohort.log_every = 2
    for modality in cohort.modalities.values():  # its statistics are copied once
        modality(lab.batches(1)[0]["clips"][modality.name])
    if flags:
        make = fused(cohort.plan.optimizer, "64-true")  # type: ignore[arg-type]
        cohort.plan = dataclasses.replace(cohort.plan, optimizer=make)
    batches = [batch | {"complete": True} for batch in lab.batches(STEPS)]
    checks = nonfinite_gradients.callbacks(nonfinite_gradients.NonFiniteSettings(policy=policy), tmp_path)
    trainer = pl.Trainer(**lab.QUIET, max_epochs=1, callbacks=[step_log.StepLog(), *checks, Throughput(4), Counted()])
    trainer.fit(cohort, DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch))  # type: ignore[arg-type]
    assert counts == [each] * STEPS
    assert heard == ([int(flags)] * STEPS if policy == "skip" else [])


ONE, SEVERAL = torch.tensor([0, 2, 1]), torch.eye(3)
CASES = [(lesson, ONE) for lesson in LESSONS] + [(lesson, SEVERAL) for lesson in LESSONS if lesson != "decoupled"]


@pytest.mark.parametrize(("lesson", "labels"), CASES)
def test_no_lesson_waits(lesson: str, labels: torch.Tensor) -> None:
    def output() -> Any:
        features = {"pooled": torch.randn(3, 4), "map": torch.randn(3, 2, 4, 2, 2)}
        return SimpleNamespace(logits={"label": torch.randn(3, 3)}, features=features)

    student, teachers = output(), [output(), output()]
    with Reads() as counted:
        loss = LESSONS[lesson](student, teachers, "label", labels)
    assert loss.shape == (3,) and not counted.found
