"""Batch norms of a run: settings that fit the trainer, groups over clips, statistics measured before validation."""

from __future__ import annotations

import copy
import functools
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators.cuda import CUDAAccelerator
from torch import nn
from torch.utils.data import DataLoader

from mml_lightning.backbones import video_resnet
from mml_lightning.backbones.batch_norm import GroupBatchNorm, Population, batch_norms
from mml_lightning.modalities import Modality
from mml_lightning.objectives import Objective
from mml_lightning.training import batch_norm
from mml_lightning.training.batch_norm import NormSettings
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.optimiser_plan import OptimiserPlan
from mml_lightning.utils.errors import UserError
from tests.patience import answers

RGB = Modality("rgb", "frames", 1, 3, [0.45], [0.225])
CLIPS = 4
QUIET: dict[str, Any] = dict(
    accelerator="cpu",
    precision="64-true",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    num_sanity_val_steps=0,
)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return video_resnet("i3d", "tiny", width=8, dropout=0.5, num_classes={"label": 3}).double()


def batches(count: int = 3) -> list[dict[str, Any]]:
    make = functools.partial(torch.randint, generator=torch.Generator().manual_seed(7))
    return [
        {
            "clips": {"rgb": make(0, 256, (CLIPS, 1, 4, 3, 16, 16), dtype=torch.uint8)},
            "present": {"rgb": torch.ones(CLIPS, dtype=torch.bool)},
            "target": {"label": make(0, 3, (CLIPS,))},
            "index": torch.arange(CLIPS) + i * CLIPS,
            "id": [f"v{i}_{j}" for j in range(CLIPS)],
            "failures": [],
        }
        for i in range(count)
    ]


def cohort(frozen: tuple[str, ...] = (), freeze: str = "none", lr: float = 0.05) -> Cohort:
    plan = OptimiserPlan(torch.optim.SGD, "plain", lr, 0.0, lambda epoch: 1.0, epochs=2)
    names = ["rgb", "rgb_1"]
    edges = [{"students": ["rgb"], "teachers": ["rgb_1"]}]
    return Cohort(
        {name: network(seed) for seed, name in enumerate(names)},
        dict.fromkeys(names, RGB),
        Objective(names, edges, frozen=frozen),
        plan,
        {split: [name for batch in batches() for name in batch["id"]] for split in ("val", "test")},
        {"label": False},
        freeze_bn=freeze,
    )


def fit(module: Cohort, folder: Path, *callbacks: pl.Callback, validate: bool = True, epochs: int = 1) -> pl.Trainer:
    trainer = pl.Trainer(max_epochs=epochs, default_root_dir=folder, callbacks=list(callbacks), **QUIET)
    loader = DataLoader(batches(), batch_size=None)
    trainer.fit(module, loader, DataLoader(batches(), batch_size=None) if validate else None)
    return trainer


def measured(net: nn.Module, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean and variance of all values that enter each batch norm over the first batches, in training mode."""
    net = copy.deepcopy(net).train()
    entered: dict[nn.Module, list[torch.Tensor]] = {}
    for layer in batch_norms(net):
        layer.register_forward_pre_hook(lambda m, inputs: entered.setdefault(m, []).append(inputs[0].detach()))
    with torch.no_grad():
        for batch in batches()[:count]:
            net(RGB(batch["clips"]["rgb"].flatten(0, 1)).double())
    values = [torch.cat(entered[layer]).transpose(0, 1).flatten(1) for layer in batch_norms(net)]
    return [(v.mean(1), v.var(1)) for v in values]


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("count", [2, 200])
def test_precise_statistics_are_those_of_the_activations(tmp_path: Path, validate: bool, count: int) -> None:
    module = cohort()
    fit(module, tmp_path, batch_norm.PreciseNorms(count), validate=validate, epochs=2)
    for peer in module.peers.values():
        for layer, (mean, var) in zip(batch_norms(peer), measured(peer, count), strict=True):
            torch.testing.assert_close(layer.running_mean, mean)
            torch.testing.assert_close(layer.running_var, var)
            assert int(layer.num_batches_tracked) == 6, "steps of training, not of measuring"


def test_precise_statistics_are_there_when_validation_and_checkpoint_look(tmp_path: Path) -> None:
    seen: list[tuple[str, torch.Tensor, bool]] = []

    class Look(pl.Callback):
        def on_validation_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
            layer = module.peers["rgb"].net.bn1
            seen.append(("validation", layer.running_mean.clone(), layer.training))

        def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: Any) -> None:
            seen.append(("checkpoint", checkpoint["state_dict"]["peers.rgb.net.bn1.running_mean"].clone(), False))

    module = cohort()
    saver = pl.callbacks.ModelCheckpoint(tmp_path, "last", save_on_train_epoch_end=True)
    trainer = pl.Trainer(
        max_epochs=1,
        default_root_dir=tmp_path,
        callbacks=[Look(), saver, batch_norm.PreciseNorms(3)],
        **{**QUIET, "enable_checkpointing": True},
    )
    trainer.fit(module, DataLoader(batches(), batch_size=None), DataLoader(batches(), batch_size=None))
    expected = measured(module.peers["rgb"], 3)[0][0]
    assert [word for word, *_ in seen] == ["validation"] * 3 + ["checkpoint"]
    for _, mean, training in seen:
        torch.testing.assert_close(mean, expected)
        assert not training
    assert module.peers["rgb"].training, "and training goes on as it was"


def test_precise_statistics_change_nothing_else(tmp_path: Path) -> None:
    """Weights learn from batch statistics, so they are the same to the bit; dropout's draws are too."""
    plain, precise = cohort(), cohort()
    fit(plain, tmp_path, epochs=2)
    fit(precise, tmp_path, batch_norm.PreciseNorms(2), epochs=2)
    for (name, a), (_, b) in zip(plain.named_parameters(), precise.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(plain.peers["rgb"].net.bn1.running_mean, precise.peers["rgb"].net.bn1.running_mean)


def test_frozen_peers_and_frozen_norms_stay(tmp_path: Path) -> None:
    module = cohort(frozen=("rgb_1",), freeze="partial")
    before = copy.deepcopy(module.state_dict())
    fit(module, tmp_path, batch_norm.PreciseNorms(2), batch_norm.GroupedNorms(NormSettings(group_size=2), CLIPS))
    assert not any(isinstance(layer, GroupBatchNorm) for layer in batch_norms(module.peers["rgb_1"]))
    for key, value in module.state_dict().items():
        statistics = key.rsplit(".", 1)[-1] in ("running_mean", "running_var")
        if key.startswith("peers.rgb_1.") or (statistics and not key.startswith("peers.rgb.net.bn1.")):
            assert torch.equal(value, before[key]), key
    assert not torch.equal(module.peers["rgb"].net.bn1.running_mean, before["peers.rgb.net.bn1.running_mean"])


@pytest.mark.parametrize("size", [2, 4])
def test_groups_within_a_rank(tmp_path: Path, size: int) -> None:
    module = cohort()
    names = list(module.state_dict())
    fit(module, tmp_path, batch_norm.GroupedNorms(NormSettings(group_size=size), CLIPS), epochs=1)
    layers = batch_norms(module.peers["rgb"])
    assert all(isinstance(layer, GroupBatchNorm) for layer in layers) is (size < CLIPS), "4 clips are the batch"
    assert list(module.state_dict()) == names
    plain = network(9)
    plain.load_state_dict(module.peers["rgb"].state_dict())


@pytest.mark.parametrize(
    "settings, batch, ranks, together",
    [
        (dict(), 16, 4, 1),
        (dict(sync=True), 16, 4, 4),
        (dict(group_size=8), 16, 1, 1),
        (dict(group_size=8), 16, 2, 1),
        (dict(group_size=8), 16, 4, 2),
        (dict(group_size=8), 16, 8, 4),
        (dict(group_size=16), 16, 8, 8),
    ],
)
def test_a_group_has_the_same_clips_on_any_number_of_ranks(settings, batch, ranks, together) -> None:
    chosen = NormSettings(**settings)
    assert chosen.ranks_per_group(batch, ranks) == together
    cpu, gpu = (SimpleNamespace(world_size=ranks, accelerator=a) for a in (None, CUDAAccelerator()))
    batch_norm.check(chosen, gpu, batch)  # type: ignore[arg-type]
    if together > 1:
        with pytest.raises(UserError, match="need CUDA devices; use one rank, or batch_norm"):
            batch_norm.check(chosen, cpu, batch)  # type: ignore[arg-type]
    else:
        batch_norm.check(chosen, cpu, batch)  # type: ignore[arg-type]


@pytest.mark.parametrize("group, batch, ranks", [(3, 16, 1), (32, 16, 1), (12, 16, 2), (24, 32, 4)])
def test_groups_that_do_not_fit_are_refused(group: int, batch: int, ranks: int) -> None:
    with pytest.raises(UserError, match=rf"group_size={group} does not divide data.batch_size={batch} on {ranks} rank"):
        NormSettings(group_size=group).ranks_per_group(batch, ranks)


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(freeze="frozen"), "freeze=frozen is unknown; use one of none, partial, stats, all"),
        (dict(sync="yes"), "sync=yes must be true or false"),
        (dict(group_size=0), "group_size=0 must be a whole number from 1"),
        (dict(precise=-1), "precise=-1 must be a whole number from 0"),
        (dict(precise=None), "precise=None must be"),
        (dict(precise=True), "precise=True must be"),
        (dict(sync=True, group_size=8), "set one of the two"),
        (dict(freeze="stats", precise=10), "freeze=stats keeps all statistics"),
        (dict(freeze="all", group_size=8), "freeze=all keeps all statistics"),
    ],
)
def test_settings_that_contradict_are_refused_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        NormSettings(**values)
    assert "\n" not in str(told.value)


def test_plain_norms_need_nothing() -> None:
    assert batch_norm.callbacks(NormSettings(), 16) == [] and NormSettings().describe() == ""
    assert [type(c) for c in batch_norm.callbacks(NormSettings(group_size=8, precise=3), 16)] == [
        batch_norm.GroupedNorms,
        batch_norm.PreciseNorms,
    ]
    told = NormSettings(freeze="partial", group_size=8, precise=200).describe()
    assert told == "partial BN, BN over 8 clips, precise BN (200 batches)"


def in_processes(do: Callable[[int, str, Any], None], count: int, folder: Path) -> list[Any]:
    """What `do` puts into its queue in each of `count` processes, in order of ranks."""
    context = multiprocessing.get_context("fork")
    told: Any = context.Queue()
    ranks = [context.Process(target=do, args=(rank, str(folder / "store"), told)) for rank in range(count)]
    for process in ranks:
        process.start()
    found = sorted(answers(told, ranks))
    for process in ranks:
        process.join()
    return found


def _rank(rank: int, store: str, told: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    layer, population = nn.BatchNorm2d(3).double(), Population()
    for part in parts()[rank::2]:
        population.add(part)
    batch_norm.gather([(layer, population)], 2)
    population.write(layer)
    told.put((rank, layer.running_mean.tolist(), layer.running_var.tolist()))
    torch.distributed.destroy_process_group()


def parts() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, 3, 2, 2, generator=generator, dtype=torch.float64) * n for n in (2, 5, 3)]


def test_ranks_hold_the_statistics_of_all_their_batches(tmp_path: Path) -> None:
    answers = in_processes(_rank, 2, tmp_path)
    values = torch.cat(parts()).transpose(0, 1).flatten(1)
    assert answers[0][1:] == answers[1][1:], "to the bit"
    torch.testing.assert_close(torch.tensor(answers[0][1], dtype=torch.float64), values.mean(1))
    torch.testing.assert_close(torch.tensor(answers[0][2], dtype=torch.float64), values.var(1))


def _group(rank: int, store: str, told: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=4)
    module = cohort(freeze="partial")
    names = list(module.state_dict())
    trainer: Any = SimpleNamespace(world_size=4, accelerator=CUDAAccelerator())
    batch_norm.GroupedNorms(NormSettings(group_size=4), 8).setup(trainer, module, "fit")
    layers = batch_norms(module.peers["rgb"])
    module.set_modes()
    assert all(isinstance(layer, nn.SyncBatchNorm) for layer in layers) and list(module.state_dict()) == names
    assert [layer.training for layer in layers] == [layer.weight.requires_grad for layer in layers]
    group: Any = layers[0].process_group
    told.put((rank, torch.distributed.get_process_group_ranks(group), sum(layer.training for layer in layers)))
    torch.distributed.destroy_process_group()


def test_groups_across_ranks_are_neighbouring_ranks(tmp_path: Path) -> None:
    """Two clips on each of four ranks, groups of four clips; the layers themselves are torch's and need CUDA to run."""
    assert in_processes(_group, 4, tmp_path) == [(0, [0, 1], 1), (1, [0, 1], 1), (2, [2, 3], 1), (3, [2, 3], 1)]


@pytest.mark.slow
def test_two_ranks_measure_what_one_does(
    train: Callable[..., Any], shell: Callable[..., Any], one_directory: Callable[..., Path], tmp_path: Path
) -> None:
    """The first norm sees the frames themselves, so its statistics over an epoch depend on nothing but the stem."""
    own = ("backbone=i3d_tiny", "backbone.net.dropout=0", "optimizer.lr=0", "schedule.epochs=1", "batch_norm.precise=9")
    train(*own, run="alone")
    done = shell("train", *own, "name=two", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    assert done.returncode == 0, done.stdout + done.stderr
    folders = tmp_path / "single/alone", one_directory(tmp_path / "single", "*_two")
    alone, two = (torch.load(folder / "peers/rgb.pt", weights_only=True)["state_dict"] for folder in folders)
    assert torch.equal(alone["net.conv1.weight"], two["net.conv1.weight"])
    for key in ("net.bn1.running_mean", "net.bn1.running_var"):
        torch.testing.assert_close(alone[key], two[key])
    assert alone["net.bn1.running_mean"].abs().max() > 0.01
