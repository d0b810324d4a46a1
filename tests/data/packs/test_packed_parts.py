"""Parts of packed pictures are what the whole has there, to the last bit; sound comes out as it went in."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_lightning.data.loading import images as loading_images
from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.data.loading.images import read_part
from mml_lightning.data.loading.ram_cache import HeldItems
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.packs.encode import Coding, encode_item
from mml_lightning.data.packs.sound import encoded_sound
from mml_lightning.data.packs.verify import verify
from mml_lightning.data.records import pack_index
from mml_lightning.data.records.readers import read_pack
from mml_lightning.data.records.records import Dataset, Head, Record
from mml_lightning.data.video import jpeg, pack_format
from mml_lightning.data.video.decode import DecodeError, NoSource
from mml_lightning.data.video.media import ImageSequence, PackedFrames
from mml_lightning.data.video.pack_reader import PackReader
from mml_lightning.data.video.sound import packed_sound
from mml_lightning.modalities import Modality
from mml_lightning.transforms import Crop
from mml_lightning.utils.errors import UserError
from tests.data import pack_of as packs
from tests.data.pack_of import quiet
from tests.data.videos import moving, write_sound, write_video

SIZES = ((427, 240), (340, 256), (455, 256), (64, 48), (97, 31), (16, 200))


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Colours that change from block to block, with grain."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height)).astype(float)
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


def encoded(size: tuple[int, int], seed: int = 0) -> bytes:
    return encode_item("frames", picture(*size, seed), size, Coding(quality=85))


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))


WHOLE = {size: encoded(size) for size in SIZES}


@settings(max_examples=80, deadline=None)
@given(size=st.sampled_from(SIZES), data=st.data())
def test_a_cut_has_the_pixels_of_the_whole(size: tuple[int, int], data: st.DataObject) -> None:
    x, y = (data.draw(st.integers(0, side - 1)) for side in size)
    width, height = data.draw(st.integers(1, size[0] - x)), data.draw(st.integers(1, size[1] - y))
    part = jpeg.cut(WHOLE[size], (x, y, width, height), size)
    pixels = decoded(part.content)
    assert pixels.shape[1::-1] == part.size
    inside = pixels[y - part.y : y - part.y + height, x - part.x : x - part.x + width]
    np.testing.assert_array_equal(inside, decoded(WHOLE[size])[y : y + height, x : x + width])


def test_a_crop_of_a_wide_frame_needs_less_than_two_thirds_of_it() -> None:
    part = jpeg.cut(WHOLE[427, 240], (113, 20, 200, 200), (427, 240))
    assert part.size == (240, 208) and len(part.content) < 0.65 * len(WHOLE[427, 240])


def variants() -> dict[str, bytes]:
    """Files that can't be cut: all of each is given back."""
    image, size = picture(427, 240), (427, 240)
    options = {
        "no markers": [],
        "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 3],
        "rows that don't begin with a run": [cv2.IMWRITE_JPEG_RST_INTERVAL, 5],
    }
    made = {name: bytes(cv2.imencode(".jpg", image, given)[1]) for name, given in options.items()}
    made["PNG"] = bytes(cv2.imencode(".png", image)[1])
    made["cut off"] = WHOLE[size][:-400]
    made["empty"] = b""
    made["a header that ends"] = WHOLE[size][:40]
    return made


@pytest.mark.parametrize("name", list(variants()))
def test_what_can_not_be_cut_is_read_whole(name: str) -> None:
    content = variants()[name]
    assert jpeg.cut(content, (50, 50, 60, 60), (427, 240)) == jpeg.Cut(content, 0, 0, (427, 240))
    other = jpeg.cut(WHOLE[427, 240], (50, 50, 60, 60), (400, 240))
    assert other.content is WHOLE[427, 240], "not of the size that it should have: the reader will say so"


def test_intervals_divide_the_rows() -> None:
    assert [jpeg.restart_interval(width) for width in (427, 340, 455, 64, 16, 1)] == [3, 2, 1, 4, 1, 1]


# ------------------------------------------------------------------------------------------- through the loader


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """One video of 12 frames of 320x240 and its flow, of 171x128."""
    folder = tmp_path_factory.mktemp("parts")
    video = write_video(folder / "v.mp4", moving(12, 3, -2, 320, 240))
    data = Dataset("d", {"train": [Record("v", {"frames": video}, {"label": 0})]}, {"label": Head(("a", "b"))})
    packs.packer(data, folder / "cache", folder / "pack").run(quiet)
    return read_pack("d", str(folder / "pack"))


def reader(packed: Dataset, source: str) -> PackReader:
    media = packed.splits["train"][0].media[source]
    assert isinstance(media, PackedFrames)
    return PackReader(media)


@pytest.mark.parametrize("source", ["frames", "flow"])
@pytest.mark.parametrize("box", [(0, 0, 10, 10), (100, 31, 60, 90), (0, 0, 171, 128)])
def test_parts_of_packed_items(packed: Dataset, source: str, box: tuple[int, int, int, int]) -> None:
    one, some = reader(packed, source), [4, 0, 4]
    x, y, width, height = box
    whole = one.frames(some)[:, y : y + height, x : x + width]
    np.testing.assert_array_equal(read_part(one, some, box), whole)
    without = dataclasses.make_dataclass("Source", ["frames"])(one.frames)  # as readers of videos are
    np.testing.assert_array_equal(read_part(without, some, box), whole)
    held = HeldItems(np.stack(list(one.stream())), 12.0)
    np.testing.assert_array_equal(read_part(held, some, box), whole)


CROPS = {
    "one": [Crop(70, 20, 180, 150, (320, 240), (112, 112), flip=True)],
    "three views": [Crop(x, 0, 200, 200, (320, 240), (200, 200)) for x in (0, 60, 120)],
    "of the resized frame": [Crop(70, 20, 112, 112, (320, 240), (112, 112), resize=(213, 160), antialias=False)],
    "both": [
        Crop(70, 20, 112, 112, (320, 240), (112, 112), resize=(213, 160)),
        Crop(70, 20, 112, 112, (320, 240), (112, 112)),
    ],
}


@pytest.mark.parametrize("crops", list(CROPS))
def test_samples_are_those_of_whole_pictures(packed: Dataset, crops: str, monkeypatch: pytest.MonkeyPatch) -> None:
    modalities = [
        Modality("rgb", "frames", 1, 3),
        Modality("flow", "flow", 2, 2, flip="mirror_negate_x"),
    ]

    def starts(counts: Any, windows: Any, rng: Any) -> Any:
        return {name: np.array([[0, 4, 9]]) for name in counts}

    def sample() -> dict[str, torch.Tensor]:
        records, opener = packed.splits["train"], SourceOpener()
        dataset = ClipDataset(records, modalities, packed.heads, opener, starts, lambda *given: CROPS[crops], 0, False)
        return dict(dataset[0, 0]["clips"])

    parts = sample()
    monkeypatch.setattr(loading_images, "read_part", cut_from_whole)
    wholes = sample()
    assert parts.keys() == wholes.keys() == {"rgb", "flow"}
    for name, clip in parts.items():
        assert torch.equal(clip, wholes[name]), name


def cut_from_whole(source: PackReader, indices: list[int], box: tuple[int, int, int, int]) -> np.ndarray:
    x, y, width, height = box
    return source.frames(indices)[:, y : y + height, x : x + width]


# ------------------------------------------------------------------------------------------- sound


def packets(content: Path | io.BytesIO) -> list[bytes]:
    with av.open(content if isinstance(content, io.BytesIO) else str(content)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]


def samples(content: Path | io.BytesIO) -> np.ndarray:
    with av.open(content if isinstance(content, io.BytesIO) else str(content)) as container:
        return np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_sound_is_packed_as_it_was_encoded(tmp_path: Path, ending: str) -> None:
    """The packets of the container, and when they begin: a quarter of a second before the first frame."""
    video, mute = (
        write_sound(tmp_path / f"loud.{ending}", video=True),
        write_video(tmp_path / "mute.mp4", moving(4, 1, 0)),
    )
    rows = [Record("loud", {"frames": video}, {}), Record("mute", {"frames": mute}, {})]
    data = Dataset("d", {"train": rows}, {})
    packer = packs.packer(data, tmp_path / "cache", tmp_path / "pack", sources=("audio", "frames"))
    packer.run(quiet)
    loud, silent = read_pack("d", str(tmp_path / "pack")).splits["train"]
    assert set(loud.media) == {"frames", "audio"} and set(silent.media) == {"frames"}
    media = loud.media["audio"]
    assert isinstance(media, PackedFrames)
    content = io.BytesIO(packed_sound(media))
    assert packets(content) == packets(video)
    assert len(packets(video)) > 10 and -0.35 < media.start < -0.24
    assert verify(packer, quiet).wrong == []
    again = packs.packer(
        read_pack("d", str(tmp_path / "pack")), tmp_path / "cache", tmp_path / "two", sources=("audio",)
    )
    again.run(quiet)
    copy = read_pack("d", str(tmp_path / "two")).splits["train"][0].media["audio"]
    assert isinstance(copy, PackedFrames) and packed_sound(copy) == content.getvalue() and copy.start == media.start


def test_samples_of_sound_are_those_of_the_video(tmp_path: Path) -> None:
    video = write_sound(tmp_path / "loud.mkv", video=True)
    sound = encoded_sound(video)
    np.testing.assert_array_equal(samples(io.BytesIO(sound.images[0])), samples(video))
    assert encoded_sound(video) == sound, "twice the same bytes"


def test_what_has_no_sound(tmp_path: Path) -> None:
    with pytest.raises(NoSource, match="has no audio stream"):
        encoded_sound(write_video(tmp_path / "mute.mp4", moving(2, 1, 0)))
    with pytest.raises(NoSource, match="images have no sound"):
        encoded_sound(ImageSequence(tmp_path, "{:05d}.jpg", 2))
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(DecodeError, match="its sound can't be copied"):
        encoded_sound(tmp_path / "bad.mp4")


# ------------------------------------------------------------------------------------------- versions


def test_packs_of_the_first_version_are_read_but_not_continued(tmp_path: Path) -> None:
    data = Dataset("d", {"train": [Record("v", {"frames": write_video(tmp_path / "v.mp4", moving(4, 1, 0))}, {})]}, {})
    packer = packs.packer(data, tmp_path / "cache", tmp_path / "pack")
    packer.run(quiet)
    told = pack_index.read_manifest(tmp_path / "pack")
    assert told is not None and told["version"] == pack_format.VERSION
    pack_index.write_manifest(tmp_path / "pack", {**told, "version": 1})
    assert read_pack("d", str(tmp_path / "pack")).splits["train"][0].media.keys() == {"frames", "flow"}
    pack_index.write_manifest(tmp_path / "pack", {**told, "version": 1, "complete": False})
    with pytest.raises(UserError, match="was started by an older version; choose another --out"):
        packer.run(quiet)
    pack_index.write_manifest(tmp_path / "pack", {**told, "version": 4})
    with pytest.raises(UserError, match="is of version 4, this program reads 1 to 3"):
        read_pack("d", str(tmp_path / "pack"))
