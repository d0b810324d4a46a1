"""A dataset to a pack: every video once, several shards at a time, continued where it was interrupted."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mml_lightning import __version__
from mml_lightning.data.flow.cache import FlowCache
from mml_lightning.data.loading.images import OpenImages
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.packs.encode import Coding, Encoded, encode
from mml_lightning.data.packs.shard import ShardWriter
from mml_lightning.data.packs.sound import encoded_sound
from mml_lightning.data.records.clock import is_constant
from mml_lightning.data.records.decoder import frames_reader, opencv_version
from mml_lightning.data.records.pack_index import (
    Item,
    failures,
    items_of,
    lists,
    plain_heads,
    read_manifest,
    write_manifest,
    write_records,
)
from mml_lightning.data.records.records import Dataset, Record
from mml_lightning.data.video.decode import DecodeError, NoSource, steadily
from mml_lightning.data.video.media import media_identity
from mml_lightning.data.video.pack_format import LAYOUTS, RECORDS, VERSION, folder_name
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import Busy, file_hash, locked, remove_leftovers

PASSING = ".flow"  # begins names of folders of flow that is not kept
PROBED = 4  # videos that are encoded to tell how large the pack will be
FEWEST = 16  # videos in a shard, unless there are fewer, however many shards are asked for


@dataclass(frozen=True)
class Wish:
    """What is asked for.

    Args:
        sources: "frames", "flow", "audio".
        shards: how many; 0: as many as `shard_mb` asks for, and no fewer than `workers`.
        shard_mb: megabytes (10^6 bytes) of a shard, about.
        workers: shards that are written at a time.
        keep_flow: leave the flow that is computed on the way in the cache, which takes some 25 times as much room.
        origin: words that name the source, for the manifest.

    Raises:
        UserError: a number is out of range.
    """

    sources: Sequence[str]
    coding: Coding
    shards: int = 0
    shard_mb: int = 1000
    workers: int = 1
    origin: Sequence[str] = ()
    keep_flow: bool = False

    def __post_init__(self) -> None:
        for name, least in (("shards", 0), ("shard_mb", 1), ("workers", 1)):
            if getattr(self, name) < least:
                flag = "shard-size" if name == "shard_mb" else name
                raise UserError(f"--{flag} {getattr(self, name)} must be {least} or more")


@dataclass(frozen=True)
class Packed:
    """What a packing has done: the manifest, and bytes of interrupted videos that were dropped on the way."""

    manifest: Mapping[str, Any]
    dropped: int = 0


class Packer:
    """Packs `dataset` into `folder`.

    Args:
        opener: how its sources are opened; its flow cache gives the flow of videos that bring none.
    """

    def __init__(self, dataset: Dataset, opener: SourceOpener, folder: Path, wish: Wish) -> None:
        self.dataset, self.opener, self.folder, self.wish = dataset, opener, folder, wish
        self.items, self.records = items_of(dataset)

    def run(self, begin: Callable[[int], Callable[[], object]]) -> Packed:
        """Make the pack, or what is missing of it.

        Args:
            begin: called with the number of videos that are left; returns what is called after each.

        Raises:
            UserError: the folder can't be written, holds another pack, or is being packed by another process.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder):
                remove_leftovers(self.folder)
                for left in self.folder.glob(f"{PASSING}*"):  # of a killed process
                    shutil.rmtree(left)
                return self._run(begin)
        except Busy:
            raise UserError(f"{self.folder} is being packed by another process; wait for it, or stop it") from None
        except OSError as error:
            place = error.filename or self.folder
            raise UserError(f"can't write {place} ({error.strerror or error}); choose another --out") from None

    def _run(self, begin: Callable[[int], Callable[[], object]]) -> Packed:
        manifest = self._manifest()
        if manifest["complete"]:
            begin(0)
            return Packed(manifest)
        chunks = shares(len(self.items), manifest["shards"])
        left = [set(chunk) for chunk in chunks]
        dropped = 0
        for number, numbers in enumerate(left):
            with ShardWriter(self.folder, number) as shard:
                numbers -= set(shard.done)
                dropped += shard.dropped
        advance = begin(sum(map(len, left)))
        lines = self._write(chunks, advance)
        manifest = {
            **manifest,
            "complete": True,
            "failed": failures(lines, self.items),
            "bytes": sum(path.stat().st_size for path in self.folder.glob("shard-*.zip")),
            "sha256": {file: file_hash(self.folder / file) for file in lists(len(chunks))},
        }
        write_manifest(self.folder, manifest)
        return Packed(manifest, dropped)

    def _write(self, chunks: Sequence[range], advance: Callable[[], object]) -> list[dict[str, Any]]:
        """The shards, `workers` at a time; threads, since decoding and encoding work outside the interpreter lock."""
        stop, lock = threading.Event(), threading.Lock()

        def one(number: int) -> list[dict[str, Any]]:
            with ShardWriter(self.folder, number) as shard:
                for item in (self.items[k] for k in chunks[number] if k not in shard.done):
                    if stop.is_set():
                        return []
                    shard.add(item.number, folder_name(item.number, item.record.id), self.encoded(item))
                    with lock:
                        advance()
                shard.close()
                return list(shard.done.values())

        pool = ThreadPoolExecutor(max_workers=self.wish.workers)
        try:
            jobs = [pool.submit(one, number) for number in range(len(chunks))]
            for job in as_completed(jobs):
                job.result()
            return [line for job in jobs for line in job.result()]
        finally:
            stop.set()  # an interrupt or an error ends after the videos at hand
            pool.shutdown(cancel_futures=True)

    def encoded(self, item: Item) -> dict[str, Encoded | str]:
        """The sources of one video; of one that can't be read the reason. A source it lacks by nature is left out."""
        made: dict[str, Encoded | str] = {}
        for name in LAYOUTS:
            if name not in self.wish.sources:
                continue
            try:
                made[name] = steadily(functools.partial(self._encoded, item, name))
            except NoSource:
                continue
            except DecodeError as error:
                made[name] = str(error)
        return made

    def _encoded(self, item: Item, name: str) -> Encoded:
        record = item.record
        if name == "audio":
            return encoded_sound(record.media.get("audio") or record.media["frames"])
        wanted = [name, "frames"] if name == "flow" and "flow" not in record.media else [name]
        with self._opener(record, wanted) as opener, opener.open(record, wanted) as sources:
            source: OpenImages = sources[name]  # type: ignore[assignment]  # sources that are packed are images
            clock = sources["frames"].fps if "frames" in sources else source.fps
            made = encode(name, source, clock, record.media.get(name), self.wish.coding)
            return made if is_constant(source) else dataclasses.replace(made, times=source.times)

    @contextmanager
    def _opener(self, record: Record, wanted: Sequence[str]) -> Iterator[SourceOpener]:
        """How the sources of a video are opened. Flow that is computed on the way and not kept lies in the folder of
        the pack meanwhile: from the cache another process might be reading it when it goes."""
        cache = self.opener.flow
        given = cache is None or "flow" not in wanted or "flow" in record.media or "frames" not in record.media
        if self.wish.keep_flow or cache is None or given or cache.path(record).exists():
            yield self.opener
            return
        with TemporaryDirectory(dir=self.folder, prefix=PASSING) as folder:
            yield dataclasses.replace(self.opener, flow=FlowCache(Path(folder), cache.settings))

    # ---------------------------------------------------------------------------------------------- the plan

    def _manifest(self) -> dict[str, Any]:
        """The manifest as it stands: of an earlier start, or a new one.

        Raises:
            UserError: the folder holds another pack, or other files.
        """
        plan, found = self._plan(), read_manifest(self.folder)
        if found is not None:
            told = found["plan"]
            if told != plan:
                what = next(key for key in plan if told.get(key) != plan[key])
                raise UserError(f"{self.folder} holds a pack with another {what}; choose another --out, or delete it")
            if not found["complete"] and found["version"] != VERSION:
                raise UserError(f"{self.folder} was started by an older version; choose another --out, or delete it")
            return found
        if not self.items:
            raise UserError(f"data={self.dataset.name} has no video to pack; check its lists")
        others = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))
        if others and others != [RECORDS]:
            raise UserError(f"{self.folder} is not empty (it has {others[0]}); choose another --out")
        cache = self.opener.flow
        manifest: dict[str, Any] = {
            "program": f"mml_lightning {__version__}",
            "complete": False,
            "plan": plan,
            "source": {
                "data": self.dataset.name,
                "words": list(self.wish.origin),
                "fingerprint": self.dataset.fingerprint(),
                "reader": frames_reader(self.dataset, self.opener.decoder),
            },
            "encoder": {"name": "opencv", "version": opencv_version()},
            "flow": cache.settings.provenance() if cache else None,
            "shards": max(1, min(self.wish.shards or self._shards(), -(-len(self.items) // FEWEST))),
            "videos": len(self.items),
            "splits": {split: len(records) for split, records in self.dataset.splits.items()},
            "heads": plain_heads(self.dataset),
            "left_out": dict(self.dataset.left_out),
        }
        write_records(self.folder, self.records)
        write_manifest(self.folder, manifest)
        return manifest

    def _plan(self) -> dict[str, Any]:
        """What two packings must have in common to make the same pack."""
        digest = hashlib.sha256(json.dumps(self.records, sort_keys=True).encode())
        for item in self.items:
            media = sorted(item.record.media.items(), key=lambda pair: pair[0])
            digest.update(repr([(name, media_identity(one)) for name, one in media]).encode())
            digest.update(str(item.record.decoder).encode())
        cache = self.opener.flow
        return {
            "data": digest.hexdigest(),
            "classes": hashlib.sha256(json.dumps(plain_heads(self.dataset)).encode()).hexdigest(),
            "decoder": self.opener.decoder,
            "sources": sorted(self.wish.sources),
            "coding": asdict(self.wish.coding),
            "flow": cache.settings.key() if cache else None,
        }

    def _shards(self) -> int:
        """As many as it takes for the size that is asked for, told by a few videos."""
        step = max(1, len(self.items) // PROBED)
        sizes = []
        for item in self.items[::step][:PROBED]:
            sources = self.encoded(item).values()
            sizes.append(sum(sum(map(len, one.images)) for one in sources if isinstance(one, Encoded)))
        whole = sum(sizes) / len(sizes) * len(self.items)
        return max(round(whole / (self.wish.shard_mb * 1e6)), self.wish.workers)


def shares(videos: int, shards: int) -> list[range]:
    """Numbers of the videos of each shard: neighbours together, sizes as equal as can be."""
    bounds = [videos * number // shards for number in range(shards + 1)]
    return [range(first, last) for first, last in itertools.pairwise(bounds)]
