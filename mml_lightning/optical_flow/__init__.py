"""Motion between images: TV-L1 optical flow, and synthetic pairs whose motion is known.

Legend of the folder: P pairs, T frames, H height, W width. Flow is (x, y) in pixels, right and down positive: what is
at q in the first image is at q + flow(q) in the second.
"""

from mml_lightning.optical_flow.synthetic import MOTIONS, Motion, Pair, synthetic_pair
from mml_lightning.optical_flow.tvl1 import PRESETS, TVL1Settings, tvl1_clip, tvl1_pairs

__all__ = ["MOTIONS", "PRESETS", "Motion", "Pair", "TVL1Settings", "synthetic_pair", "tvl1_clip", "tvl1_pairs"]
