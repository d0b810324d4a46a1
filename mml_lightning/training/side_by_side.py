"""How the peers of a training step are computed: in turn or, on a CPU, side by side, each in a thread of its own.

Two threads of torch compute a small network hardly faster than one: they wait for each other at every layer. Those of
different networks never do. So each peer has its share of the run's threads:

    forward     each peer in its thread      outputs, cut off from their graphs
    losses      the main thread              gradients of the outputs
    backward    each peer in its thread      gradients of the weights; the main thread reads the next batch

The numbers are those of a run in turn on so many threads, whoever is done first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from mml_lightning.backbones import own_draws
from mml_lightning.backbones.peer import HeadInput, PeerOutput
from mml_lightning.utils.errors import UserError

T = TypeVar("T")
DRAWING = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
MOST = 0.75  # of the threads
PERHAPS = (nn.RNNBase, nn.MultiheadAttention)  # with dropout
KNOWN = ("torch.nn.", "mml_lightning.")


class InTurn:
    """One peer after the other, each on all threads."""

    told = ""
    """How the peers are computed, in words, where it is worth one."""

    def outputs(self, names: Sequence[str], compute: Callable[[str], PeerOutput]) -> dict[str, PeerOutput]:
        """What `compute` makes of each peer."""
        return {name: compute(name) for name in names}

    def backward(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """To be called when the outputs have their gradients: hand them on to the weights.

        Args:
            meanwhile: called where this thread would only wait.
        """


class SideBySide(InTurn):
    """Each peer in a thread that has a share of `threads`, and random numbers of its own.

    Args:
        names: of all peers.
        threads: of torch, for all of them.
    """

    def __init__(self, names: Collection[str], threads: int) -> None:
        share = max(1, threads // len(names))
        self.told = f"peers side by side on {share} thread{'s' * (share > 1)} each"
        self._threads = {name: ThreadPoolExecutor(1, f"peer {name}", _begin, (share,)) for name in names}
        self._cut: dict[str, list[tuple[Tensor, Tensor]]] = {}  # outputs with their graphs, and without
        before = torch.get_num_threads()
        _all([thread.submit(int) for thread in self._threads.values()])
        torch.set_num_threads(before)  # of the threads that are still to come, which the last one counts for, too

    def outputs(self, names: Sequence[str], compute: Callable[[str], PeerOutput]) -> dict[str, PeerOutput]:
        """As of :class:`InTurn`, without their graphs: :meth:`backward` must follow."""
        mixed = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

        def here(name: str) -> PeerOutput:
            with torch.autocast("cpu", mixed[1], enabled=mixed[0]):  # is each thread's own
                return compute(name)

        made = _all([self._threads[name].submit(here, name) for name in names])
        self._cut = {name: [] for name in names}
        return {
            name: PeerOutput(*({key: self._leaf(name, value) for key, value in part.items()} for part in output))
            for name, output in zip(names, made, strict=True)
        }

    def backward(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        cut, self._cut = self._cut, {}
        pairs = {n: [(made, leaf.grad) for made, leaf in ends if leaf.grad is not None] for n, ends in cut.items()}
        del cut
        jobs = [self._threads[name].submit(_descend, ends) for name, ends in pairs.items() if ends]
        try:
            meanwhile()
        finally:
            _all(jobs)

    def _leaf(self, name: str, made: Tensor) -> Tensor:
        if not made.requires_grad:
            return made
        leaf = made.detach().requires_grad_()
        self._cut[name].append((made, leaf))
        return leaf


class PeersModule(pl.LightningModule):
    """A module whose training step asks `beside` for the outputs of its peers."""

    beside: InTurn = InTurn()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        super().backward(loss, *args, **kwargs)
        self.beside.backward(getattr(getattr(self.trainer, "datamodule", None), "read_next", int))


def choose(
    wanted: bool | str, nets: Mapping[str, Any], device: torch.device, ranks: int, all_learn: bool = True
) -> InTurn:
    """How the peers of a run are computed.

    Args:
        wanted: `step.side_by_side`; auto: side by side where nothing speaks against it and it is sooner done: no peer
            waits for a larger one, and few threads have nothing to do.
        all_learn: all peers do, all along; one that only teaches is done sooner.

    Raises:
        UserError: `true`, and something does.
    """
    if wanted is False or len(nets) < 2:
        return InTurn()
    against = next(_against(nets, device, ranks), None)
    if against is not None and wanted is True:
        raise UserError(f"step.side_by_side=true: {against}; set it to auto")
    threads = torch.get_num_threads()
    if against is not None or (wanted == "auto" and not (all_learn and _alike(nets) and _busy(threads, len(nets)))):
        return InTurn()
    return SideBySide(nets, threads)


def _alike(nets: Mapping[str, Any]) -> bool:
    """Whether the networks are the same but for their inputs."""
    return (
        len({json.dumps({**net.arch, "in_channels": None}, sort_keys=True, default=str) for net in nets.values()}) < 2
    )


def _busy(threads: int, peers: int) -> bool:
    """Whether equal shares use most of the threads, of which there are several."""
    return threads > 1 and (peers > threads or threads // peers * peers >= MOST * threads)


def _against(nets: Mapping[str, nn.Module], device: torch.device, ranks: int) -> Iterator[str]:
    """Why peers can't be computed side by side."""
    if device.type != "cpu":
        yield f"it is for a CPU, and this is a {device.type} device"
    if ranks > 1:
        yield "it is for one process, and here are several"
    for name, net in nets.items():
        for module in net.modules():
            kind = type(module)
            if isinstance(module, DRAWING) and not isinstance(module, HeadInput):
                yield f"{name} has a {kind.__name__}, whose random numbers would depend on the other networks"
            elif isinstance(module, PERHAPS) and module.dropout:
                yield f"{name} has a {kind.__name__} with dropout, which would depend on the other networks"
            elif not f"{kind.__module__}.".startswith(KNOWN):
                yield f"the random numbers of {name} might depend on the other networks, it has a {kind.__name__}"


def _begin(share: int) -> None:
    torch.get_num_threads()  # once this is known to torch, it leaves what follows
    torch.set_num_threads(share)  # of this thread
    own_draws.begin()


def _descend(ends: Sequence[tuple[Tensor, Tensor]]) -> None:
    torch.autograd.backward([made for made, _ in ends], [gradient for _, gradient in ends])


def _all(jobs: Sequence[Future[T]]) -> list[T]:
    """The results, once all have ended: after an error or an interrupt nobody goes on computing unseen."""
    try:
        return [job.result() for job in jobs]
    finally:
        wait(jobs)
