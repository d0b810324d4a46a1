"""Training steps on random clips: as a run makes them, in a loop of a few lines, and as the published program does.

Legend: B clips, T frames, C channels, H W height and width.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from mml_lightning.backbones.cost import kept_bytes
from mml_lightning.backbones.peer import Peer
from mml_lightning.backbones.recognizer import Recognizer
from mml_lightning.benchmarks.baseline import PlainTrainer, PlainTSM
from mml_lightning.config import backbones, data, instantiate, objective, training
from mml_lightning.config.settings import Settings
from mml_lightning.data.loading.prefetch import prefetch_to_device
from mml_lightning.engine import process
from mml_lightning.engine import trainer as engine_trainer
from mml_lightning.modalities import Modality
from mml_lightning.training import nonfinite_gradients
from mml_lightning.training.advice import Seen
from mml_lightning.training.arithmetic import counted_or_none, training_operations
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.throughput import half_gain
from mml_lightning.utils.device import now, peak_memory, precision_type
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.malloc import keep_freed_memory

CLASSES = 174
COMPARED = 3  # steps: later ones tell how fast small differences grow
Batch = dict[str, Any]
Compose = Callable[[Sequence[str]], Settings]


def run_words(overrides: Sequence[str], folder: Path, device: torch.device) -> list[str]:
    """The words of a config that is measured: a run of one epoch on `device` that keeps nothing."""
    where = f"trainer.accelerator={'gpu' if device.type == 'cuda' else 'cpu'}"
    fixed = ("callbacks=none", "schedule.epochs=1", "backbone.net.dropout=0", "trainer.devices=1")
    return [*overrides, f"paths.output_dir={folder}", *fixed, "trainer.limit_val_batches=0", where]


@dataclass(frozen=True)
class Facts:
    """What steps tell beside their time: losses of all of them, bytes that a clip keeps for the backward pass and that
    were held at most, operations of a clip (None where they are not counted)."""

    losses: list[float]
    kept: float
    peak: int
    operations: float | None


class Steps(ABC):
    """Steps on random clips; what they tell."""

    def __init__(self, cfg: Settings, device: torch.device) -> None:
        self.cfg, self.device = cfg, device
        self.losses: list[float] = []

    @abstractmethod
    def __call__(self, batches: Sequence[Batch], warm: int = 0) -> float:
        """Seconds per step of those after the first `warm` ones."""

    @abstractmethod
    def kept(self, batch: Batch) -> int:
        """Bytes that a forward pass keeps for the backward pass, parameters aside."""

    def operations(self, batch: Batch) -> float | None:
        return None

    def round(self, steps: int) -> float:
        """Seconds per step of `steps` steps. On a GPU, whose memory was given back after the last round, one more goes
        before them."""
        warm = 1 if self.device.type == "cuda" else 0
        made = random_batches(self.cfg, min(warm + steps, COMPARED), self.device)
        return self([made[number % len(made)] for number in range(warm + steps)], warm)

    def facts(self) -> Facts:
        peak = peak_memory(self.device)
        batch = random_batches(self.cfg, 1, self.device)[0]
        return Facts(self.losses, self.kept(batch) / len(batch["index"]), peak, self.operations(batch))


class CohortSteps(Steps):
    """Steps of a config as a run makes them."""

    def __init__(self, cfg: Settings, peers: Mapping[str, Modality], folder: Path, device: torch.device) -> None:
        super().__init__(cfg, device)
        self.modalities, self.folder = peers, folder
        self.cohort = fresh_cohort(cfg, peers)

    def __call__(self, batches: Sequence[Batch], warm: int = 0) -> float:
        watch = _Watch(self.device, warm)
        checks = nonfinite_gradients.callbacks(training.nonfinite_settings(self.cfg), self.folder)
        trainer = engine_trainer.make_trainer(self.cfg, self.folder, [*checks, watch])
        training.execution_settings(self.cfg).arrange(self.cohort, self.device, trainer.world_size)
        trainer.fit(self.cohort, _Loader(batches, self.device))
        self.losses += [float(loss) for loss in watch.losses]
        return watch.seconds / (len(batches) - warm)

    def kept(self, batch: Batch) -> int:
        clips = {name: clip.flatten(0, 1).to(self.device) for name, clip in batch["clips"].items()}
        self.cohort.to(self.device).set_modes()
        with autocast(self.cfg, self.device):
            return kept_bytes(lambda: self.cohort(clips), self.cohort)

    def operations(self, batch: Batch) -> float | None:
        shapes = {name: tuple(clip.shape[2:]) for name, clip in batch["clips"].items()}
        return counted_or_none(lambda: training_operations(self.cohort, shapes))


class BareSteps(CohortSteps):
    """The same networks, losses of the labels and optimiser in a loop of a few lines, the clips on the device before it
    starts: what a run adds is the rest."""

    def __call__(self, batches: Sequence[Batch], warm: int = 0) -> float:
        nets = self.cohort.peers.to(self.device).train()
        plan = self.cohort.plan
        optimizer = plan.optimizer([group for name, net in nets.items() for group in plan.parameter_groups(name, net)])
        losses, start = [], 0.0
        for number, batch in enumerate(_each_once(batches, lambda batch: _moved(batch, self.device))):
            if number == warm:
                start = now(self.device)
            target = batch["target"]["label"]
            clips = {name: m(batch["clips"][m.name].flatten(0, 1)) for name, m in self.modalities.items()}
            with autocast(self.cfg, self.device):
                logits = [net(clips[name]).logits["label"] for name, net in nets.items()]
            loss = torch.stack([torch.nn.functional.cross_entropy(scores.float(), target) for scores in logits]).sum()
            optimizer.zero_grad()
            loss.backward()
            if plan.clip_norm is not None:
                for net in nets.values():
                    torch.nn.utils.clip_grad_norm_(net.parameters(), plan.clip_norm)
            optimizer.step()
            losses.append(loss.detach())
        spent = now(self.device) - start
        self.losses += [float(loss) for loss in losses]
        return spent / (len(batches) - warm)


class PlainSteps(Steps):
    """Steps of the baseline: a network per modality, one after the other, each as in a process of its own.

    Args:
        keep: memory that is freed stays with the process, as in our runs; the published program leaves that alone.
    """

    def __init__(
        self, cfg: Settings, modalities: Mapping[str, Modality], device: torch.device, keep: bool = False
    ) -> None:
        super().__init__(cfg, device)
        self.modalities = modalities
        if keep:
            keep_freed_memory()
        self.nets = {}
        for name, net in networks(cfg, modalities).items():
            if not isinstance(net, Recognizer):
                told = f"{backbones.word(cfg, modalities[name].name)}={backbones.of(cfg, modalities[name].name).name}"
                raise UserError(f"the baseline is 2-D, {told} is not; leave it out of --ways")
            self.nets[name] = PlainTSM(net, cfg.sampling.num_segments).to(device)

    def trainers(self) -> dict[str, PlainTrainer]:
        optimizer = self.cfg.optimizer
        return {name: PlainTrainer(net, optimizer.lr, optimizer.weight_decay) for name, net in self.nets.items()}

    def __call__(self, batches: Sequence[Batch], warm: int = 0) -> float:
        trainers, start = self.trainers(), 0.0
        ready = _each_once(batches, lambda batch: {name: self.prepare(batch, name) for name in self.nets})
        for number, (batch, clips) in enumerate(zip(batches, ready, strict=True)):
            if number == warm:
                start = now(self.device)
            target = batch["target"]["label"].to(self.device)
            there = {name: clip.to(self.device, non_blocking=True) for name, clip in clips.items()}
            losses = [trainer.step(there[name], target) for name, trainer in trainers.items()]
            self.losses.append(sum(losses))
        return (now(self.device) - start) / (len(batches) - warm)

    def prepare(self, batch: Batch, name: str) -> Tensor:
        """float32 [B, T*C, H, W], normalised: what the workers of the baseline hand over."""
        clips = self.modalities[name](batch["clips"][name][:, 0]).flatten(1, 2)
        return clips.pin_memory() if self.device.type == "cuda" else clips

    def kept(self, batch: Batch) -> int:
        """The larger of the networks' counts."""
        return max(
            kept_bytes(functools.partial(net, self.prepare(batch, name).to(self.device)), net)
            for name, net in self.nets.items()
        )


class _Watch(pl.Callback):
    """Time from the end of the first `warm` steps to that of the last, and every loss."""

    def __init__(self, device: torch.device, warm: int) -> None:
        self.device, self.warm = device, warm
        self.seconds = self._start = 0.0
        self.losses: list[Tensor] = []

    def on_train_batch_start(self, *_: Any) -> None:
        if len(self.losses) == self.warm:
            self._start = now(self.device)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].detach())
        if trainer.is_last_batch:  # the clock waits for the device
            self.seconds = now(self.device) - self._start


@dataclass(frozen=True)
class _Loader:
    """Batches as a run gets them from its loader: on a GPU before they are asked for."""

    batches: Sequence[Batch]
    device: torch.device

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches) if self.device.type == "cpu" else prefetch_to_device(self.batches, self.device)


def autocast(cfg: Settings, device: torch.device) -> torch.autocast:
    """In what the trainer's precision computes convolutions."""
    dtype = precision_type(str(cfg.trainer.precision), device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def _moved(batch: Batch, device: torch.device) -> Batch:
    moved: Batch = apply_to_collection(batch, Tensor, lambda tensor: tensor.to(device))
    return moved


def _each_once(batches: Sequence[Batch], prepare: Callable[[Batch], Batch]) -> list[Batch]:
    """Every batch prepared; one that comes again is the same as before."""
    ready = {key: prepare(batch) for key, batch in {id(batch): batch for batch in batches}.items()}
    return [ready[id(batch)] for batch in batches]


def networks(cfg: Settings, modalities: Mapping[str, Modality]) -> dict[str, Peer]:
    """Fresh networks, the same ones whenever they are asked for."""
    nets = {}
    for number, (name, modality) in enumerate(modalities.items()):
        torch.manual_seed(number)
        make = instantiate.instantiate(cfg.plain(f"{backbones.word(cfg, modality.name)}.net"), cfg.trusted)
        nets[name] = make(in_channels=modality.channels, num_classes={"label": CLASSES})
    return nets


def seen(cfg: Settings, device: torch.device, mfu: float | None, **known: Any) -> Seen:
    """What was measured of a config.

    Args:
        known: more of :class:`mml_lightning.training.advice.Seen`.
    """
    precision = str(cfg.trainer.precision)
    with torch.device("meta"):
        nets = networks(cfg, data.modalities(cfg))
    return Seen(precision=precision, mfu=mfu, gain=half_gain(device, precision, mfu, nets.values()), **known)


def fresh_cohort(cfg: Settings, peers: Mapping[str, Modality], ids: Sequence[str] = ()) -> Cohort:
    """Fresh networks as a run has them; the process is set up for one.

    Args:
        ids: of the test split.
    """
    process.set_up_process(cfg)
    nets, graph = networks(cfg, peers), objective.objective(cfg, list(peers))
    training.prepare_features(cfg, graph, nets, peers)
    training.execution_settings(cfg).apply(nets)
    return Cohort(
        peers=nets,
        modalities=peers,
        objective=graph,
        plan=training.optimiser_plan(cfg, {name: {"fresh_head": True} for name in nets}),
        ids={"test": ids},
        multi_label={"label": False},
        max_views=cfg.data.eval_batch_size,
    )


def random_clips(cfg: Settings, videos: int, views: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Noise [videos, views, T, ...] of every modality of a config, as its clips are stored."""
    frames, size, kinds = cfg.sampling.num_segments, (cfg.transforms.output,) * 2, data.sources(cfg)
    clips = {}
    for modality in data.modalities(cfg).values():
        shape, dtype = kinds[modality.source].segment(modality, size)
        # of uint8 all values, of sound soft noise
        clips[modality.name] = torch.randint(0, 256, (videos, views, frames, *shape), dtype=dtype, generator=generator)
    return clips


def random_batches(cfg: Settings, count: int, device: torch.device) -> list[Batch]:
    """Batches of noise in the form of the loader, on the host; pinned where they go to a GPU."""
    generator, size = torch.Generator().manual_seed(0), cfg.data.batch_size
    made = []
    for _ in range(count):
        clips = random_clips(cfg, size, 1, generator)
        target = {"label": torch.randint(0, CLASSES, (size,), generator=generator)}
        names = {"index": torch.arange(size), "id": list(map(str, range(size))), "failures": []}
        batch = {"clips": clips, "complete": True, "target": target, **names}
        made.append(batch if device.type == "cpu" else apply_to_collection(batch, Tensor, Tensor.pin_memory))
    return made
