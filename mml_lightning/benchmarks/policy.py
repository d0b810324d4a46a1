"""How much time skipping peers saves: all peers in all segments, against a policy and the chosen ones alone."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mml_lightning.backbones.recognizer import tsm_mobilenet_v2, tsm_resnet
from mml_lightning.benchmarks import timing
from mml_lightning.benchmarks.tables import BenchTable
from mml_lightning.benchmarks.timing import alternate
from mml_lightning.fusion.fuse import Fusion
from mml_lightning.fusion.gates import Look
from mml_lightning.fusion.policy import Policy
from mml_lightning.modalities import Modality
from mml_lightning.training.measuring import MeasuredPeers

FRAMES = 8
TOLERANCE = 1e-6


def networks(depth: int, policy_size: int) -> MeasuredPeers:
    """AdaMML's networks with random weights: RGB and sound, and a policy of both."""
    torch.manual_seed(0)
    classes = {"label": 31}
    peers = {
        "rgb": tsm_resnet(depth, shift=False, temporal_pool=3, num_classes=classes),
        "audio": tsm_mobilenet_v2(shift=False, in_channels=1, num_classes=classes),
    }
    looked_at = {
        "rgb": Modality("rgb", "frames", 1, 3, [0.5], [0.25]),
        "audio": Modality("audio", "audio", 1, 1, prepare="log_stft"),
    }
    policy = Policy({m: m for m in peers}, {"rgb": 3, "audio": 1}, {"rgb": True, "audio": False}, size=policy_size)
    widths = {name: int(peer.net.feature_dim) for name, peer in peers.items()}  # type: ignore[arg-type]
    made = MeasuredPeers(peers, looked_at, {}, {}, fusion=Fusion("weighted", widths, classes), gate=policy)
    return made.eval()


def gates(rates: Mapping[str, float], videos: int, segments: int) -> dict[str, Tensor]:
    """{peer: [B, V]}: as many segments open as the rates say, drawn at random."""
    made, draw = {}, torch.Generator().manual_seed(0)
    for name, rate in rates.items():
        opened = torch.zeros(videos * segments)
        opened[torch.randperm(videos * segments, generator=draw)[: round(rate * videos * segments)]] = 1.0
        made[name] = opened.view(videos, segments)
    return made


def measure(
    rates: Mapping[str, float], videos: int, segments: int, size: int, depth: int, policy_size: int, rounds: int
) -> BenchTable:
    """Videos per second of the three ways, and how far masked and skipped scores are apart.

    Raises:
        RuntimeError: they are further apart than rounding.
    """
    model, draw = networks(depth, policy_size), torch.Generator().manual_seed(1)
    clips = {
        "rgb": torch.randint(0, 256, (videos, segments, FRAMES, 3, size, size), dtype=torch.uint8, generator=draw),
        "audio": torch.randint(-3000, 3000, (videos, segments, 1, 30_720), dtype=torch.int16, generator=draw),
    }
    gate, opened = gates(rates, videos, segments), gates(dict.fromkeys(rates, 1.0), videos, segments)
    present = {name: torch.ones(videos, dtype=torch.bool) for name in rates}

    def fused(chosen: Mapping[str, Tensor], computed: Mapping[str, Tensor]) -> Tensor:
        assert model.fusion is not None
        logits = {name: output.logits for name, output in model.chosen(clips, computed).items()}
        return model.fusion(logits, chosen)["label"]

    def skipped() -> Tensor:
        prepared = {name: modality(clips[name]) for name, modality in model.modalities.items()}
        assert model.gate is not None
        model.gate(Look(prepared, present, [str(n) for n in range(videos)], segments, None))  # rates are the given ones
        return fused(gate, gate)

    with torch.inference_mode():
        apart = float((fused(gate, opened) - skipped()).abs().max())
        if apart > TOLERANCE:
            raise RuntimeError(f"masked and skipped scores differ by {apart:.2g}")
        ways = {
            "all peers": lambda: fused(opened, opened),
            "policy and chosen peers": skipped,
            "chosen peers alone": lambda: fused(gate, gate),
        }
        told = ", ".join(f"{name} {rate:.0%}" for name, rate in rates.items())
        sentence = f"{videos} videos x {segments} segments, {size} px, ResNet-{depth} and MobileNetV2, used: {told}; "
        sentence += f"masked and skipped scores differ by at most {apart:.1g}"
        *_, timings = alternate({way: functools.partial(_seconds, run) for way, run in ways.items()}, rounds)
    return BenchTable(timing.rates(timings, videos, "videos"), sentence)


def _seconds(run: Callable[[], Tensor]) -> float:
    """Processor time of one run: what others do on the machine does not count."""
    begun = time.process_time()
    run()
    return time.process_time() - begun
