"""A pack against its source: every image again, compared byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import numpy as np

from mml_lightning.data.packs.encode import Encoded
from mml_lightning.data.packs.packing import Packer
from mml_lightning.data.records.pack_index import Item, read_dataset
from mml_lightning.data.video.decode import DecodeError
from mml_lightning.data.video.media import Media, PackedFrames
from mml_lightning.data.video.pack_reader import PackReader
from mml_lightning.data.video.sound import packed_sound

LEVELS = 1.0  # mean difference of two encodings of one image, in levels of 0..255, that another library may make


@dataclass(frozen=True)
class Verdict:
    """What a verification has found: images compared, those not equal byte by byte, (id, reason) of what is wrong."""

    images: int
    different: int
    wrong: list[tuple[str, str]]


def verify(packer: Packer, begin: Callable[[int], Callable[[], object]]) -> Verdict:
    """Read and encode every video of the source again and compare it with the finished pack.

    Another version of the image library may encode differently: images that are not equal byte by byte are right while
    their pixels are within :data:`LEVELS`.

    Raises:
        UserError: the pack is not finished, or can't be read.
    """
    packed = _media_of(packer)
    advance = begin(len(packer.items))
    images, different, wrong = 0, 0, []
    pool = ThreadPoolExecutor(max_workers=packer.wish.workers)
    try:
        jobs = {pool.submit(_compare, packer, item, packed[item.number]): item for item in packer.items}
        for job in as_completed(jobs):
            seen = job.result()
            images, different = images + seen.images, different + seen.different
            wrong += seen.wrong
            advance()
    finally:
        pool.shutdown(cancel_futures=True)
    return Verdict(images, different, sorted(wrong))


def _media_of(packer: Packer) -> dict[int, Mapping[str, Media]]:
    """item -> its packed sources."""
    records = {
        (split, record.id): record.media
        for split, rows in read_dataset("pack", packer.folder).splits.items()
        for record in rows
    }
    return {plain["item"]: records[plain["split"], plain["id"]] for plain in packer.records}


def _compare(packer: Packer, item: Item, packed: Mapping[str, Media]) -> Verdict:
    fresh, identity = packer.encoded(item), item.record.id
    if set(fresh) != set(packed):
        return Verdict(0, 0, [(identity, f"the pack has {sorted(packed)}, the source {sorted(fresh)}")])
    images, different, wrong = 0, 0, []
    for source, media in packed.items():
        assert isinstance(media, PackedFrames)
        now = fresh[source]
        if isinstance(now, str) or media.problem:
            if not (isinstance(now, str) and media.problem):
                told = now if isinstance(now, str) else "it was unreadable when packed, and is readable now"
                wrong.append((identity, f"{source}: {told}"))
            continue
        images += len(now.images)
        try:
            unequal, reason = _unequal(now, media)
        except DecodeError as error:
            unequal, reason = 0, str(error)
        different += unequal
        if reason:
            wrong.append((identity, f"{source}: {reason}"))
    return Verdict(images, different, wrong)


def _unequal(now: Encoded, media: PackedFrames) -> tuple[int, str]:
    """How many images are not equal byte by byte, and what is wrong beyond that."""
    if (len(now.images), now.size, now.fps) != (media.count, media.size, media.fps):
        return 0, f"{media.count} images of {_times(media.size)}, its source {len(now.images)} of {_times(now.size)}"
    reader, unequal, far = PackReader(media), 0, []
    then = None if media.times is None else reader.times
    if not np.array_equal(() if then is None else then, () if now.times is None else now.times):
        return 0, "its timestamps differ from the source"
    if media.source == "audio":
        equal = packed_sound(media) == now.images[0] and media.start == now.start
        return int(not equal), "" if equal else "it differs from the source"
    for index, content in _all(reader):
        if content == now.images[index]:
            continue
        unequal += 1
        one, other = (reader.decoded(index, image).astype(np.int16) for image in (content, now.images[index]))
        if np.abs(one - other).mean() > LEVELS:
            far.append(index)
    return unequal, f"{len(far)} images differ from the source, first {far[0]} (from 0)" if far else ""


def _all(reader: PackReader) -> Iterator[tuple[int, bytes]]:
    return reader.encoded(range(reader.count))


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
