"""Work of several threads done in one batch: for a device that is only busy with more than one thread brings."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import torch
from torch import Tensor


class MicroBatcher:
    """A function of several clips, called with one by each of several threads.

    Who finds it idle computes what is waiting, in one call; who comes meanwhile waits for the next. So there is no
    thread of its own and no delay: the slower a call, the more the next one gets. Clips of another size are left for a
    call of their own.

    Args:
        compute: clips [T, 1, H, W] of one size H, W to a tensor of each.
    """

    def __init__(self, compute: Callable[[Sequence[Tensor]], Sequence[Tensor]]) -> None:
        self.compute = compute
        self._turn, self._list = threading.Lock(), threading.Lock()
        self._waiting: list[tuple[Tensor, Future[Tensor]]] = []

    def __call__(self, clip: Tensor) -> Tensor:
        """What `compute` makes of `clip`, alone or with others.

        Raises:
            Exception: what `compute` raises, in each thread whose clip was in the call.
        """
        mine: Future[Tensor] = Future()
        with self._list:
            self._waiting.append((clip, mine))
        with self._turn:
            if not mine.done():
                self._answer(clip.shape[1:])
        return mine.result()

    def _answer(self, size: torch.Size) -> None:
        with self._list:
            taken = [one for one in self._waiting if one[0].shape[1:] == size]
            self._waiting = [one for one in self._waiting if one[0].shape[1:] != size]
        clips, answers = [clip for clip, _ in taken], [answer for _, answer in taken]
        try:
            results = self.compute(clips)
        except BaseException as error:
            for answer in answers:
                answer.set_exception(error)
            return
        for answer, result in zip(answers, results, strict=True):
            answer.set_result(result)
