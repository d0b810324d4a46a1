"""The cohort: joint training equals separate training to the bit; modes, clipping, metrics, exactly-once scores."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from mml_lightning.backbones import freeze_batch_norm, tsm_resnet
from mml_lightning.data.flow.cache import FlowCache, FlowSettings
from mml_lightning.data.loading.dataset import ClipDataset, collate
from mml_lightning.data.loading.draws import RandomCrop, TrainTemporalSampler
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.records.records import Head, Record
from mml_lightning.modalities import Modality
from mml_lightning.objectives import Objective
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.optimiser_plan import OptimiserPlan
from mml_lightning.transforms import TrainGeometry
from tests.data.videos import moving, write_video

CLASSES, SIZE, FRAMES = 3, 16, 4
RGB = Modality("rgb", "frames", 1, 3, [0.45], [0.225])
FLOW = Modality("flow", "flow", 5, 2, [0.5], [0.226], flip="mirror_negate_x")
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "precision": "64-true",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
MUTUAL = [{"students": "all", "teachers": "others"}]


def network(modality: Modality, seed: int, dropout: float = 0.5) -> torch.nn.Module:
    torch.manual_seed(seed)
    net = tsm_resnet("tiny", width=8, dropout=dropout, in_channels=modality.channels, num_classes={"label": CLASSES})
    for head in net.heads.values():
        torch.nn.init.normal_(head.weight, 0.0, 0.5)  # so that peers disagree from the first step
    return net.double()


def batches(count: int = 3, size: int = 4) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(7)
    make = functools.partial(torch.randint, generator=generator)
    return [
        {
            "clips": {
                m.name: make(0, 256, (size, 1, FRAMES, m.window * m.item_channels, SIZE, SIZE), dtype=torch.uint8)
                for m in (RGB, FLOW)
            },
            "present": {m.name: torch.ones(size, dtype=torch.bool) for m in (RGB, FLOW)},
            "target": {"label": make(0, CLASSES, (size,))},
            "index": torch.arange(size) + i * size,
            "id": [f"v{i}_{j}" for j in range(size)],
            "failures": [],
        }
        for i in range(count)
    ]


def make_cohort(peers: dict[str, Modality], edges: Any = (), clip: float | None = 0.05, **options: Any) -> Cohort:
    plan = OptimiserPlan(
        optimizer=functools.partial(torch.optim.SGD, momentum=0.9),
        groups="tsn",
        lr=0.05,
        weight_decay=5e-4,
        factor=lambda epoch: 0.5**epoch,
        epochs=2,
        clip_norm=clip,
        fresh_heads=frozenset(peers),
    )
    dropout = options.pop("dropout", 0.5)
    nets = options.pop("nets", None) or {
        name: network(m, seed, dropout) for seed, (name, m) in enumerate(peers.items(), 5)
    }
    ids = [name for batch in batches() for name in batch["id"]]
    graph = {key: options.pop(key) for key in ("frozen", "labels") if key in options}
    return Cohort(
        nets,
        peers,
        Objective(list(peers), edges, fused="fusion" in options, **graph),
        plan,
        {"val": ids, "test": ids},
        {"label": False},
        **options,
    )


def train(cohort: Cohort, tmp_path: Any, validate: bool = False, data: Any = None) -> pl.Trainer:
    trainer = pl.Trainer(max_epochs=2, default_root_dir=tmp_path, **QUIET)
    loader = DataLoader(data or batches(), batch_size=None)
    trainer.fit(cohort, loader, DataLoader(batches(), batch_size=None) if validate else None)
    return trainer


def assert_same_weights(a: torch.nn.Module, b: torch.nn.Module) -> None:
    for (name, left), (_, right) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert torch.equal(left, right), name


def separate_processes(
    peers: dict[str, Modality], mutual: bool, epochs: int = 2, clip: float = 0.05, data: Any = None
) -> dict[str, torch.nn.Module]:
    """What separate processes do: a network, an optimiser and a clip each; only logits travel between them.

    Args:
        data: batches of each peer; by default the usual ones.
    """
    data = data or dict.fromkeys(peers, batches())
    whole = make_cohort(peers, MUTUAL if mutual else ())
    nets, plan = dict(whole.peers.items()), whole.plan
    optimisers = {name: plan.optimizer(plan.parameter_groups(name, net)) for name, net in nets.items()}
    for epoch in range(epochs):
        for step, given in enumerate(zip(*data.values(), strict=True)):
            own = dict(zip(data, given, strict=True))
            logits = {}
            for name, net in nets.items():
                seed_like_cohort(name, epoch, step)
                clip_ = own[name]["clips"][peers[name].name].flatten(0, 1)
                logits[name] = net(peers[name](clip_).double()).logits["label"]
            for name in nets:
                loss = torch.nn.functional.cross_entropy(
                    logits[name], own[name]["target"]["label"], reduction="none"
                ).mean()
                if mutual:
                    others = torch.stack([z.detach() for other, z in logits.items() if other != name]).mean(dim=0)
                    log_p, log_q = others.log_softmax(-1), logits[name].log_softmax(-1)
                    divergence = torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True)
                    loss = loss + divergence.sum(-1).mean()
                optimisers[name].zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(nets[name].parameters(), clip)
                for group, base in zip(
                    optimisers[name].param_groups, plan.parameter_groups(name, nets[name]), strict=True
                ):
                    group["lr"] = base["lr"] * plan.factor(epoch)
                optimisers[name].step()
    return nets


def seed_like_cohort(peer: str, epoch: int, step: int) -> None:
    import hashlib

    digest = hashlib.blake2b(f"0|{epoch}|{step}|0|{peer}".encode(), digest_size=7).digest()
    torch.manual_seed(int.from_bytes(digest, "little"))


@pytest.mark.parametrize(
    "peers", [{"rgb": RGB, "flow": FLOW}, {"rgb": RGB, "rgb_1": RGB, "flow": FLOW}], ids=["two", "three"]
)
@pytest.mark.parametrize("mutual", [False, True], ids=["ce", "mutual"])
def test_joint_training_equals_separate_processes_to_the_bit(peers, mutual, tmp_path):
    cohort = make_cohort(peers, MUTUAL if mutual else ())
    norms = watch_clipping(cohort)
    train(cohort, tmp_path)
    assert min(norms) > 0.05, "clipping must be active in every step, or this test shows nothing about it"
    separate = separate_processes(peers, mutual)
    for name, net in cohort.peers.items():
        assert_same_weights(net, separate[name])


def drawn(modalities: list[Modality], mode: Any, folder: Path) -> list[dict[str, Any]]:
    """Batches of real videos, as a loader of a run on `modalities` makes them."""
    records = [Record(f"v{n}", {"frames": folder / f"v{n}.mp4"}, {"label": n % CLASSES}) for n in range(8)]
    data = ClipDataset(
        records,
        modalities,
        {"label": Head(tuple("abc"))},
        SourceOpener("decord", FlowCache(folder / "flow", FlowSettings(preset="ultrafast"))),
        TrainTemporalSampler(FRAMES, mode, 12, "fixed", 3),
        RandomCrop(TrainGeometry(SIZE, (1.0, 0.75), 0.5)),
        seed=0,
        replace=True,
        mirrored={"label": {0: 1, 1: 0}},
    )
    return [collate([data[0, n] for n in step], data.kinds) for step in (range(4), range(4, 8), (0, 2, 5, 7))]


@pytest.mark.parametrize("mode", ["uniform", "dense", "random", "strided"])
def test_joint_steps_are_separate_steps_under_every_sampling(mode, tmp_path):
    """Networks that each draw their own clips, alone, and teach each other: the joint run, to the last bit."""
    for n in range(8):
        write_video(tmp_path / f"v{n}.mp4", moving(18 + n, 1 + n % 3, 1 + n // 3))
    difference = Modality("rgbdiff", "frames", 6, 3, [0.5], [0.225], prepare="difference")
    peers = {"rgb": RGB, "flow": FLOW, "rgbdiff": difference}
    cohort = make_cohort(peers, MUTUAL)
    norms = watch_clipping(cohort)
    train(cohort, tmp_path, data=drawn(list(peers.values()), mode, tmp_path))
    assert min(norms) > 0.05
    alone = {name: drawn([modality], mode, tmp_path) for name, modality in peers.items()}
    separate = separate_processes(peers, mutual=True, data=alone)
    for name, net in cohort.peers.items():
        assert_same_weights(net, separate[name])


def watch_clipping(cohort: Cohort) -> list[float]:
    norms: list[float] = []
    clip = cohort.configure_gradient_clipping

    def watched(*args: Any, **kwargs: Any) -> None:
        norms.extend(
            float(torch.nn.utils.get_total_norm([p.grad for p in peer.parameters() if p.grad is not None]))
            for peer in cohort.peers.values()
        )
        clip(*args, **kwargs)

    cohort.configure_gradient_clipping = watched  # type: ignore[method-assign]
    return norms


def test_a_peer_trained_beside_others_equals_the_peer_alone(tmp_path):
    """Without edges nothing reaches a peer from the others, dropout included."""
    alone = make_cohort({"rgb": RGB})
    together = make_cohort({"rgb": RGB, "flow": FLOW})
    train(alone, tmp_path)
    train(together, tmp_path)
    assert_same_weights(alone.peers["rgb"], together.peers["rgb"])


def test_clipping_is_per_peer_and_not_by_the_joint_norm(tmp_path):
    cohort = make_cohort({"rgb": RGB, "flow": FLOW}, clip=1.0)
    for name, scale in (("rgb", 100.0), ("flow", 0.01)):
        for parameter in cohort.peers[name].parameters():
            parameter.grad = torch.full_like(parameter, scale)
    before = {n: p.grad.clone() for n, p in cohort.peers["flow"].named_parameters()}
    flow_norm = torch.nn.utils.get_total_norm(list(before.values()))
    cohort.configure_gradient_clipping(torch.optim.SGD(cohort.parameters(), lr=0.1))
    rgb_norm = torch.nn.utils.get_total_norm([p.grad for p in cohort.peers["rgb"].parameters()])
    assert rgb_norm == pytest.approx(1.0, rel=1e-4)
    expected = min(1.0, 1.0 / float(flow_norm))
    for n, p in cohort.peers["flow"].named_parameters():
        torch.testing.assert_close(p.grad, before[n] * expected, rtol=1e-4, atol=0)


def test_partial_bn_holds_while_lightning_trains(tmp_path):
    cohort = make_cohort({"rgb": RGB}, freeze_bn="partial")
    norms = [m for m in cohort.peers["rgb"].modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [(m.running_mean.clone(), m.weight.clone()) for m in norms]
    # validation runs in between: Lightning restores modes after it, and must not wake the frozen ones
    train(cohort, tmp_path, validate=True)
    assert not torch.equal(norms[0].running_mean, before[0][0]), "the first one follows the data"
    for module, (mean, weight) in zip(norms[1:], before[1:], strict=True):
        assert torch.equal(module.running_mean, mean) and torch.equal(module.weight, weight)


def test_frozen_peers_teach_without_changing(tmp_path):
    nets = {"rgb": network(RGB, 1), "flow": network(FLOW, 2)}
    before = {k: v.clone() for k, v in nets["flow"].state_dict().items()}
    cohort = make_cohort(
        {"rgb": RGB, "flow": FLOW}, [{"students": ["rgb"], "teachers": ["flow"]}], nets=nets, frozen=["flow"]
    )
    trainer = train(cohort, tmp_path)
    assert all(torch.equal(v, before[k]) for k, v in nets["flow"].state_dict().items())
    assert not any(group["name"].startswith("flow") for group in trainer.optimizers[0].param_groups)
    assert "train/rgb/kl" in trainer.callback_metrics and "train/flow/ce" not in trainer.callback_metrics


def test_metric_keys_and_schedule(tmp_path):
    cohort = make_cohort({"rgb": RGB, "flow": FLOW}, MUTUAL)
    trainer = train(cohort, tmp_path, validate=True)
    for key in ("train/rgb/ce", "train/flow/kl", "val/rgb/top1", "val/flow/mean_class", "val/ensemble/top1"):
        assert key in trainer.callback_metrics, key
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05 * 0.25)  # after two epochs of halving
    names = [group["name"] for group in trainer.optimizers[0].param_groups]
    assert len(set(names)) == len(names) and {n.split("/")[0] for n in names} == {"rgb", "flow"}


def test_repeated_videos_count_once_and_unreadable_ones_are_named(tmp_path):
    cohort = make_cohort({"rgb": RGB})
    twice = batches() + batches(1)
    empty = {"index": torch.empty(0, dtype=torch.int64), "id": [], "failures": [("gone", "truncated")]}
    trainer = pl.Trainer(default_root_dir=tmp_path, **QUIET)
    trainer.test(cohort, DataLoader([*twice, empty], batch_size=None), verbose=False)
    scores = cohort.scores["label"]
    assert len(scores.dump().ids) == 12 and scores.failures == {"gone": "truncated"}
    trainer.test(cohort, DataLoader(batches(), batch_size=None), verbose=False)
    assert len(cohort.scores["label"].dump().ids) == 12
    assert scores.compute() == cohort.scores["label"].compute()


def test_views_are_scored_one_by_one(tmp_path):
    """Logits of a video with three views are those of its views alone, in order."""
    cohort = make_cohort({"rgb": RGB}).double().eval()
    single = batches(1)[0]
    clip = single["clips"]["rgb"]
    several = single | {
        "clips": {
            "rgb": torch.cat([clip, clip.flip(2), clip.flip(-1)], dim=1),
            "flow": single["clips"]["flow"].repeat(1, 3, 1, 1, 1, 1),
        }
    }
    cohort._start("test")
    with torch.no_grad():
        cohort.test_step(several, 0)
        dump = cohort.scores["label"].dump()
        assert dump is not None
        logits = dump.logits["rgb"]
        assert logits.shape == (4, 3, CLASSES)
        for view, one in enumerate((clip, clip.flip(2), clip.flip(-1))):
            expected = cohort({"rgb": one.flatten(0, 1)})["rgb"].logits["label"].float()
            torch.testing.assert_close(logits[:, view], expected)


def test_views_in_parts_equal_views_at_once():
    torch.manual_seed(3)
    nets = {"rgb": network(RGB, 5), "flow": network(FLOW, 6)}
    batch = batches(1)[0]
    batch["clips"] = {name: clip.repeat(1, 3, 1, 1, 1, 1) for name, clip in batch["clips"].items()}
    batch["clips"]["rgb"][:, 1:] = batch["clips"]["rgb"][:, 1:].flip(-1)
    seen: list[int] = []
    logits = []
    for max_views in (None, 5, 1):  # 12 views: parts of 5, 5 and 2 run across videos
        cohort = make_cohort({"rgb": RGB, "flow": FLOW}, nets=nets, max_views=max_views).double().eval()
        hook = nets["rgb"].register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        cohort._start("test")
        with torch.no_grad():
            cohort.test_step(batch, 0)
        hook.remove()
        logits.append(cohort.scores["label"].dump().logits)
    assert seen == [12, 5, 5, 2, *[1] * 12]
    for other in logits[1:]:
        for name in ("rgb", "flow"):
            torch.testing.assert_close(other[name], logits[0][name])


class Asked(TorchDispatchMode):
    """Counts what makes the host wait for a device: values that are read from tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.values += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_reads_nothing_from_the_device(tmp_path):
    cohort = make_cohort({"rgb": RGB, "flow": FLOW}, MUTUAL)
    step, clip, asked = cohort.training_step, cohort.configure_gradient_clipping, Asked()

    def watched(call: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            with asked:
                return call(*args, **kwargs)

        return run

    cohort.training_step, cohort.configure_gradient_clipping = watched(step), watched(clip)
    trainer = pl.Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET)
    trainer.fit(cohort, DataLoader([batch | {"complete": True} for batch in batches()], batch_size=None))
    assert trainer.global_step == 3 and asked.values == 0
    with asked:
        bool(torch.ones(1).all())
    assert asked.values == 1


def test_modes_are_those_of_training_after_construction():
    cohort = make_cohort({"rgb": RGB, "flow": FLOW}, freeze_bn="partial", frozen=["flow"])
    assert not cohort.peers["flow"].training and cohort.peers["rgb"].training
    frozen = [m for m in cohort.peers["rgb"].modules() if isinstance(m, torch.nn.BatchNorm2d) and not m.training]
    assert len(frozen) == freeze_batch_norm(cohort.peers["rgb"])
