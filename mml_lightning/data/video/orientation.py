"""How a picture is shown: one of the eight ways of a display matrix to mirror it and to turn it by quarters.

Legend: H height, W width. A matrix is a, b, u, c, d, v, x, y, w as files store it: the stored point (p, q), right and
down, is shown at (a p + c q, b p + d q).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

ODD = 0.05  # of the larger entries: what the others may be before the matrix is neither a mirror nor a quarter turn


@dataclass(frozen=True)
class Orientation:
    """What is done to stored pictures: rows and columns change places, then they are mirrored, x and y apart."""

    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @property
    def code(self) -> int:
        """0 to 7; 0 is the picture as stored."""
        return self.swap + 2 * self.mirror_x + 4 * self.mirror_y

    @classmethod
    def of_code(cls, code: int) -> Orientation:
        """Raises:
        ValueError: it is none of the eight.
        """
        if not 0 <= code < 8:
            raise ValueError(f"orientation {code} must be 0 to 7")
        return cls(bool(code & 1), bool(code & 2), bool(code & 4))

    @property
    def turned(self) -> bool:
        """A turn without a mirror, or nothing at all."""
        return not (self.swap ^ self.mirror_x ^ self.mirror_y)

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(W, H) as shown of a stored (W, H)."""
        return (size[1], size[0]) if self.swap else size

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """A view of stored pixels [H, W, c] as they are shown."""
        shown = pixels.swapaxes(0, 1) if self.swap else pixels
        return shown[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]

    def apply_to_motion(self, field: np.ndarray) -> np.ndarray:
        """Vectors [H, W, 2], x then y, at the places and in the directions where the picture shows them."""
        shown = self.apply(field)[..., ::-1] if self.swap else self.apply(field)
        signs = np.array([-1 if self.mirror_x else 1, -1 if self.mirror_y else 1], dtype=field.dtype)
        return np.ascontiguousarray(shown * signs)


STORED = Orientation()


def orientation_of(frame: Any) -> Orientation:
    """That of a frame of PyAV, by the whole matrix that came with it.

    Raises:
        ValueError: as :func:`read_matrix`.
    """
    stored = frame.side_data.get("DISPLAYMATRIX")
    return STORED if stored is None else read_matrix(np.frombuffer(bytes(stored), dtype=np.int32).reshape(3, 3))


def read_matrix(matrix: np.ndarray) -> Orientation:
    """The orientation that a display matrix [3, 3] asks for; scale and place don't matter, zeros ask for nothing.

    Raises:
        ValueError: it turns by something else than quarters.
    """
    (a, b), (c, d) = matrix[:2, :2].astype(float).tolist()
    straight, crossed = min(abs(a), abs(d)), min(abs(b), abs(c))
    if not np.any(matrix[:2, :2]):
        return STORED
    if straight and max(abs(b), abs(c)) <= ODD * straight:
        return Orientation(False, a < 0, d < 0)
    if crossed and max(abs(a), abs(d)) <= ODD * crossed:
        return Orientation(True, c < 0, b < 0)
    angle = float(np.degrees(np.arctan2(b, a)))
    raise ValueError(
        f"its display matrix rotates the picture by {angle:.0f} degrees, not by quarters; encode it upright"
    )
