"""Batches copied ahead: the same ones, in order, one early. Queues of a CPU do nothing: copies overlap on GPUs only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from mml_lightning.data.loading.prefetch import prefetch_to_device

CPU = torch.device("cpu")


def batches(taken: list[int], count: int = 3) -> Iterator[dict[str, Any]]:
    for number in range(count):
        taken.append(number)
        yield {"clips": {"rgb": torch.full((2,), number)}, "id": [f"{number}a", f"{number}b"], "complete": True}


def test_every_batch_is_fetched_while_the_one_before_is_in_use() -> None:
    taken: list[int] = []
    seen = []
    for batch in prefetch_to_device(batches(taken), CPU):
        seen.append((int(batch["clips"]["rgb"][0]), batch["id"][1], len(taken)))
    assert seen == [(0, "0b", 2), (1, "1b", 3), (2, "2b", 3)]


@pytest.mark.parametrize("count", [0, 1])
def test_few_batches(count: int) -> None:
    assert len(list(prefetch_to_device(batches([], count), CPU))) == count


def test_the_copy_has_a_queue_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Queue:
        def wait_event(self, event: int) -> None:
            order.append(f"wait for {event}")

    class Own:
        def __init__(self, device: Any) -> None:
            self.events = 0

        def record_event(self) -> int:
            self.events += 1
            return self.events

    class Entered:
        def __init__(self, queue: Any) -> None:
            assert isinstance(queue, Own)

        def __enter__(self) -> None:
            order.append("copy")

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(torch.cpu, "Stream", Own)
    monkeypatch.setattr(torch.cpu, "stream", Entered)
    monkeypatch.setattr(torch.cpu, "current_stream", lambda device: Queue())
    for _ in prefetch_to_device(batches([], 2), CPU):
        order.append("step")
    assert order == ["copy", "copy", "wait for 1", "step", "wait for 2", "step"], "no step waits for the next copy"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_values_are_there_when_they_are_used() -> None:
    source = ({"x": torch.full((2**22,), n).pin_memory()} for n in range(8))
    sums = [batch["x"].sum() for batch in prefetch_to_device(source, torch.device("cuda"))]
    assert [int(total) for total in sums] == [n * 2**22 for n in range(8)]
