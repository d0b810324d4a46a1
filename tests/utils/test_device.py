"""What a device can do: measured, and the instructions of its processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mml_lightning.utils import device as utils_device
from mml_lightning.utils.device import arithmetic_peak, gain, instructions, precision_type

CPU = torch.device("cpu")
HELD = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}  # libraries do without later instructions
ASK = """
import torch
from mml_lightning.utils.device import gain, instructions
torch.set_num_threads(1)
print(instructions())
print(*(gain(torch.device("cpu"), torch.bfloat16, dimensions) for dimensions in (2, 3)))
"""


def test_peak_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    before, factors = torch.get_rng_state(), []
    multiply = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *pair: factors.append(pair) or multiply(*pair))
    assert arithmetic_peak(CPU) > 1e8
    assert torch.equal(torch.get_rng_state(), before), "the random numbers of the run have moved"
    assert all(factor.unique().numel() > 1e5 for factor in factors[0]), "constant numbers take less power"


def test_types_of_the_precisions() -> None:
    names = ("32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "64-true")
    kinds = (torch.float32, torch.bfloat16, torch.bfloat16, torch.float16, torch.float16, torch.float64)
    assert tuple(map(precision_type, names)) == kinds
    assert precision_type("16-mixed", CPU) == torch.bfloat16, "what Lightning makes of it there"
    assert precision_type("16-true", CPU) == torch.float16


def test_a_gain_is_measured_once_and_moves_no_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    before, seconds, asked = torch.get_rng_state(), {torch.float32: 6.0, torch.bfloat16: 2.0}, []
    utils_device._gain.cache_clear()
    assert gain(CPU, torch.float32) == pytest.approx(1, abs=0.9)
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(
        utils_device, "_convolution", lambda device, kind, dims: asked.append((kind, dims)) or seconds[kind]
    )
    assert gain(CPU, torch.bfloat16, 3) == gain(CPU, torch.bfloat16, 3) == 3.0
    assert asked == [(torch.float32, 3), (torch.bfloat16, 3)]
    utils_device._gain.cache_clear()


def test_a_measurement_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, done = iter(range(100)), []
    monkeypatch.setattr(utils_device, "now", lambda device: next(clock))
    assert utils_device._best(CPU, lambda: done.append(0)) == 1 and len(done) == 2, "each took longer than ENOUGH"


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="nothing to be held to")
def test_a_processor_without_the_instructions_is_known_by_its_speed() -> None:
    environment = {**os.environ, **HELD, "OMP_NUM_THREADS": "1"}
    told = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True)
    names, gains = told.stdout.splitlines()
    assert names.startswith("AVX2, ") and names.endswith("ATEN_CPU_CAPABILITY=avx2, ONEDNN_MAX_CPU_ISA=AVX2")
    assert all(float(number) < 0.5 for number in gains.split()), told.stdout


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("model name : X\nflags\t\t: fpu avx2 fma\n", "AVX2, none for bfloat16"),
        ("flags : avx512f avx512_bf16 amx_bf16 amx_fp16\nflags : other\n", "AVX2, avx512_bf16, amx_bf16, amx_fp16"),
        ("Features : asimd asimdhp bf16\n", "AVX2, bf16, asimdhp"),
        ("Features : asimd asimdhp\n", "AVX2, asimdhp, none for bfloat16"),
        ("processor : 0\n", "AVX2"),  # nothing is known
    ],
)
def test_instructions_by_the_flags_of_the_processor(
    lines: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(lines)
    monkeypatch.setattr(utils_device, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    for name in utils_device.LIMITS:
        monkeypatch.delenv(name, raising=False)
    assert instructions() == told
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert instructions() == f"{told}, ONEDNN_MAX_CPU_ISA=AVX2"
    (tmp_path / "cpuinfo").unlink()
    assert instructions() == "AVX2, ONEDNN_MAX_CPU_ISA=AVX2"
