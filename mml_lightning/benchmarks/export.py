"""Time and size of one network: as torch computes it, and in the formats of `mml export`.

Legend: T steps, C channels of a step, H W pixels.
"""

from __future__ import annotations

import functools
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from mml_lightning.benchmarks.tables import BenchTable, Row
from mml_lightning.benchmarks.timing import CPU, Timing, alternate, unfinished
from mml_lightning.benchmarks.training_step import Compose, networks, random_clips, run_words
from mml_lightning.config import data, training
from mml_lightning.engine.portable import int8
from mml_lightning.engine.portable import network as portable
from mml_lightning.utils.device import now
from mml_lightning.utils.errors import UserError

WAYS = ("eager", "torch", "onnx", "int8")
CALIBRATION = 4  # clips: of noise, for the speed of 8 bits


def compare(
    compose: Compose,
    overrides: Sequence[str],
    ways: Sequence[str] | None = None,
    rounds: int = 7,
    advance: Callable[[str], object] = lambda way: None,
) -> Iterator[BenchTable]:
    """One clip through the only network of a config, in each of `ways`; before the last table, the times so far.

    Raises:
        UserError: a way is unknown, there are several networks, the network can't be exported, or a package is missing.
    """
    chosen = list(ways or WAYS)
    if unknown := [way for way in chosen if way not in WAYS]:
        raise UserError(f"--ways {unknown[0]} is unknown: use some of {','.join(WAYS)}")
    cfg = compose(run_words(overrides, Path("nowhere"), CPU))
    modalities = data.modalities(cfg)
    if len(modalities) > 1:
        raise UserError(f"mml bench export takes one network, not {', '.join(modalities)}: modality=[rgb]")
    ((name, modality),) = modalities.items()
    peers = networks(cfg, modalities)
    training.execution_settings(cfg).apply(peers)
    peer = peers[name].eval()
    (drawn,) = random_clips(cfg, 1 + CALIBRATION, 1, torch.Generator().manual_seed(0)).values()
    clip, *others = (one.numpy() for one in drawn)  # each uint8 [1, T, C, H, W]

    def eager(clips: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [one.numpy() for one in peer(modality(torch.from_numpy(clips))).logits.values()]

    with tempfile.TemporaryDirectory() as folder:
        exported = Exported(Path(folder), portable.PortableNetwork(peer, modality), clip.shape[1:], others)
        runs = {way: eager if way == "eager" else exported.run(way) for way in chosen}
        timed = {way: functools.partial(_seconds, run, clip) for way, run in runs.items()}
        for timings in alternate(timed, rounds, advance):
            rows = [_row(way, one) for way, one in timings.items() if one.warm is not None]
            yield unfinished(rows, timings, rounds)
        expected = eager(clip)[0]
        for row in rows:
            row["file_mb"] = exported.bytes(row["way"]) / 1e6
            if row["way"] not in ("eager", "int8"):
                difference = np.abs(runs[row["way"]](clip)[0] - expected).max()
                row["logit_share"] = float(difference / np.abs(expected).max())
    yield BenchTable(rows, _sentence(rows))


class Exported:
    """A network as files of a folder.

    Args:
        shape: of a clip, [T, C, H, W]. clips: what 8 bits are calibrated on, each uint8 [1, T, C, H, W].
    """

    def __init__(
        self, folder: Path, network: portable.PortableNetwork, shape: tuple[int, ...], clips: Sequence[np.ndarray]
    ) -> None:
        self.folder, self.network, self.shape, self.clips = folder, network, shape, clips

    def run(self, way: str) -> portable.Run:
        """The network as `way` runs it, written first.

        Raises:
            UserError: it can't be exported, or a package is missing.
        """
        portable.require("torch" if way == "torch" else "onnx")
        if way == "int8":
            int8.convert(self._written("onnx"), self.folder / int8.FILE, self.clips)
            return portable.onnx_session(self.folder / int8.FILE)
        return portable.load(way, self._written(way), self.network)

    def bytes(self, way: str) -> int:
        """Of its file; of `eager`, of the weights."""
        if way == "eager":
            buffer = io.BytesIO()
            torch.save(self.network.peer.state_dict(), buffer)
            return len(buffer.getvalue())
        path = self.folder / (int8.FILE if way == "int8" else portable.FILES[way])
        return path.stat().st_size

    def _written(self, form: str) -> Path:
        path = self.folder / portable.FILES[form]
        return path if path.exists() else portable.write(self.network, form, self.folder, self.shape, {})


def _seconds(run: portable.Run, clip: np.ndarray) -> float:
    start = now(CPU)
    run(clip)
    return now(CPU) - start


def _row(way: str, timing: Timing) -> Row:
    return {"way": way, "clip_ms": 1000 * timing.best, "spread": timing.spread}


def _sentence(rows: Sequence[Row]) -> str:
    first, best = rows[0], min(rows, key=lambda row: row["clip_ms"])
    if best is first:
        return f"{first['way']} is the fastest here: {first['clip_ms']:.1f} ms a clip"
    return f"{best['way']} takes {best['clip_ms'] / first['clip_ms']:.0%} of the time of {first['way']}"
