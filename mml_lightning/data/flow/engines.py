"""Engines of optical flow behind one interface: frames in, fields out.

Legend: T frames, P = T - 1 pairs, H height, W width. A field is float32 [H, W, 2], x then y in pixels, right and down
positive: what is at q in frame i is at q + field(q) in frame i + 1.

An engine is made of a name, a preset and parameters that replace single values of the preset. Its provenance is what
its results depend on: all parameters, the version of the library, and for our own solver a hash of its code.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from mml_lightning.data.flow.engine_names import ALGORITHMS, FARNEBACK, TVL1_OPENCV
from mml_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from mml_lightning.data.flow.micro_batch import MicroBatcher
    from mml_lightning.optical_flow import TVL1Settings

Parameters = Mapping[str, Any]
NONE: Parameters = MappingProxyType({})
CHUNK = 8  # frames handed to TV-L1 at once on a CPU: neighbours share their pyramids
CHUNK_GPU = 64
TOGETHER = ("cuda",)  # devices that solve the pairs of several videos at once
AT_ONCE = 32  # pairs, there

TVL1_OPENCV_NAMES = (
    *("Tau", "Lambda", "Theta", "Gamma", "ScalesNumber", "WarpingsNumber", "Epsilon", "InnerIterations"),
    *("OuterIterations", "ScaleStep", "MedianFiltering"),
)


@dataclass(frozen=True)
class Engine:
    """Frames to fields, and what these depend on. `fields` is None for `mv`, which reads the file instead."""

    fields: Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]] | None
    provenance: Mapping[str, Any]


def make_engine(algorithm: str, preset: str, parameters: Parameters = NONE, device: str = "cpu") -> Engine:
    """The engine `algorithm` at `preset`, single values replaced by `parameters`.

    Its fields take RGB frames uint8 [H, W, 3] and yield one field per pair; they raise ValueError where frames are too
    small or of different sizes.

    Raises:
        UserError: the algorithm, preset, a parameter or the device is unknown, or its library is missing.
    """
    if algorithm not in ALGORITHMS:
        raise UserError(f"flow.algorithm={algorithm!r} is unknown; use one of {list(ALGORITHMS)}")
    if preset not in ALGORITHMS[algorithm]:
        raise UserError(
            f"flow.preset={preset!r} is unknown to flow.algorithm={algorithm}; use one of {list(ALGORITHMS[algorithm])}"
        )
    if device != "cpu" and algorithm != "tvl1":
        raise UserError(f"flow.device={device}: flow.algorithm={algorithm} runs on the CPU only; use flow.device=cpu")
    if algorithm == "tvl1":
        return _own_tvl1(preset, parameters, device)
    makers = {"tvl1_opencv": _opencv_tvl1, "dis": _dis, "farneback": _farneback, "mv": _mv}
    return makers[algorithm](preset, parameters)


def _known(parameters: Parameters, names: Iterable[str], algorithm: str) -> None:
    unknown = sorted(set(parameters) - set(names))
    if unknown:
        raise UserError(f"flow.parameters: {algorithm} has no {unknown[0]!r}; it has {sorted(names)}")


def _opencv() -> Any:
    import cv2

    cv2.setNumThreads(1)  # parallelism is over videos; nested threads only contend
    return cv2


def _pairwise(
    algorithm: str, make: Callable[[], Callable[[np.ndarray, np.ndarray], np.ndarray]]
) -> Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]:
    """Fields of a function of OpenCV, made anew for each video: its objects are not for several threads."""

    def fields(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        cv2 = _opencv()
        calculate = make()
        grey = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames)
        try:
            for first, second in itertools.pairwise(grey):
                yield calculate(first, second)
        except cv2.error as error:
            raise ValueError(f"flow.algorithm={algorithm} failed: {' '.join(str(error).split())}") from None

    return fields


# ------------------------------------------------------------------------------------------------ the engines


def _own_tvl1(preset: str, parameters: Parameters, device: str) -> Engine:
    import torch

    from mml_lightning import optical_flow  # it imports torch, which the other engines do not need

    try:
        settings = replace(optical_flow.PRESETS[preset], **parameters)
    except TypeError:
        _known(parameters, asdict(optical_flow.PRESETS[preset]), "tvl1")
        raise
    except ValueError as error:
        raise UserError(f"flow.parameters: {error}") from None
    try:
        place = torch.device(device)
    except RuntimeError:
        raise UserError(f"flow.device={device!r} is unknown; use cpu or cuda") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"flow.device={device}: PyTorch sees no GPU here; use flow.device=cpu")

    def fields(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        cv2 = _opencv()
        grey = (torch.from_numpy(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))[None] for frame in frames)
        solve = (
            together(settings)
            if place.type in TOGETHER
            else functools.partial(optical_flow.tvl1_clip, settings=settings)
        )
        held = list(itertools.islice(grey, 1))
        while more := list(itertools.islice(grey, CHUNK if place.type == "cpu" else CHUNK_GPU)):
            held = [*held[-1:], *more]
            try:
                clip = torch.stack(held).to(place)
            except RuntimeError:
                raise ValueError("flow.algorithm=tvl1 failed: frames differ in size") from None
            yield from solve(clip).permute(0, 2, 3, 1).cpu().numpy()

    provenance = {"parameters": asdict(settings), "torch": torch.__version__, "device": place.type, "code": tvl1_code()}
    return Engine(fields, {**provenance, "opencv": _opencv().__version__})


@functools.cache
def together(settings: TVL1Settings) -> MicroBatcher:
    """:func:`motion.tvl1_clip` for the threads of this process: their pairs are solved in common batches."""
    import torch

    from mml_lightning import optical_flow
    from mml_lightning.data.flow.micro_batch import MicroBatcher

    def solve(clips: Sequence[Tensor]) -> list[Tensor]:
        first, second = torch.cat([clip[:-1] for clip in clips]), torch.cat([clip[1:] for clip in clips])
        batches = zip(first.split(AT_ONCE), second.split(AT_ONCE), strict=True)
        flow = torch.cat([optical_flow.tvl1_pairs(*batch, settings) for batch in batches])
        return list(flow.split([len(clip) - 1 for clip in clips]))

    return MicroBatcher(solve)


def tvl1_code() -> str:
    """Hash of the files that make our TV-L1."""
    from mml_lightning import optical_flow

    folder = Path(optical_flow.__file__).parent
    content = b"".join((folder / name).read_bytes() for name in ("tvl1.py", "warping.py"))
    content = content.replace(b"mml_lightning.optical_flow", b"mml_lightning.motion")  # its name in older caches
    return hashlib.sha256(content).hexdigest()[:16]


def _opencv_tvl1(preset: str, parameters: Parameters) -> Engine:
    cv2 = _opencv()
    if not hasattr(cv2, "optflow"):
        raise UserError(
            "flow.algorithm=tvl1_opencv needs OpenCV with contrib: pip install opencv-contrib-python-headless "
            "in place of any other opencv package, or use flow=tvl1"
        )
    _known(parameters, TVL1_OPENCV_NAMES, "tvl1_opencv")
    chosen = {**TVL1_OPENCV[preset], **parameters}

    def make() -> Any:
        engine = cv2.optflow.DualTVL1OpticalFlow_create()
        for name, value in chosen.items():
            getattr(engine, f"set{name}")(value)
        return lambda first, second: engine.calc(first, second, None)

    try:
        make()
    except (TypeError, cv2.error) as error:
        raise UserError(f"flow.parameters: OpenCV rejects some of {dict(chosen)}: {str(error).split()[-1]}") from None
    return Engine(_pairwise("tvl1_opencv", make), {**_given(chosen), "opencv": cv2.__version__})


def _dis(preset: str, parameters: Parameters) -> Engine:
    _known(parameters, (), "dis")
    cv2 = _opencv()

    def make() -> Any:
        engine = cv2.DISOpticalFlow.create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{preset.upper()}"))
        return lambda first, second: engine.calc(first, second, None)

    return Engine(_pairwise("dis", make), {"opencv": cv2.__version__})


def _farneback(preset: str, parameters: Parameters) -> Engine:
    cv2 = _opencv()
    _known(parameters, FARNEBACK[preset], "farneback")
    chosen = {**FARNEBACK[preset], **parameters}

    def make() -> Any:
        return lambda first, second: cv2.calcOpticalFlowFarneback(first, second, None, flags=0, **chosen)

    return Engine(_pairwise("farneback", make), {**_given(chosen), "opencv": cv2.__version__})


def _mv(preset: str, parameters: Parameters) -> Engine:
    import av

    _known(parameters, (), "mv")
    libavcodec = ".".join(map(str, av.library_versions["libavcodec"]))
    return Engine(None, {"av": av.__version__, "libavcodec": libavcodec})


def _given(chosen: Parameters) -> dict[str, Any]:
    return {"parameters": dict(chosen)} if chosen else {}
