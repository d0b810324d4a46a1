"""Packing is interrupted anywhere and continues: what it leaves is the same to the last byte."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mml_lightning.data.packs import packing
from mml_lightning.data.packs import shard as packs_shard
from mml_lightning.data.packs.encode import Coding, Encoded
from mml_lightning.data.packs.packing import Packer, shares
from mml_lightning.data.records import pack_index
from mml_lightning.data.records.pack_index import Item
from mml_lightning.data.records.readers import read_pack
from mml_lightning.data.records.records import Dataset
from mml_lightning.data.video.media import PackedFrames
from mml_lightning.utils.errors import UserError
from tests.conftest import ROOT, environment
from tests.data import pack_of as packs
from tests.data.pack_of import quiet
from tests.patience import wait_for


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds `videos`, `cache` and `whole`, a pack that was never interrupted."""
    folder = tmp_path_factory.mktemp("packing")
    packer(folder, folder / "whole").run(quiet)
    return folder


@pytest.fixture(scope="module")
def data(place: Path) -> Dataset:
    return packs.dataset(place / "videos")


def packer(place: Path, out: Path, **wish: int) -> Packer:
    return packs.packer(packs.dataset(place / "videos"), place / "cache", out, **{"shards": 3, **wish})


def same(one: Path, other: Path) -> None:
    files = {path.name for path in one.iterdir()}
    assert files == {path.name for path in other.iterdir()}
    for name in files:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


class Cut(BaseException):
    """A process that ends, as far as the files can tell."""


def interrupted(place: Path, out: Path, after: int) -> None:
    """A packing that ends after so many videos."""
    cut = packer(place, out)
    encoded, count = cut.encoded, 0

    def until(item: Item) -> dict[str, Encoded | str]:
        nonlocal count
        count += 1
        if count > after:
            raise Cut
        return encoded(item)

    cut.encoded = until  # type: ignore[method-assign]
    with pytest.raises(Cut):
        cut.run(quiet)


@pytest.mark.parametrize("seed", range(8))
def test_an_interrupted_packing_continues_to_the_same_files(place: Path, tmp_path: Path, seed: int) -> None:
    """Cut between videos, then the last files torn at a random byte, as a kill or a power cut leaves them."""
    rng, out = random.Random(seed), tmp_path / "pack"
    interrupted(place, out, rng.randrange(1, 30))
    with pytest.raises(UserError, match="is incomplete; run the same mml pack command again"):
        read_pack("p", str(out))
    for file in sorted(out.glob("shard-*.zip" if seed % 2 else "shard-*.jsonl")):
        size = file.stat().st_size
        os.truncate(file, rng.randrange(size // 2, size + 1))
    asked: list[int] = []
    done = packer(place, out, workers=1 + seed % 3).run(lambda videos: asked.append(videos) or quiet(videos))
    assert 0 < asked[0] <= 40
    assert done.manifest["complete"]
    same(place / "whole", out)


def test_bytes_that_never_reached_the_disk_are_not_believed(place: Path, tmp_path: Path) -> None:
    """After a power cut a file can have its length and zeros inside: the video's table tells."""
    out = tmp_path / "pack"
    interrupted(place, out, 12)
    shard = out / "shard-00000.zip"
    with shard.open("r+b") as handle:
        handle.seek(-4000, os.SEEK_END)
        handle.write(bytes(4000))
    assert packer(place, out).run(quiet).dropped >= 4000
    same(place / "whole", out)


def test_half_a_video_behind_the_last_line_is_dropped(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "pack"
    interrupted(place, out, 7)
    with (out / "shard-00000.zip").open("ab") as handle:
        handle.write(b"PK\x03\x04 half a member")
    assert packer(place, out).run(quiet).dropped == 18
    same(place / "whole", out)


def test_a_finished_pack_is_left_alone(place: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (place / "whole").glob("[!.]*")}
    asked: list[int] = []
    packer(place, place / "whole", workers=2).run(lambda videos: asked.append(videos) or quiet(videos))
    assert asked == [0] and before == {path: path.stat().st_mtime_ns for path in (place / "whole").glob("[!.]*")}


SLOW = """
import sys, time
from pathlib import Path
from tests.data.packs.test_packing import lines_bytes, packer
place, out, most = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
slow = packer(place, out, workers=2)
encoded = slow.encoded
def held(item):
    while lines_bytes(out) > most:  # it is not done before the blow, however late that comes
        time.sleep(0.02)
    return encoded(item)
slow.encoded = held
slow.run(lambda videos: lambda: None)
"""


def test_kill_9(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "pack"
    for enough in (400, 2500):  # bytes of lines before the blow
        command = [sys.executable, "-c", SLOW, str(place), str(out), str(enough + 1500)]
        process = subprocess.Popen(command, env=environment(PYTHONPATH=str(ROOT)), cwd=ROOT)
        wait_for(lambda: lines_bytes(out) >= enough, f"{enough} bytes of lines", process)  # noqa: B023
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    told = pack_index.read_manifest(out)
    assert told is not None and not told["complete"]
    packer(place, out).run(quiet)
    same(place / "whole", out)


def lines_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.jsonl") if path.name.startswith("shard"))


# ------------------------------------------------------------------------------------------- what is refused


def changed(place: Path, data: Dataset) -> list[tuple[str, Packer]]:
    def make(data: Dataset, coding: Coding | None = None) -> Packer:
        return packs.packer(data, place / "cache", place / "whole", coding)

    rows = list(data.splits["train"])
    rows[5] = dataclasses.replace(rows[5], target={"label": 2})
    other = dataclasses.replace(data, mirrored={})
    return [
        ("coding", make(data, Coding(quality=80))),
        ("data", make(dataclasses.replace(data, splits={**data.splits, "train": rows}))),
        ("classes", make(other)),
    ]


def test_another_pack_is_not_mixed_in(place: Path, data: Dataset) -> None:
    for what, other in changed(place, data):
        with pytest.raises(UserError, match=f"holds a pack with another {what}; choose another --out"):
            other.run(quiet)


def test_a_folder_with_other_files_is_left_alone(place: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"is not empty \(it has thesis.tex\)"):
        packer(place, tmp_path).run(quiet)
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.tex"}


def test_one_process_at_a_time(place: Path, tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is being packed by another process"):
            packer(place, tmp_path).run(quiet)


def test_a_full_disk_is_one_line(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(packs_shard.ShardWriter, "add", full)
        with pytest.raises(UserError, match=r"can't write .* \(No space left on device\)"):
            packer(place, tmp_path / "pack").run(quiet)
    packer(place, tmp_path / "pack").run(quiet)
    same(place / "whole", tmp_path / "pack")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Coding(short_side=8), "--short-side 8 is too small"),
        (lambda: Coding(quality=101), "--quality 101 is out of range; use 1 to 100"),
        (lambda: Coding(flow_quality="gif"), "--flow-quality gif is out of range; use 1 to 100 or png"),
        (lambda: packing.Wish((), Coding(), shard_mb=0), "--shard-size 0 must be 1 or more"),
        (lambda: packing.Wish((), Coding(), workers=0), "--workers 0 must be 1 or more"),
    ],
)
def test_wrong_numbers(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


# ------------------------------------------------------------------------------------------- shards


def test_shares_are_even_and_whole() -> None:
    assert shares(7, 3) == [range(0, 2), range(2, 4), range(4, 7)]
    for videos, shards in ((1, 1), (100, 7), (5, 5)):
        parts = shares(videos, shards)
        assert [k for part in parts for k in part] == list(range(videos))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_computed_flow_does_not_stay_in_the_cache(place: Path, data: Dataset, tmp_path: Path) -> None:
    few = dataclasses.replace(data, splits={"train": data.splits["train"][5:9]})
    flow = [
        packs.packer(few, tmp_path / "cache", tmp_path / name, keep_flow=keep).run(quiet) and arrays(tmp_path / "cache")
        for name, keep in (("passing", False), ("kept", True), ("again", False))
    ]
    assert [len(paths) for paths in flow] == [0, 4, 4], "what was there before stays"
    same(tmp_path / "passing", tmp_path / "again")


def arrays(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.npy"))


def test_a_pack_can_be_packed(place: Path, data: Dataset, tmp_path: Path) -> None:
    """Smaller, from the packed images, with flow and labels."""
    whole = read_pack("small", str(place / "whole"))
    packs.packer(whole, tmp_path / "cache", tmp_path / "pack", Coding(40, 90, 20)).run(quiet)
    small = read_pack("small", str(tmp_path / "pack"))
    assert not arrays(tmp_path / "cache") and small.heads == data.heads
    for one, other in zip(small.splits["train"], whole.splits["train"], strict=True):
        assert one.target == other.target
        for source, media in one.media.items():
            packed = other.media[source]
            assert isinstance(media, PackedFrames) and isinstance(packed, PackedFrames)
            assert (media.count, media.fps, bool(media.problem)) == (packed.count, packed.fps, bool(packed.problem))
            assert media.problem or media.size == ((48, 40) if source == "frames" else (24, 20))


def test_the_number_of_shards_follows_their_size(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "FEWEST", 1)
    first = packer(place, tmp_path / "pack", shards=0, shard_mb=1)
    whole = first.run(quiet).manifest
    assert whole["shards"] == max(1, round(whole["bytes"] / 1e6)), "about 1 MB each"
    many = packer(place, tmp_path / "many", shards=0, shard_mb=1, workers=4).run(quiet).manifest
    assert many["shards"] == 4, "each worker has one"
