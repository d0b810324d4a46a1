"""A training step of a config, several ways side by side, against what the published program does per step.

Ours is the whole step as a run makes it: the trainer, uint8 clips normalised on the device, the objective, clipping,
the optimiser. The baseline gets its clips normalised already. All ways start from the same weights and see the same
batches, so that their losses compare; dropout is off for that. Each has a process of its own: what one frees another
would find.

Legend: B clips, T frames, C channels, H W height and width.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader

from mml_lightning import build, build_data, nodes, nonfinite, process, run
from mml_lightning.backbones.cost import kept_bytes
from mml_lightning.backbones.peer import Peer
from mml_lightning.backbones.recognizer import Recognizer
from mml_lightning.benchmarks.apart import Apart
from mml_lightning.benchmarks.baseline import PlainTrainer, PlainTSM
from mml_lightning.benchmarks.timing import Timing, alternate, markdown
from mml_lightning.cohort import Cohort
from mml_lightning.errors import UserError
from mml_lightning.heap import keep_freed_memory
from mml_lightning.modalities import Modality
from mml_lightning.throughput import (
    arithmetic_peak,
    clock,
    counted_or_none,
    peak_memory,
    precision_type,
    training_operations,
)

CLASSES = 174
COMPARED = 3  # steps: later ones tell how fast small differences grow
CPU = torch.device("cpu")
BASELINE, KEPT = PLAIN = ("baseline", "baseline_kept")  # the other one keeps the memory that it frees
BARE = "bare"
WAYS: dict[str, tuple[str, ...]] = {  # overrides of the config
    BASELINE: (),
    KEPT: (),
    "contiguous": ("trainer.precision=32-true", "step.memory_format=contiguous"),
    "float32": ("trainer.precision=32-true",),
    "bfloat16": ("trainer.precision=bf16-mixed",),
    BARE: ("trainer.precision=bf16-mixed",),
    "compiled": ("trainer.precision=bf16-mixed", "step.compile=true"),
    "twice": ("trainer.precision=bf16-mixed", "step.checkpointing=true"),
}
DEFAULT = (BASELINE, "float32", "bfloat16")
Compose = Callable[[Sequence[str]], DictConfig]


@dataclass(frozen=True)
class Row:
    """One way: clips per second (best round), spread over the rounds, share of the arithmetic of a matrix product,
    megabytes that a clip keeps for the backward pass and that the process held at most, largest relative difference of
    a loss of the first :data:`COMPARED` steps to the baseline's."""

    way: str
    clips_per_s: float
    spread: float
    mfu: float
    kept_mb: float
    peak_mb: float
    loss_difference: float | None


@dataclass(frozen=True)
class Facts:
    """What steps tell beside their time: losses of all of them, bytes that a clip keeps for the backward pass and that
    were held at most, operations of a clip (None where they are not counted)."""

    losses: list[float]
    kept: float
    peak: int
    operations: float | None


class _Steps(ABC):
    """Steps on random clips; what they tell."""

    cfg: DictConfig
    device: torch.device
    losses: list[float]

    @abstractmethod
    def __call__(self, batches: Sequence[dict[str, Any]]) -> float: ...

    @abstractmethod
    def kept(self, batch: dict[str, Any]) -> int: ...

    def operations(self, batch: dict[str, Any]) -> float | None:
        return None

    def round(self, steps: int) -> float:
        """Seconds per step of `steps` steps."""
        batches = random_batches(self.cfg, steps)
        if self.device.type == "cuda":  # whose memory was given back after the last round
            self(batches[:1])
        return self(batches)

    def facts(self) -> Facts:
        peak = peak_memory(self.device)
        batch = random_batches(self.cfg, 1)[0]
        return Facts(self.losses, self.kept(batch) / len(batch["index"]), peak, self.operations(batch))


class CohortSteps(_Steps):
    """Steps of a config as a run makes them."""

    def __init__(self, cfg: DictConfig, peers: Mapping[str, Modality], folder: Path, device: torch.device) -> None:
        self.cfg, self.modalities, self.folder, self.device = cfg, peers, folder, device
        process.set_up_process(cfg)
        build.step(cfg).apply(nets := networks(cfg, self.modalities))
        self.cohort = Cohort(
            peers=nets,
            modalities=self.modalities,
            objective=build.objective(cfg, list(nets)),
            plan=build.optimiser_plan(cfg, {name: {"fresh_head": True} for name in nets}),
            ids={},
            multi_label={"label": False},
        )
        self.losses: list[float] = []

    def __call__(self, batches: Sequence[dict[str, Any]]) -> float:
        """Seconds per step."""
        watch = _Watch(self.device)
        checks = nonfinite.callbacks(build.nonfinite(self.cfg), self.folder)
        trainer = run.make_trainer(self.cfg, self.folder, [*checks, watch])
        trainer.fit(self.cohort, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
        self.losses += [float(loss) for loss in watch.losses]
        return watch.seconds / len(batches)

    def kept(self, batch: dict[str, Any]) -> int:
        """Bytes that a forward pass keeps for the backward pass, parameters aside."""
        clips = {name: clip.flatten(0, 1).to(self.device) for name, clip in batch["clips"].items()}
        dtype = precision_type(self.cfg.trainer.precision)
        self.cohort.to(self.device).set_modes()
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            return kept_bytes(lambda: self.cohort(clips), self.cohort)

    def operations(self, batch: dict[str, Any]) -> float | None:
        shapes = {name: tuple(clip.shape[2:]) for name, clip in batch["clips"].items()}
        return counted_or_none(lambda: training_operations(self.cohort, shapes))


class BareSteps(CohortSteps):
    """The same networks, losses of the labels and optimiser in a loop of a few lines: what a run adds is the rest."""

    def __call__(self, batches: Sequence[dict[str, Any]]) -> float:
        """Seconds per step."""
        nets = self.cohort.peers.to(self.device).train()
        plan = self.cohort.plan
        optimizer = plan.optimizer([group for name, net in nets.items() for group in plan.parameter_groups(name, net)])
        dtype, losses = precision_type(self.cfg.trainer.precision), []
        start = clock(self.device)
        for batch in batches:
            target = batch["target"]["label"].to(self.device)
            clips = {
                name: m(batch["clips"][m.name].flatten(0, 1).to(self.device)) for name, m in self.modalities.items()
            }
            with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                logits = [net(clips[name]).logits["label"] for name, net in nets.items()]
            each = [torch.nn.functional.cross_entropy(scores.float(), target) for scores in logits]
            loss = torch.stack(each).sum()
            optimizer.zero_grad()
            loss.backward()
            if plan.clip_norm is not None:
                for net in nets.values():
                    torch.nn.utils.clip_grad_norm_(net.parameters(), plan.clip_norm)
            optimizer.step()
            losses.append(loss.detach())
        spent = clock(self.device) - start
        self.losses += [float(loss) for loss in losses]
        return spent / len(batches)


class _Watch(pl.Callback):
    """Time from the start of the first step to the end of the last, and every loss."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = self._start = 0.0
        self.losses: list[Tensor] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 0:
            self._start = clock(self.device)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].detach())
        if trainer.is_last_batch:  # the clock waits for the device
            self.seconds = clock(self.device) - self._start


class PlainSteps(_Steps):
    """Steps of the baseline: a network per modality, one after the other, each as in a process of its own.

    Args:
        keep: memory that is freed stays with the process, as in our runs; the published program leaves that alone.
    """

    def __init__(
        self, cfg: DictConfig, modalities: Mapping[str, Modality], device: torch.device, keep: bool = False
    ) -> None:
        self.cfg, self.modalities, self.device = cfg, modalities, device
        if keep:
            keep_freed_memory()
        self.nets = {}
        for name, net in networks(cfg, modalities).items():
            if not isinstance(net, Recognizer):
                raise UserError(f"the baseline is 2-D, backbone={cfg.backbone.name} is not; leave it out of --ways")
            self.nets[name] = PlainTSM(net, cfg.sampling.num_segments).to(device)
        self.losses: list[float] = []

    def __call__(self, batches: Sequence[dict[str, Any]]) -> float:
        """Seconds per step."""
        optimizer = self.cfg.optimizer
        trainers = {n: PlainTrainer(net, optimizer.lr, optimizer.weight_decay) for n, net in self.nets.items()}
        ready = [{name: self.prepare(batch, name) for name in self.nets} for batch in batches]
        start = clock(self.device)
        for batch, clips in zip(batches, ready, strict=True):
            target = batch["target"]["label"].to(self.device)
            there = {name: clip.to(self.device, non_blocking=True) for name, clip in clips.items()}
            losses = [trainer.step(there[name], target) for name, trainer in trainers.items()]
            self.losses.append(sum(losses))
        return (clock(self.device) - start) / len(batches)

    def prepare(self, batch: dict[str, Any], name: str) -> Tensor:
        """float32 [B, T*C, H, W], normalised: what the workers of the baseline hand over."""
        clips = self.modalities[name](batch["clips"][name][:, 0]).flatten(1, 2)
        return clips.pin_memory() if self.device.type == "cuda" else clips

    def kept(self, batch: dict[str, Any]) -> int:
        """Bytes that the larger of the networks' forward passes keeps, parameters aside."""
        return max(
            kept_bytes(functools.partial(net, self.prepare(batch, name).to(self.device)), net)
            for name, net in self.nets.items()
        )


def networks(cfg: DictConfig, modalities: Mapping[str, Modality]) -> dict[str, Peer]:
    """Fresh networks, the same ones whenever they are asked for."""
    make = nodes.make(cfg.backbone.net)
    nets = {}
    for number, (name, modality) in enumerate(modalities.items()):
        torch.manual_seed(number)
        nets[name] = make(in_channels=modality.channels, num_classes={"label": CLASSES})
    return nets


def random_batches(cfg: DictConfig, count: int) -> list[dict[str, Any]]:
    """Batches of noise in the form of the loader."""
    generator = torch.Generator().manual_seed(0)
    size, frames, side = cfg.data.batch_size, cfg.sampling.num_segments, cfg.transforms.output
    made = []
    for _ in range(count):
        clips = {
            m.name: torch.randint(
                0,
                256,
                (size, 1, frames, m.window * m.item_channels, side, side),
                dtype=torch.uint8,
                generator=generator,
            )
            for m in build_data.modalities(cfg).values()
        }
        target = {"label": torch.randint(0, CLASSES, (size,), generator=generator)}
        made.append({"clips": clips, "complete": True, "target": target, "index": torch.arange(size), "failures": []})
    return made


def compare(
    compose: Compose,
    overrides: Sequence[str],
    ways: Sequence[str] = DEFAULT,
    rounds: int = 3,
    steps: int = 1,
    alone: bool = False,
    device: torch.device = CPU,
    advance: Callable[[str], object] = lambda way: None,
) -> list[Row]:
    """One row per way.

    Args:
        ways: of :data:`WAYS`. alone: each modality in a run of its own, too, in the last of the ways.

    Raises:
        UserError: a way is unknown, or the config is wrong.
    """
    if alone and ways[-1] in (*PLAIN, BARE):
        raise UserError(f"--alone is for the way of a run, {ways[-1]} is none: name another one last in --ways")
    unknown = [way for way in ways if way not in WAYS]
    if unknown:
        raise UserError(f"--ways {unknown[0]} is unknown; use {', '.join(WAYS)}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        common = [*overrides, f"paths.output_dir={folder}", "callbacks=none", "schedule.epochs=1"]
        common += ["backbone.net.dropout=0", f"trainer.accelerator={'gpu' if device.type == 'cuda' else 'cpu'}"]
        plain = compose(common)
        modalities = build_data.modalities(plain)
        makers: dict[str, tuple[Any, ...]] = {}
        for way in ways:
            cfg = compose([*common, *WAYS[way]])
            makers[way] = (
                (PlainSteps, cfg, modalities, device, way == KEPT)
                if way in PLAIN
                else (BareSteps if way == BARE else CohortSteps, cfg, modalities, folder, device)
            )
        if alone:
            single = compose([*common, *WAYS[ways[-1]], "objective=cross_entropy"])
            makers |= {f"{n} alone": (CohortSteps, single, {n: m}, folder, device) for n, m in modalities.items()}
        runners = {n: stack.enter_context(Apart(n, *maker)) for n, maker in makers.items()}
        asked = {name: functools.partial(runner.ask, "round", steps) for name, runner in runners.items()}
        timings = alternate(asked, rounds, advance)
        facts = {name: runner.ask("facts") for name, runner in runners.items()}
        return _rows({name: maker[1] for name, maker in makers.items()}, timings, facts, device)


def _rows(
    configs: Mapping[str, DictConfig],
    timings: Mapping[str, Timing],
    facts: Mapping[str, Facts],
    device: torch.device,
) -> list[Row]:
    base = facts.get(BASELINE)
    counted = next((told.operations for told in facts.values() if told.operations is not None), float("nan"))
    rows = []
    for name, told in facts.items():
        cfg = configs[name]
        rate = cfg.data.batch_size / timings[name].best
        dtype = torch.float32 if name in PLAIN else precision_type(cfg.trainer.precision)
        share = rate * (told.operations or counted) / arithmetic_peak(device, dtype)
        apart = None
        if base is not None and not cfg.objective.edges and not name.endswith(" alone"):  # the baseline has no lessons
            pairs = list(zip(told.losses, base.losses, strict=True))[:COMPARED]
            apart = max(abs(a - b) / abs(b) for a, b in pairs)
        held = (told.kept / 1e6, told.peak / 1e6)
        rows.append(Row(name, rate, timings[name].spread, share, *held, apart))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown, with the ratio to the first way."""
    heads = ["way", "clips/s", f"vs {rows[0].way}", "spread", "MFU", "kept MB/clip", "peak MB", "loss differs by"]
    cells = []
    for row in rows:
        apart = "" if row.loss_difference is None else f"{row.loss_difference:.1e}"
        ratio = "" if row.way.endswith(" alone") else f"{row.clips_per_s / rows[0].clips_per_s:.2f}x"
        rest = [f"{row.spread:.0%}", f"{row.mfu:.0%}", f"{row.kept_mb:.0f}", f"{row.peak_mb:.0f}", apart]
        cells.append([row.way, f"{row.clips_per_s:.3g}", ratio, *rest])
    return markdown(heads, cells)


def sentence(rows: Sequence[Row]) -> str:
    """The bottleneck, and the switch that would move it."""
    ours = {row.way: row for row in rows if row.way in WAYS and row.way not in (*PLAIN, BARE)}
    fastest = max(ours.values(), key=lambda row: row.clips_per_s, default=None)
    if fastest is None:
        return "no run was measured; add float32 or bfloat16 to --ways"
    default = ours.get("float32")
    if default is not None and fastest is not default:
        gain = fastest.clips_per_s / default.clips_per_s
        return (
            f"arithmetic in float32 is the bottleneck of a default run: {' '.join(WAYS[fastest.way])} makes a step "
            f"{gain:.2f} times as fast"
        )
    return "the network is the bottleneck: a smaller transforms.output or fewer sampling.num_segments"


def joint_ratio(rows: Sequence[Row]) -> float | None:
    """Time of a joint step over the sum of the steps of its networks alone; None where these were not measured."""
    alone = [row for row in rows if row.way.endswith(" alone")]
    together = [row for row in rows if row.way in WAYS]
    if not alone or not together:
        return None
    return (1 / together[-1].clips_per_s) / sum(1 / row.clips_per_s for row in alone)


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]
