"""Silhouettes of the demo things: one disjoint set of named polygons per split.

Coordinates are integers in [-100, 100], x to the right and y down. No shape looks the same after a turn of less than
360 degrees, so an orientation is always visible.
"""

from __future__ import annotations

Polygon = tuple[tuple[int, int], ...]


def _mirrored(half: Polygon) -> Polygon:
    """Close a half outline (drawn from top to bottom on the right) with its mirror image on the left."""
    return half + tuple((-x, y) for x, y in reversed(half))


SHAPES: dict[str, dict[str, Polygon]] = {
    "train": {
        "an arrow": _mirrored(((0, -95), (70, -15), (28, -15), (28, 90))),
        "a house": _mirrored(((0, -90), (80, -20), (62, -20), (62, 80))),
        "a hammer": _mirrored(((75, -85), (75, -35), (20, -35), (20, 92))),
        "an L-square": ((-65, -90), (-15, -90), (-15, 40), (75, 40), (75, 90), (-65, 90)),
        "a flag": ((-60, -90), (80, -60), (80, 0), (-25, 5), (-25, 92), (-60, 92)),
        "a fish": ((-90, 0), (-40, -50), (25, -45), (55, -12), (95, -50), (95, 50), (55, 12), (25, 45), (-40, 50)),
        "a boomerang": _mirrored(((0, -60), (92, 45), (65, 75), (0, 5))),
        "a mug": ((-70, -75), (35, -75), (35, -50), (88, -45), (88, 25), (35, 30), (35, 80), (-70, 80)),
        "a bottle": _mirrored(((20, -95), (20, -40), (52, -5), (52, 92))),
        "a boat": ((-92, 25), (-10, 25), (-10, -90), (60, 10), (10, 10), (10, 25), (92, 25), (55, 80), (-60, 80)),
        "a tooth": _mirrored(((75, -70), (80, 0), (45, 90), (20, 20))),
        "a stair": ((-80, 80), (-80, -80), (-27, -80), (-27, -27), (27, -27), (27, 27), (80, 27), (80, 80)),
    },
    "validation": {
        "a kite": _mirrored(((0, -95), (62, -35), (0, 95))),
        "a cup": _mirrored(((75, -75), (40, 30), (18, 45), (55, 85))),
        "a key": (
            (-45, -90),
            (45, -90),
            (45, -20),
            (15, -20),
            (15, 30),
            (50, 30),
            (50, 55),
            (15, 55),
            (15, 92),
            (-15, 92),
            (-15, -20),
            (-45, -20),
        ),
        "a wedge": ((-85, 65), (85, 65), (85, -75), (40, -20)),
        "a tent": _mirrored(((0, -85), (92, 75), (30, 75), (0, 10))),
        "a hook": ((-20, -92), (20, -92), (20, 40), (-10, 85), (-75, 60), (-75, 5), (-40, 5), (-40, 40), (-20, 40)),
    },
    "test": {
        "a T-beam": _mirrored(((85, -80), (85, -30), (30, -30), (30, 30), (50, 85))),
        "a leaf": _mirrored(((0, -95), (50, -40), (62, 20), (14, 62), (14, 95))),
        "a crown": _mirrored(((0, -30), (40, -5), (85, -70), (65, 70))),
        "a lightning": ((10, -95), (60, -95), (25, -25), (70, -25), (-40, 95), (-5, 10), (-55, 10)),
        "a shoe": ((-60, -80), (0, -80), (5, 0), (90, 30), (90, 75), (-70, 75)),
        "a lamp": _mirrored(((35, -85), (80, 10), (16, 10), (16, 60), (45, 85))),
    },
}
