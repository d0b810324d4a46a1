"""Seeds that depend on nothing but their key: what one draws does not depend on who draws before."""

from __future__ import annotations

import hashlib


def keyed_seed(*key: object, size: int) -> int:
    """A whole number of `size` bytes from the texts of a key, the same on every machine."""
    return int.from_bytes(hashlib.blake2b("|".join(map(str, key)).encode(), digest_size=size).digest(), "little")
