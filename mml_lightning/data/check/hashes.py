"""Perceptual hashes of frames, and the search for near-identical videos with them.

Legend: N videos, k sampled frames of each, P candidate pairs.

The hash is the difference hash: the frame in grey, averaged down to 8 rows of 9, each bit tells whether a cell is
brighter than its left neighbour. It survives encoding, scaling and changes of brightness, not cropping or mirroring.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

BITS, BANDS = 64, 4
NEAR = 3.0  # mean bits per frame in which near-identical videos differ; a pair this near shares a band of some frame
FLAT = 2.0  # levels of standard deviation below which a frame (black, a plain wall) has no pattern to know it by
CROWD = 200  # members of a band's bucket above which it tells nothing apart and is passed over
MOST_PAIRS = 100_000_000  # candidates compared, about; more are not looked for
NONE = "-"


def difference_hash(frame: np.ndarray) -> str:
    """16 hexadecimal digits of one RGB frame uint8 [H, W, 3]; "-" of a frame without pattern."""
    import cv2

    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    cells = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    if cells.std() < FLAT:
        return NONE
    bits = np.packbits(cells[:, 1:] > cells[:, :-1])
    return bits.tobytes().hex()


def hash_frames(frames: Sequence[np.ndarray]) -> str:
    """Hashes of several frames, separated by spaces."""
    return " ".join(difference_hash(frame) for frame in frames)


def near_pairs(hashes: Sequence[str], groups: Sequence[int]) -> tuple[list[tuple[int, int, float]], bool]:
    """Pairs of videos of different groups whose frames differ by at most :data:`NEAR` bits on average.

    Videos meet only in buckets of equal 16-bit bands of equally placed frames, so that the work grows with the number
    of videos, not with its square. Frames without pattern don't count; a pair needs two with one (one if k is 1).

    Args:
        hashes: one text of :func:`hash_frames` per video, all of equal length k; "" for none.
        groups: number of the split of each video.

    Returns:
        (index, index, mean bits of difference) from the nearest on; and whether all candidates were compared.
    """
    k = max((len(text.split()) for text in hashes), default=0)
    if k == 0:
        return [], True
    parsed = [text.split() if len(text.split()) == k else [NONE] * k for text in hashes]
    valid = np.array([[word != NONE for word in words] for words in parsed])  # [N, k]
    values = np.array([[int(word, 16) if word != NONE else 0 for word in words] for words in parsed], dtype=np.uint64)
    splits = np.asarray(groups)
    near: dict[tuple[int, int], float] = {}
    compared = 0
    for pairs in _candidates(values, valid, splits):
        if compared >= MOST_PAIRS:
            return _sorted(near), False
        compared += len(pairs)
        for start in range(0, len(pairs), 100_000):
            near |= _compare(pairs[start : start + 100_000], values, valid)
    return _sorted(near), True


def _sorted(near: Mapping[tuple[int, int], float]) -> list[tuple[int, int, float]]:
    return sorted(((a, b, bits) for (a, b), bits in near.items()), key=lambda pair: (pair[2], pair[:2]))


def _candidates(values: np.ndarray, valid: np.ndarray, groups: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs [P, 2] of videos of different groups that share a band, smaller index first; a pair may come again."""
    width = BITS // BANDS
    for place in range(values.shape[1]):
        rows = np.flatnonzero(valid[:, place])
        for band in range(BANDS):
            keys = (values[rows, place] >> np.uint64(width * band)) & np.uint64(2**width - 1)
            order = np.argsort(keys, kind="stable")
            keys, members = keys[order], rows[order]
            _, number, size = np.unique(keys, return_inverse=True, return_counts=True)
            useful = size[number] <= CROWD
            for step in range(1, CROWD):  # members of a bucket stand together: each with the one `step` further on
                same = (keys[step:] == keys[:-step]) & useful[step:]
                if not same.any():
                    break
                one, other = members[:-step][same], members[step:][same]
                apart = groups[one] != groups[other]
                yield np.sort(np.stack([one[apart], other[apart]], axis=1), axis=1)


def _compare(pairs: np.ndarray, values: np.ndarray, valid: np.ndarray) -> dict[tuple[int, int], float]:
    """Mean bits of difference of those `pairs` [P, 2] that are near."""
    shared = valid[pairs[:, 0]] & valid[pairs[:, 1]]  # [P, k]
    apart = _differing_bits(values[pairs[:, 0]], values[pairs[:, 1]])
    count = shared.sum(axis=1)
    mean = (apart * shared).sum(axis=1) / np.maximum(count, 1)
    near = (mean <= NEAR) & (count >= min(2, valid.shape[1]))
    return {(int(a), int(b)): round(float(bits), 2) for (a, b), bits in zip(pairs[near], mean[near], strict=True)}


def _differing_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[P, k] uint64 twice -> [P, k]: bits in which they differ."""
    octets = np.ascontiguousarray(a ^ b).view(np.uint8).reshape(*a.shape, 8)
    return np.unpackbits(octets, axis=-1).sum(axis=-1)
