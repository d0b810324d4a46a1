"""Optical flow of a video, computed once from its decoded frames and cached.

Legend: T frames, P = T - 1 pairs, H height, W width. Pair i is (frame i, frame i + 1): equal index, equal time.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mml_lightning.data.decode import DecodeError, decoder_version, open_video
from mml_lightning.data.records import Record
from mml_lightning.errors import UserError

PRESETS = ("ultrafast", "fast", "medium")


def quantise(flow: np.ndarray, bound: float) -> np.ndarray:
    """Pixels of motion to uint8: clip to +-bound, then round((f + bound) * 255 / (2 * bound)), halves to even; 0 -> 128.

    Steps are 2 * bound / 255 (0.157 px at 20), so the largest error inside the bound is 0.078 px. The mirror of value v
    is 255 - v, exact up to that half step.
    """
    return np.rint((np.clip(flow, -bound, bound) + bound) * (255.0 / (2.0 * bound))).astype(np.uint8)


def dequantise(values: np.ndarray, bound: float) -> np.ndarray:
    """uint8 to pixels of motion, the centre of each step."""
    return values.astype(np.float32) * (2.0 * bound / 255.0) - bound


@dataclass(frozen=True)
class FlowSettings:
    """How flow is computed; every field and the library's version are part of the cache key.

    Args:
        algorithm: "dis" (Kroeger et al., ECCV 2016; OpenCV).
        preset: "ultrafast", "fast" or "medium".
        bound: pixels that map to 0 and 255 (TSN's convention is 20).
        decoder: which reader gives the frames.
    """

    algorithm: str = "dis"
    preset: str = "medium"
    bound: float = 20.0
    decoder: str = "decord"

    def __post_init__(self) -> None:
        if self.algorithm != "dis":
            raise UserError(f"flow.algorithm={self.algorithm!r} is unknown; use dis")
        if self.preset not in PRESETS:
            raise UserError(f"flow.preset={self.preset!r} is unknown; use one of {list(PRESETS)}")
        if self.bound <= 0:
            raise UserError(f"flow.bound={self.bound} must be positive pixels")

    def provenance(self) -> dict[str, str | float]:
        import cv2

        return {
            "algorithm": self.algorithm,
            "preset": self.preset,
            "bound": self.bound,
            "decoder": self.decoder,
            "decoder_version": decoder_version(self.decoder),
            "opencv": cv2.__version__,
            "layout": "uint8 [pairs, height, width, 2], x then y",
        }

    def key(self) -> str:
        text = json.dumps(self.provenance(), sort_keys=True)
        return f"{self.algorithm}-{self.preset}-b{self.bound:g}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def compute_flow(frames: np.ndarray, settings: FlowSettings) -> np.ndarray:
    """Quantised flow uint8 [P, H, W, 2] of RGB frames uint8 [T, H, W, 3]."""
    import cv2

    cv2.setNumThreads(1)  # parallelism is over videos; nested threads only contend
    engine = cv2.DISOpticalFlow_create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{settings.preset.upper()}"))
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    pairs = [engine.calc(a, b, None) for a, b in itertools.pairwise(grey)]
    return quantise(np.stack(pairs), settings.bound)


class FlowCache:
    """One `.npy` per video below `<root>/<settings key>/`, memory-mapped on reading so that only the drawn pairs are read."""

    def __init__(self, root: Path, settings: FlowSettings) -> None:
        self.settings = settings
        self.folder = Path(root) / settings.key()

    def path(self, record: Record) -> Path:
        """Where the flow of `record` lies: named by its id and by size and first 64 KiB of its file."""
        source = record.media["frames"]
        try:
            with source.open("rb") as handle:
                content = hashlib.sha256(f"{source.stat().st_size}".encode() + handle.read(65536)).hexdigest()[:12]
        except OSError as error:
            raise DecodeError(f"{source}: {error.strerror or error}") from None
        return self.folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', record.id)[-80:]}-{content}.npy"

    def make(self, record: Record) -> Path:
        """Compute the flow of `record` unless it is there.

        Raises:
            DecodeError: the video can't be read or has a single frame.
        """
        path = self.path(record)
        if path.exists():
            return path
        with open_video(record.media["frames"], self.settings.decoder) as video:
            if video.count < 2:
                raise DecodeError("it has one frame; flow needs two (drop it, or train without flow)")
            flow = compute_flow(video.frames(range(video.count)), self.settings)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as handle:
            np.save(handle, flow, allow_pickle=False)
        os.replace(temporary, path)
        return path

    def prepare(self, records: Sequence[Record], workers: int, advance: Callable[[], object]) -> list[tuple[str, str]]:
        """Fill the cache, `advance()` after each video; a second call continues. Returns (id, reason) of what failed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        described = self.folder / "settings.json"
        described.write_text(json.dumps(self.settings.provenance(), indent=1) + "\n")
        failed = []
        # threads: the decoder and OpenCV work outside the interpreter lock
        with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
            jobs = {pool.submit(self.make, record): record for record in records}
            for job in as_completed(jobs):
                error = job.exception()
                if isinstance(error, DecodeError):
                    failed.append((jobs[job].id, str(error)))
                elif error is not None:
                    raise error
                advance()
        return sorted(failed)

    def missing(self, records: Sequence[Record]) -> list[Record]:
        """Readable records whose flow is not cached yet."""
        return [r for r in records if r.media["frames"].exists() and not self.path(r).exists()]
