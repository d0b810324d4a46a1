"""Packs: what goes in comes out, nothing else is read, and what is damaged is named."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mml_lightning.data.check import check
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.packs import zipped
from mml_lightning.data.packs.encode import Coding, reduced
from mml_lightning.data.packs.verify import verify
from mml_lightning.data.records import pack_index
from mml_lightning.data.records.readers import read_pack
from mml_lightning.data.records.records import Dataset, Record, validate
from mml_lightning.data.video import pack_format
from mml_lightning.data.video.decode import DecodeError, open_video
from mml_lightning.data.video.media import ImageSequence, PackedFrames, media_absent
from mml_lightning.data.video.pack_reader import PackReader
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import file_hash
from tests.data import pack_of as packs
from tests.data.pack_of import quiet
from tests.data.videos import real


@dataclasses.dataclass
class Made:
    source: Dataset
    cache: Path
    folder: Path

    def read(self) -> Dataset:
        return read_pack("small", str(self.folder))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A pack of three shards with exact flow; tests that damage it take a copy."""
    folder = tmp_path_factory.mktemp("packs")
    data = packs.dataset(folder / "videos")
    coding = Coding(flow_quality="png")
    packs.packer(data, folder / "cache", folder / "pack", coding, shards=3, workers=2).run(quiet)
    return Made(data, folder / "cache", folder / "pack")


@pytest.fixture
def made(original: Made, tmp_path: Path) -> Made:
    """Also a moved directory: nothing in a pack says where it lies."""
    return dataclasses.replace(original, folder=Path(shutil.copytree(original.folder, tmp_path / "elsewhere")))


def by_id(data: Dataset) -> dict[str, Record]:
    return {record.id: record for records in data.splits.values() for record in records}


def media(made: Made, identity: str, source: str = "frames") -> PackedFrames:
    found = by_id(made.read())[identity].media[source]
    assert isinstance(found, PackedFrames)
    return found


def test_labels_splits_and_all_else_stand_in_the_pack(made: Made) -> None:
    read = made.read()
    assert (read.heads, read.mirrored, read.left_out) == (
        made.source.heads,
        made.source.mirrored,
        {"gone": "unreadable"},
    )
    for split, records in made.source.splits.items():
        plain = [dataclasses.replace(record, media={}) for record in records]
        assert [dataclasses.replace(record, media={}) for record in read.splits[split]] == plain
    parts = by_id(read)
    assert parts["part0"].media == parts["part1"].media, "parts of one video are packed once"
    assert validate(read, labelled=False) is read


def test_frames_are_close_and_flow_in_png_is_exact(made: Made) -> None:
    with (
        SourceOpener("pyav", packs.packer(made.source, made.cache, made.folder).opener.flow).open(
            by_id(made.source)["v5"], ["frames", "flow"]
        ) as source,
        SourceOpener().open(by_id(made.read())["v5"], ["frames", "flow"]) as packed,
    ):
        for name in ("frames", "flow"):
            assert (packed[name].count, packed[name].size) == (source[name].count, source[name].size)
            assert packed[name].fps == 12.0
        some = [3, 0, 3, 1]
        frames, true = packed["frames"].frames(some), source["frames"].frames(some)
        assert frames.shape == true.shape and np.abs(frames.astype(int) - true).mean() < 3
        assert np.abs(frames[0].astype(int) - true[1]).mean() > 6, "the moving pattern tells frames apart"
        np.testing.assert_array_equal(packed["flow"].frames(some), source["flow"].frames(some))


def test_flow_as_jpeg_is_close(original: Made, tmp_path: Path) -> None:
    coding = Coding(flow_quality=90)
    one = dataclasses.replace(original.source, splits={"train": [by_id(original.source)["v5"]]})
    packer = packs.packer(one, original.cache, tmp_path / "pack", coding)
    packer.run(quiet)
    flow = by_id(read_pack("p", str(tmp_path / "pack")))["v5"].media["flow"]
    assert isinstance(flow, PackedFrames) and flow.coding == "jpg"
    true = np.load(packer.opener.flow.path(one.splits["train"][0]))  # type: ignore[union-attr]
    found = np.stack(list(PackReader(flow).stream()))
    assert found.shape == true.shape
    assert 0 < np.abs(found.astype(int) - true).mean() < 1.5


def test_large_frames_are_reduced_and_small_ones_kept(original: Made, tmp_path: Path) -> None:
    assert reduced((427, 240), 256) == (427, 240) and reduced((640, 480), 240) == (320, 240)
    assert reduced((240, 427), 120) == (120, 214) and reduced((640, 480), 0) == (640, 480)
    one = dataclasses.replace(original.source, splits={"train": [by_id(original.source)["v5"]]})
    packs.packer(one, original.cache, tmp_path / "pack", Coding(40, 90, 20)).run(quiet)
    found = by_id(read_pack("p", str(tmp_path / "pack")))["v5"].media
    assert {name: one.size for name, one in found.items()} == {"frames": (48, 40), "flow": (24, 20)}
    assert PackReader(found["frames"]).frames([0]).shape == (1, 40, 48, 3)
    assert PackReader(found["flow"]).frames([0, 1]).shape == (2, 20, 24, 2)


def test_jpeg_images_are_taken_over_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = ImageSequence(tmp_path / "images", "img_{:05d}.jpg", 3, 24.0)
    flow = ImageSequence(tmp_path / "images", "flow_{axis}_{:05d}.jpg", 2, 24.0, layout="flow_pair")
    images.folder.mkdir()
    for one in (images, flow):
        for path in (path for index in range(one.count) for path in one.paths(index)):
            smooth = cv2.resize(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8), (50, 40))
            cv2.imwrite(str(path), smooth)
    data = Dataset("d", {"train": [Record("v", {"frames": images, "flow": flow}, {})]}, {})
    packs.packer(data, tmp_path / "cache", tmp_path / "pack", Coding(flow_quality="png")).run(quiet)
    found = by_id(read_pack("d", str(tmp_path / "pack")))["v"].media
    stored = [content for _, content in PackReader(found["frames"]).encoded([0, 1, 2])]
    assert stored == [images.paths(index)[0].read_bytes() for index in range(3)]
    y = cv2.imread(str(flow.paths(1)[1]), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(PackReader(found["flow"]).frames([1])[0, ..., 1], y)
    assert found["flow"].fps == 24.0


# ------------------------------------------------------------------------------------------- what others read


def test_a_shard_is_a_zip_file_that_others_read(made: Made) -> None:
    reader = PackReader(media(made, "v5"))
    names = []
    for shard in sorted(made.folder.glob("*.zip")):
        with zipfile.ZipFile(shard) as archive:
            assert archive.testzip() is None
            names += archive.namelist()
            if shard == reader.media.shard:
                content = archive.read(f"{reader.media.folder}/frames_00002.jpg")
    assert content == next(reader.encoded([1]))[1]
    assert len(names) == len(set(names)) and all(".." not in name and not name.startswith("/") for name in names)


# ------------------------------------------------------------------------------------------- random access


def test_only_the_table_and_the_images_asked_for_are_read(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = media(made, "v7")
    sizes = [len(content) for _, content in PackReader(pack).encoded(range(pack.count))]
    read: list[int] = []
    pread = os.pread

    def counted(handle: int, length: int, offset: int) -> bytes:
        read.append(length)
        return pread(handle, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    reader = PackReader(pack)
    assert not read, "opening reads nothing"
    reader.frames([5, 0, 5])
    assert read == [16 * pack.count, sizes[0], sizes[5]]
    read.clear()
    reader.frames([2, 3, 4])
    headers = 2 * len(zipped.local_header(pack_format.member_name(pack.folder, "frames", 0, "jpg"), 0, 0))
    assert read == [16 * pack.count, sum(sizes[2:5]) + headers], "neighbours are read at once"


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_readers_work_in_other_processes(made: Made, context: str) -> None:
    readers = [PackReader(media(made, f"v{n}")) for n in (5, 6, 7)]
    for reader in readers:
        reader.frames([0])
    loader = DataLoader(Frames(readers), batch_size=None, num_workers=1, multiprocessing_context=context)
    for reader, found in zip(readers, loader, strict=True):
        np.testing.assert_array_equal(found, reader.frames([1, 2]))


@dataclasses.dataclass
class Frames(torch.utils.data.Dataset):  # type: ignore[type-arg]
    readers: list[PackReader]

    def __len__(self) -> int:
        return len(self.readers)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.readers[index].frames([1, 2]))


def test_items_outside_are_refused(made: Made) -> None:
    reader = PackReader(media(made, "v5"))
    for indices in ([0, reader.count], [-1]):
        with pytest.raises(DecodeError, match="were requested, it has 5"):
            reader.frames(indices)
    assert reader.frames([]).shape[0] == 0


# ------------------------------------------------------------------------------------------- damage


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x40
    path.write_bytes(content)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_byte_is_never_read_silently(made: Made, data: st.DataObject) -> None:
    """An image is as it was, or it is named; whatever byte of the shard changes."""
    pack = media(made, "v5")
    true = PackReader(pack).frames(range(pack.count))
    at = data.draw(st.integers(pack.table - pack.bytes - 400, pack.table + 16 * pack.count))
    flip(pack.shard, at)
    try:
        for index in range(pack.count):
            try:
                np.testing.assert_array_equal(PackReader(pack).frames([index])[0], true[index])
            except DecodeError as error:
                assert f"{pack.folder}/frames" in str(error) and "is damaged" in str(error)
    finally:
        flip(pack.shard, at)


def test_a_damaged_image_and_a_damaged_table_are_named(made: Made) -> None:
    pack = media(made, "v5")
    with pack.shard.open("rb") as handle:
        handle.seek(pack.table)
        entries = np.frombuffer(handle.read(16 * pack.count), dtype=pack_format.ENTRY)
    flip(pack.shard, int(entries["offset"][2]) + 30)
    PackReader(pack).frames([0, 1, 3])
    with pytest.raises(DecodeError, match=rf"{pack.folder}/frames_00003\.jpg is damaged"):
        PackReader(pack).frames([1, 2])
    flip(pack.shard, pack.table + 1)
    with pytest.raises(DecodeError, match=rf"{pack.folder}/frames\.table is damaged"):
        PackReader(pack).frames([0])


@pytest.mark.parametrize("shards", [10**12, -(10**12), 0])
def test_a_number_of_shards_is_no_order_to_look_for_them(made: Made, shards: int) -> None:
    told = pack_index.read_manifest(made.folder)
    assert told is not None
    pack_index.write_manifest(made.folder, {**told, "shards": shards})
    with pytest.raises(UserError, match=r"manifest\.json: it names \d files"):
        made.read()


@pytest.mark.parametrize("field, value", [("shards", "3"), ("heads", None), ("complete", 1), ("plan", [])])
def test_a_manifest_that_is_not_ours_is_refused(made: Made, field: str, value: object) -> None:
    told = pack_index.read_manifest(made.folder)
    assert told is not None
    pack_index.write_manifest(made.folder, {**told, field: value})
    with pytest.raises(UserError, match=rf"manifest\.json: its field '{field}' is missing or wrong"):
        made.read()
    pack_index.write_manifest(made.folder, {**told, "sha256": {}})
    with pytest.raises(UserError, match=r"manifest\.json: it names 0 files, \d shards need more"):
        made.read()


def test_a_shard_that_is_cut_off_or_missing(made: Made) -> None:
    pack = media(made, "v35")
    size = pack.shard.stat().st_size
    os.truncate(pack.shard, pack.table)
    with pytest.raises(DecodeError, match="is damaged"):
        PackReader(pack).frames([0])
    with pytest.raises(UserError, match=rf"shard-0000\d\.zip has {pack.table} bytes, expected {size}: it is truncated"):
        made.read()
    pack.shard.unlink()
    assert media_absent(pack) == pack.shard
    with pytest.raises(DecodeError, match="No such file"):
        PackReader(pack).frames([0])
    with pytest.raises(UserError, match="zip is missing; copy the pack again"):
        made.read()


@pytest.mark.parametrize("file", ["manifest.json", "records.jsonl", "shard-00001.jsonl"])
def test_a_damaged_list_is_refused(made: Made, file: str) -> None:
    content = (made.folder / file).read_text()
    (made.folder / file).write_text(content.replace("1", "2", 1))
    with pytest.raises(UserError, match=f"{file} is damaged|of version 2"):
        made.read()
    (made.folder / file).unlink()
    with pytest.raises(UserError, match=f"{file} is missing|holds no pack"):
        made.read()


FOREIGN = [
    ("folder", "000001_../../etc"),
    ("folder", "/etc"),
    ("folder", None),
    ("coding", "pickle"),
    ("layout", "other"),
    ("count", -1),
    ("count", 1.5),
    ("table", None),
    ("size", [1]),
    ("size", [10**9, 10**9]),
    ("fps", "inf"),
]


@pytest.mark.parametrize("field, value", FOREIGN)
def test_a_line_that_is_not_ours_is_refused(made: Made, field: str, value: object) -> None:
    """Even where its check sums are right: names stay inside of the pack, numbers are numbers."""
    path = made.folder / "shard-00001.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    target = lines[0] if field == "folder" else lines[0]["sources"]["frames"]
    target[field] = value
    path.write_bytes(b"".join(map(pack_format.line_of, lines)))
    told = pack_index.read_manifest(made.folder)
    assert told is not None
    told["sha256"]["shard-00001.jsonl"] = file_hash(path)
    pack_index.write_manifest(made.folder, told)
    with pytest.raises(UserError, match=r"shard-00001\.jsonl is not a list of packed videos"):
        made.read()


# ------------------------------------------------------------------------------------------- what could not be packed


def test_an_unreadable_video_is_named_now_and_when_it_is_read(made: Made) -> None:
    told = pack_index.read_manifest(made.folder)
    assert told is not None and {(one["id"], one["source"]) for one in told["failed"]} == {
        ("bad", "frames"),
        ("bad", "flow"),
    }
    with pytest.raises(DecodeError, match=r"it was unreadable when packed: .*bad\.mp4"):
        PackReader(media(made, "bad"))
    single = by_id(made.read())["v3"].media
    assert set(single) == {"frames"}, "one frame has no flow"


def test_mml_check_reads_packs(made: Made, tmp_path: Path) -> None:
    data = dataclasses.replace(made.read(), name="pack")
    findings = {(f.id, f.source): f for f in check(data, tmp_path / "findings.csv", 2, 1, quiet)}
    assert findings["v5", "frames"].usable and findings["v5", "flow"].usable
    assert not findings["bad", "frames"].usable and "when packed" in findings["bad", "frames"].problem


def test_the_fingerprint_tells_packs_apart_and_moves_with_them(original: Made, made: Made) -> None:
    assert made.read().fingerprint() == original.read().fingerprint() != made.source.fingerprint()


# ------------------------------------------------------------------------------------------- verification


def test_verify_compares_with_the_source(original: Made, made: Made) -> None:
    packer = packs.packer(made.source, made.cache, made.folder, Coding(flow_quality="png"))
    verdict = verify(packer, quiet)
    assert (verdict.wrong, verdict.different) == ([], 0) and verdict.images > 300
    pack = media(made, "v5")
    flip(pack.shard, pack.table - 300)
    assert [identity for identity, _ in verify(packer, quiet).wrong] == ["v5"]
    other = packs.packer(made.source, made.cache, original.folder, Coding(quality=89, flow_quality="png"))
    seen = verify(other, quiet)
    assert seen.different > 100, "another encoder makes other bytes .."
    assert not seen.wrong, ".. of the same pictures"


def test_verify_sees_that_a_file_was_exchanged(original: Made) -> None:
    packer = packs.packer(original.source, original.cache, original.folder, Coding(flow_quality="png"))
    at = next(item.number for item in packer.items if item.record.id == "v5")
    other = dataclasses.replace(packer.items[at].record, media=by_id(original.source)["v9"].media)  # as long as v5
    packer.items[at] = pack_index.Item(at, other)
    wrong = verify(packer, quiet).wrong
    assert {identity for identity, _ in wrong} == {"v5"}
    assert any("4 images differ from the source, first 1" in reason for _, reason in wrong)


@pytest.mark.real
def test_a_real_video_packs_within_the_error_of_jpeg(tmp_path: Path) -> None:
    path = real("clips/mmaction2/demo.mp4")
    data = Dataset("d", {"train": [Record("v", {"frames": path}, {})]}, {})
    packs.packer(data, tmp_path / "cache", tmp_path / "pack").run(quiet)
    found = PackReader(by_id(read_pack("d", str(tmp_path / "pack")))["v"].media["frames"])
    with open_video(path, "pyav") as video:
        true = video.frames([0, 50, 100])
    assert np.abs(found.frames([0, 50, 100]).astype(int) - true).mean() < 3
