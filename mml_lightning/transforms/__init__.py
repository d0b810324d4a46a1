"""Crops, resizing and mirroring of decoded clips.

Shapes: T frames, C channels, H and W pixels. A clip is uint8 [T, C, H, W] on the CPU. Sizes are (width, height).

A :class:`Crop` says what is cut out of a frame. One is made per sample (training) or per view (test) and applied to all
modalities of that sample; a modality stored at another resolution takes the same part of the picture.
:class:`TrainGeometry`, :class:`JitterGeometry` and :class:`TestGeometry` are what a config names.
"""

from mml_lightning.transforms.boxes import (
    Box,
    Crop,
    Policy,
    Size,
    apply,
    apply_views,
    bounding_box,
    invert_x,
    reduced_size,
    reduction,
    scaled_size,
)
from mml_lightning.transforms.testing import Rule, TestGeometry, test_crops
from mml_lightning.transforms.training import (
    JitterGeometry,
    TrainGeometry,
    draw_multi_scale_crop,
    multi_scale_sizes,
    offset_grid,
)

__all__ = [
    "Box",
    "Crop",
    "JitterGeometry",
    "Policy",
    "Rule",
    "Size",
    "TestGeometry",
    "TrainGeometry",
    "apply",
    "apply_views",
    "bounding_box",
    "draw_multi_scale_crop",
    "invert_x",
    "multi_scale_sizes",
    "offset_grid",
    "reduced_size",
    "reduction",
    "scaled_size",
    "test_crops",
]
