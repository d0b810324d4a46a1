"""What a device can do: how fast it multiplies in a precision, which instructions its processor has for that, its
clock, its memory.

All of it is measured where it is asked for. A processor that lacks the instructions of a precision emulates it, many
times slower than float32, and neither its name nor torch's switches tell that for sure: libraries can be held to older
instructions, and some "support" a precision by converting it.
"""

from __future__ import annotations

import functools
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mml_lightning.utils.threads import cores

CPUINFO = Path("/proc/cpuinfo")
SIDES = {"cpu": 512, "cuda": 8192}  # of the matrices that tell what a device can do
MAPS = {"cpu": 8, "cuda": 512}  # images of the convolution that does
FEW = {"cpu": 2, "cuda": 64}  # of the convolution that compares two precisions
ENOUGH = 0.2  # seconds of a measurement, but that two times are measured whatever they take
HALVES = {  # flags of /proc/cpuinfo: instructions for half precisions
    "avx512_bf16": "bfloat16",
    "amx_bf16": "bfloat16",
    "bf16": "bfloat16",
    "avx512_fp16": "float16",
    "amx_fp16": "float16",
    "asimdhp": "float16",
}
LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # by which libraries leave some out


def arithmetic_peak(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Operations per second that `device` reaches: the faster of a large matrix product and a 3x3 convolution, the best
    of several each (on CPUs their libraries differ). Of random numbers: a GPU clocks higher on constant ones. Its
    memory is as before, but that the most that was allocated is forgotten."""
    try:
        return _arithmetic_peak(device, dtype)
    finally:
        _give_back(device)


def _arithmetic_peak(device: torch.device, dtype: torch.dtype) -> float:
    side = SIDES.get(device.type, SIDES["cpu"])
    random = _random_numbers(device, dtype)
    left, right = random(side, side), random(side, side)
    images = MAPS.get(device.type, MAPS["cpu"])  # few would leave most of a GPU idle
    maps = random(images, 128, 28, 28).to(memory_format=torch.channels_last)
    filters = random(128, 128, 3, 3).to(memory_format=torch.channels_last)
    product = 2 * side**3 / _best(device, lambda: torch.mm(left, right))
    return max(product, 2 * 9 * 128 * maps.numel() / _best(device, lambda: torch.conv2d(maps, filters, padding=1)))


def gain(device: torch.device, dtype: torch.dtype, dimensions: int = 2) -> float:
    """How many times as fast as in float32 `device` computes a convolution and its gradients in `dtype`: below 1 where
    it emulates. Takes half a second, where it emulates a second; asked again, none.

    Args:
        dimensions: 2, filters of 3x3 in channels_last; 3, of 3x3x3.
    """
    return _gain(device, dtype, dimensions, torch.get_num_threads())


@functools.cache
def _gain(device: torch.device, dtype: torch.dtype, dimensions: int, threads: int) -> float:
    try:
        plain, other = (_convolution(device, kind, dimensions) for kind in (torch.float32, dtype))
        return plain / other
    finally:
        _give_back(device)


def _convolution(device: torch.device, dtype: torch.dtype, dimensions: int) -> float:
    """Seconds of a convolution of 64 channels with both gradients."""
    random, images = _random_numbers(device, dtype), FEW.get(device.type, FEW["cpu"])
    if dimensions == 3:
        maps, filters = random(images, 64, 4, 28, 28), random(64, 64, 3, 3, 3)
    else:
        maps, filters = (
            x.to(memory_format=torch.channels_last) for x in (random(4 * images, 64, 28, 28), random(64, 64, 3, 3))
        )
    convolve = torch.conv3d if dimensions == 3 else torch.conv2d
    given = (maps.requires_grad_(), filters.requires_grad_())

    def work() -> object:
        with torch.enable_grad():
            out = convolve(*given, padding=1)
        return torch.autograd.grad(out, given, torch.ones_like(out))

    return _best(device, work)


def _random_numbers(device: torch.device, dtype: torch.dtype) -> Callable[..., Tensor]:
    own = torch.Generator(device).manual_seed(0)  # the random numbers of the run stay as they are
    return lambda *shape: torch.randn(shape, generator=own, device=device).to(dtype)


def _best(device: torch.device, work: Callable[[], object], times: int = 6) -> float:
    """Seconds; the first time warms up. After the second, no more are begun when :data:`ENOUGH` have passed."""
    found: list[float] = []
    while len(found) < 2 or (len(found) < times and sum(found) < ENOUGH):
        start = now(device)
        work()
        found.append(now(device) - start)
    return min(found)


def _give_back(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def now(device: torch.device) -> float:
    """Seconds: on the wall, with the queue of a GPU empty; of this process where it computes on one thread, so that its
    neighbours don't count."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def precision_type(precision: str, device: torch.device | None = None) -> torch.dtype:
    """What a trainer's precision computes convolutions in. On a CPU Lightning makes bf16-mixed of 16-mixed."""
    if precision.startswith("bf16") or (device is not None and device.type == "cpu" and precision == "16-mixed"):
        return torch.bfloat16
    return {"16": torch.float16, "64": torch.float64}.get(precision[:2], torch.float32)


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that was allocated on a GPU so far, or that this process held of the host's memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_name(device: torch.device) -> str:
    """Of a GPU its product name, else the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor() or device.type


def processor() -> str:
    """Its name; "" where the system tells none."""
    return next(iter(_told_by_processor("model name")), "" if CPUINFO.exists() else platform.processor())


def instructions() -> str:
    """The vector instructions that torch uses on this processor, which it has for half precisions, and what holds its
    libraries to fewer: `AVX512, avx512_bf16`, `AVX2, none for bfloat16`, `AVX2, ONEDNN_MAX_CPU_ISA=AVX2`."""
    flags = set(" ".join([*_told_by_processor("flags"), *_told_by_processor("Features")]).split())
    halves = [flag for flag in HALVES if flag in flags]
    if not any(HALVES[flag] == "bfloat16" for flag in halves) and flags:
        halves.append("none for bfloat16")
    held = [f"{name}={os.environ[name]}" for name in LIMITS if os.environ.get(name)]
    return ", ".join([torch.backends.cpu.get_cpu_capability(), *halves, *held])


def _told_by_processor(key: str) -> list[str]:
    """The values of a key of /proc/cpuinfo for the first core that has one; none where there is no such file."""
    try:
        with CPUINFO.open(encoding="utf-8") as lines:
            return [next(line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key)]
    except (OSError, StopIteration):
        return []


GROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory"))
GROUP_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def free_memory() -> int | None:
    """Bytes that this process and its children may still take: of the machine and of its control group; None where the
    system does not tell."""
    try:
        told = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    free = next((int(line.split()[1]) * 1024 for line in told.splitlines() if line.startswith("MemAvailable")), None)
    for group in GROUPS:
        for limit, used in GROUP_FILES:
            try:
                left = int((group / limit).read_text()) - int((group / used).read_text())
            except (OSError, ValueError):  # no such group, or "max"
                continue
            free = left if free is None else min(free, left)
    return free


def free_shared_memory(path: str = "/dev/shm") -> int | None:
    """Bytes free where batches travel from the workers to the run; None where there is no such place."""
    try:
        told = os.statvfs(path)
    except OSError:
        return None
    return told.f_bavail * told.f_frsize


def machine() -> dict[str, Any]:
    """What kind of machine this is."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "system": platform.platform(),
        "processor": processor(),
        "cores": cores(),
        "gpus": gpus,
    }


def uses_gpu(accelerator: str) -> bool:
    """Whether this `trainer.accelerator` leads to a CUDA device here."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
