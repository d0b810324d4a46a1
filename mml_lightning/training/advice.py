"""What limits a run or a bench, and the switch that would move it, in a sentence.

Nothing is advised that was not measured on this machine in these settings: where a number is unknown, the sentence that
needs it is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WAITING = 0.15  # a larger share of time spent waiting for data can be told from accidents
SMALL = 0.05  # share of the arithmetic: below it a device does little but begin and end operations
WORTH = 1.2  # times as fast: what is less is not advised
CROWDED = 0.25  # share of the cores that other processes had: with more, times tell about them
MEASURE = "mml bench data measures what a pack would gain"
NETWORKS = "the networks are the bottleneck: lower transforms.output or sampling.num_segments, or use a faster device"
FLOAT32, BFLOAT16 = "trainer.precision=32-true", "trainer.precision=bf16-mixed"


@dataclass(frozen=True)
class Seen:
    """What was measured; None is unknown.

    Args:
        data_wait: share of the training time spent waiting for data; steady: that of batches other than the first of an
            epoch, for which workers have not read ahead.
        workers: of the loader, per rank; room: how many more, per rank, the cores leave without anything to do.
        cheap: whether the data are a pack or decoded in memory, so that packing them gains nothing.
        mfu: share of the device's arithmetic in `precision`; gain: how many times as fast as in float32 its
            convolutions are in the half precision (:func:`mml_lightning.utils.device.gain`).
        others: share of the cores that other processes had meanwhile.
    """

    data_wait: float = 0.0
    steady: float | None = None
    workers: int = 0
    room: int | None = None
    cheap: bool = False
    precision: str = "32-true"
    mfu: float | None = None
    gain: float | None = None
    others: float = 0.0


def of_speed(speed: Mapping[str, Any], cheap: bool) -> Seen:
    """What :meth:`Throughput.summary` tells; of runs of earlier versions less is known."""
    known = {key: speed.get(key) for key in ("steady", "room", "mfu", "gain")}
    others = speed.get("others") or 0.0
    return Seen(
        speed["data_wait"], workers=speed["workers"], cheap=cheap, others=others, precision=speed["precision"], **known
    )


def describe(speed: Mapping[str, Any], cheap: bool = False) -> str:
    """One line: the numbers of :meth:`Throughput.summary`, what limits the run and the switch
    that would move it.

    Args:
        cheap: see :class:`Seen`.
    """
    share = "" if speed["mfu"] is None else f", MFU {speed['mfu']:.0%}"
    numbers = f"{speed['clips_per_s']:g} clips/s{share}, {speed['data_wait']:.0%} of the time waiting for data"
    return "; ".join(filter(None, (numbers, remark(of_speed(speed, cheap)))))


def bottleneck(seen: Seen) -> str:
    """One sentence on what limits the speed, if it is only the networks."""
    return remark(seen) or NETWORKS


def remark(seen: Seen) -> str:
    """One sentence where there is a bottleneck that a switch would widen, or numbers are not to be trusted; else ""."""
    if told := emulated(seen.precision, seen.gain):
        return told
    if seen.others > CROWDED:
        return (
            f"other processes used {seen.others:.0%} of the cores, so the times are unreliable: "
            "measure again on an idle machine"
        )
    if told := waiting(seen):
        return told
    if seen.mfu is not None and seen.mfu < SMALL:
        return "kernels are too small for this device: raise data.batch_size"
    if seen.precision.startswith("32") and (times := halved(seen)) >= WORTH:
        return (
            f"float32 compute is the bottleneck: {BFLOAT16}, whose convolutions are {seen.gain:.1f} times as "
            f"fast on this device, would make a step {times:.1f} times as fast or more"
        )
    return ""


def halved(seen: Seen) -> float:
    """How many times as fast a step becomes if its arithmetic alone gains by the half precision: Amdahl's law, with the
    share that the arithmetic has of the time in which the networks are computed. 1 where that is not known. What small
    or depthwise convolutions lose by conversions lies below :data:`WORTH` (docs/benchmarks.md)."""
    if seen.mfu is None or seen.gain is None:
        return 1.0
    share = min(1.0, seen.mfu / max(0.01, 1 - seen.data_wait))
    return 1 / (1 - share + share / seen.gain)


def emulated(precision: str, gain: float | None) -> str:
    """Words if a half precision is slower here than float32, to 10 %; "" if it is not, or that is unknown."""
    if gain is None or gain > 0.9 or not precision.startswith(("bf16", "16")):
        return ""
    return (
        f"trainer.precision={precision} is slow on this device, convolutions take {1 / gain:.2g} times as long as "
        f"in float32: {FLOAT32}"
    )


def waiting(seen: Seen) -> str:
    """Words if training waits long for data, with the workers that would keep up where cores are left for them; "" if
    it does not wait long."""
    wait, now = _waited(seen), seen.workers
    if wait <= WAITING:  # workers keep up, whatever the first batch of a short epoch takes
        return ""
    reads = f"data loading takes {wait:.0%} of the time, not overlapped with training"
    head = "data loading is the bottleneck" if now or wait > 0.5 else reads
    pack = "" if seen.cheap else f"; {MEASURE}"
    if seen.room is None:
        return f"{head}{pack}"
    most = more_workers(seen)
    if most is None:
        return f"{head}, and no CPU core is left for {'more ' if now else ''}workers{pack}"
    if most < _needed(seen):
        return f"{head}: data.workers={most} (now {now}), all free cores; {_needed(seen)} would keep up{pack}"
    return f"{head}: data.workers={most} would keep up (now {now}){pack}"


def more_workers(seen: Seen) -> int | None:
    """As many as would keep up, or as the cores leave; None where training does not wait long, or no core is left."""
    if _waited(seen) <= WAITING or not seen.room:
        return None
    most = min(_needed(seen), seen.workers + seen.room)
    return most if most > seen.workers else None


def _waited(seen: Seen) -> float:
    """Share of the time that more workers could take away."""
    if not seen.workers or seen.steady is None:
        return seen.data_wait
    return min(seen.steady, seen.data_wait)


def _needed(seen: Seen) -> int:
    """Workers that keep up. With w the share of waiting, n of them keep up with steps that take 1 / (1 - w) times as
    long, so n / (1 - w) are needed; where the run reads by itself, w / (1 - w)."""
    wait = _waited(seen)
    return math.ceil((seen.workers or wait) / max(0.01, 1 - wait) - 1e-9)
