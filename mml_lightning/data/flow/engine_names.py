"""Names of the engines of optical flow and of their presets, told without importing any of them."""

from __future__ import annotations

from mml_lightning.utils.errors import UserError

# OpenCV's DualTVL1OpticalFlow: the names of its setters. `half` is coarser between levels: faster, and right on motions
# that its default loses.
TVL1_OPENCV: dict[str, dict[str, float]] = {"default": {}, "half": {"ScaleStep": 0.5}}
# OpenCV's calcOpticalFlowFarneback; it has no defaults of its own, these are those of its example programs.
FARNEBACK = {"default": {"pyr_scale": 0.5, "levels": 5, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2}}
# Names of presets per algorithm, the default first.
ALGORITHMS: dict[str, tuple[str, ...]] = {
    "tvl1": ("paper", "accurate", "fast"),
    "tvl1_opencv": tuple(TVL1_OPENCV),
    "dis": ("medium", "ultrafast", "fast"),
    "farneback": tuple(FARNEBACK),
    "mv": ("default",),
}

ENCODERS = {"mv-h264": "libx264", "mv-mpeg4": "mpeg4"}  # of the files whose motion vectors are measured
ENGINES = (
    *(f"{name}-{preset}" for name, presets in ALGORITHMS.items() if name != "mv" for preset in presets),
    *ENCODERS,
    "still",
)
"""What can be measured: "algorithm-preset", "mv-<codec>", or that nothing moves."""


def check_engine(name: str) -> None:
    """An algorithm alone is at its first preset.

    Raises:
        UserError: `name` is no engine that can be measured.
    """
    if name == "mv":
        raise UserError(f"mv is measured on files of an encoder; use {' or '.join(ENCODERS)}")
    if name not in ENGINES and name not in ALGORITHMS:
        raise UserError(f"--engines {name} is unknown; use one of {list(ENGINES)}")
