"""Images as videos: the right pixels in the right order, and an error that names the file for all that is not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mml_lightning.data.flow.cache import FlowCache, FlowSettings
from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.data.loading.draws import FixedCrops, ValTemporalSampler
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.records.decoder import frames_reader
from mml_lightning.data.records.records import Dataset, Head, Record, validate
from mml_lightning.data.video.decode import DecodeError
from mml_lightning.data.video.images import ImageReader, open_media
from mml_lightning.data.video.media import ImageSequence, media_files
from mml_lightning.modalities import Modality
from mml_lightning.transforms import TestGeometry as Geometry  # not a test
from mml_lightning.utils.errors import UserError
from tests.data.images import noise, write_flow, write_frames, write_image
from tests.data.videos import moving, real

RGB, PAIR = "img_{:05d}.png", "flow_{axis}_{:05d}.png"


@pytest.fixture
def frames(tmp_path: Path) -> ImageSequence:
    return ImageSequence(write_frames(tmp_path / "v", RGB, noise(5, 3)), RGB, 5, fps=10.0)


@pytest.fixture
def pairs(tmp_path: Path) -> ImageSequence:
    return ImageSequence(write_flow(tmp_path / "f", PAIR, noise(4, 2, seed=1)), PAIR, 4, layout="flow_pair")


# ------------------------------------------------------------------------------------------------ pixels


def test_frames_are_rgb_in_the_order_asked(frames: ImageSequence) -> None:
    reader = ImageReader(frames)
    assert (reader.count, reader.size, reader.fps) == (5, (24, 20), 10.0)
    assert np.array_equal(reader.frames([4, 0, 0, 2]), noise(5, 3)[[4, 0, 0, 2]])
    assert np.array_equal(np.stack(list(reader.stream())), noise(5, 3))


def test_pairs_are_x_then_y(pairs: ImageSequence) -> None:
    assert np.array_equal(ImageReader(pairs).frames([3, 1]), noise(4, 2, seed=1)[[3, 1]])


def test_packed_flow_is_red_then_green(tmp_path: Path) -> None:
    packed = noise(3, 3, seed=2)
    images = ImageSequence(write_frames(tmp_path, "{:06d}.png", packed), "{:06d}.png", 3, layout="flow_packed")
    assert np.array_equal(ImageReader(images).frames([2, 0]), packed[[2, 0], ..., :2])


def test_numbers_may_begin_anywhere(tmp_path: Path) -> None:
    images = ImageSequence(write_frames(tmp_path, RGB, noise(3, 3), first=0), RGB, 3, first=0)
    assert np.array_equal(ImageReader(images).frames([0, 2]), noise(3, 3)[[0, 2]])


@pytest.mark.parametrize(
    ("template", "layout", "message"),
    [
        ("img.jpg", "rgb", "needs one field for the number"),
        ("{:05d}-{:05d}.jpg", "rgb", "needs one field for the number"),
        ("{number}.jpg", "rgb", "needs one field for the number"),
        ("{axis}_{:05d}.jpg", "rgb", "stands in templates of layout flow_pair"),
        ("{:05d}.jpg", "flow_pair", "stands in templates of layout flow_pair"),
        ("{:05d}.jpg", "bgr", "layout 'bgr' is unknown"),
    ],
)
def test_templates_that_are_none(template: str, layout: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageSequence(Path("v"), template, 3, layout=layout)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ what goes wrong


def test_missing_image_is_named(frames: ImageSequence) -> None:
    reader = ImageReader(frames)
    (frames.folder / "img_00003.png").unlink()
    assert np.array_equal(reader.frames([1, 3]), noise(5, 3)[[1, 3]])
    with pytest.raises(DecodeError, match=r"img_00003\.png: no such image"):
        reader.frames([1, 2])


@pytest.mark.parametrize("content", [b"", b"<html>404</html>"])
def test_image_that_is_none_is_named(frames: ImageSequence, content: bytes) -> None:
    (frames.folder / "img_00002.png").write_bytes(content)
    with pytest.raises(DecodeError, match=r"img_00002\.png: it is not a readable image"):
        ImageReader(frames).frames([1])


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_half_an_image_is_no_image(tmp_path: Path, ending: str) -> None:
    path = write_image(tmp_path / f"00001.{ending}", noise(1, 3, 64, 48)[0])
    whole = path.read_bytes()
    images = ImageSequence(tmp_path, f"{{:05d}}.{ending}", 1)
    assert ImageReader(images).count == 1
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DecodeError, match=rf"00001\.{ending}: it is not a readable image"):
        ImageReader(images)


def test_other_size_is_named(frames: ImageSequence) -> None:
    write_image(frames.folder / "img_00004.png", noise(1, 3, 30, 20)[0])
    with pytest.raises(DecodeError, match=r"img_00004\.png: it is 30x20, the first is 24x20"):
        ImageReader(frames).frames([3])


def test_y_of_another_size_is_named(pairs: ImageSequence) -> None:
    write_image(pairs.folder / "flow_y_00002.png", noise(1, 2, 30, 20)[0, ..., 0])
    with pytest.raises(DecodeError, match=r"flow_y_00002\.png: its size is not that of flow_x_00002\.png"):
        ImageReader(pairs).frames([1])


def test_items_outside_and_nothing_at_all(frames: ImageSequence) -> None:
    with pytest.raises(DecodeError, match="items 3 to 5 were requested, it has 5"):
        ImageReader(frames).frames([5, 3])
    with pytest.raises(DecodeError, match="it has no image"):
        ImageReader(replace(frames, count=0))


# ------------------------------------------------------------------------------------------------ records


def dataset(*records: Record) -> Dataset:
    splits = {"train": list(records), "val": list(records), "test": []}
    return Dataset("mine", splits, {"label": Head(("a", "b"))})


def record(frames: ImageSequence, **media: ImageSequence) -> Record:
    return Record("v", {"frames": frames, **media}, {"label": 0})


def test_fingerprint_of_images_knows_what_they_are_not_where(frames: ImageSequence, tmp_path: Path) -> None:
    elsewhere = replace(frames, folder=write_frames(tmp_path / "w", RGB, noise(5, 3)))
    here = dataset(record(frames)).fingerprint()
    assert dataset(record(elsewhere)).fingerprint() == here
    shorter, faster = replace(frames, count=4), replace(frames, fps=12.0)
    write_image(elsewhere.folder / "img_00005.png", np.zeros((20, 24, 3), np.uint8))
    prints = {dataset(record(images)).fingerprint() for images in (frames, shorter, faster, elsewhere)}
    assert len(prints) == 4


def test_fingerprint_knows_intervals(frames: ImageSequence) -> None:
    plain = record(frames)
    later = [replace(plain, intervals={"label": ((0, 0.0, end),)}) for end in (1.0, 2.0)]
    assert len({dataset(r).fingerprint() for r in (plain, *later)}) == 3


def test_validation_finds_missing_images(frames: ImageSequence, pairs: ImageSequence) -> None:
    data = dataset(record(frames, flow=pairs))
    assert validate(data, ("train",)) is data
    (pairs.folder / "flow_y_00001.png").unlink()
    with pytest.raises(UserError, match=r"1 of 1 videos are missing, first: .*flow_y_00001\.png \(id v, train\)"):
        validate(data, ("train",))


def test_files(frames: ImageSequence, pairs: ImageSequence) -> None:
    names = [path.name for path in media_files(pairs)]
    assert names[:4] == ["flow_x_00001.png", "flow_y_00001.png", "flow_x_00002.png", "flow_y_00002.png"]
    assert len(names) == 8 and set(media_files(frames)) == set(frames.folder.iterdir())
    video = frames.folder / "img_00001.png"
    assert list(media_files(video)) == [video]


def test_reader_is_told_as_it_is(frames: ImageSequence) -> None:
    assert frames_reader(dataset(record(frames)), "decord") == {"name": "opencv", "version": cv2.__version__}
    mixed = Record("w", {"frames": frames.folder / "w.mp4"}, {"label": 1})
    assert frames_reader(dataset(record(frames), mixed), "pyav")["name"] == "pyav"


# ------------------------------------------------------------------------------------------------ samples


FRAMES = Modality(name="rgb", source="frames", item_channels=3, window=1, mean=[0.5], std=[0.25])
FLOW = Modality(name="flow", source="flow", item_channels=2, window=2, mean=[0.5], std=[0.25], flip="mirror_negate_x")


def samples(one: Record, cache: FlowCache | None, **options: object) -> ClipDataset:
    """The validation sample of one record: two segments."""
    fields = {"starts": ValTemporalSampler(num_segments=2, policy="fixed", mode="uniform", dense_length=4)}
    geometry = FixedCrops(Geometry(16, 20, 1))
    opener = SourceOpener("decord", cache)
    heads = {"label": Head(("a", "b"))}
    return ClipDataset([one], [FRAMES, FLOW], heads, opener, geometries=geometry, seed=0, replace=False, **fields)  # type: ignore[arg-type]


def test_flow_images_are_used_and_no_cache_is_made(frames: ImageSequence, pairs: ImageSequence, tmp_path: Path) -> None:
    cache = FlowCache(tmp_path / "cache", FlowSettings(preset="ultrafast"))
    one = record(frames, flow=pairs)
    with_cache, without = samples(one, cache)[0, 0], samples(one, None)[0, 0]
    assert with_cache["clips"]["rgb"].shape == (1, 2, 3, 16, 16)
    assert with_cache["clips"]["flow"].shape == (1, 2, 4, 16, 16)
    assert all((with_cache["clips"][m] == without["clips"][m]).all() for m in ("rgb", "flow"))
    assert cache.missing([one]) == [] and not (tmp_path / "cache").exists()


def test_flow_is_computed_from_images_where_there_is_none(tmp_path: Path) -> None:
    cache = FlowCache(tmp_path / "cache", FlowSettings(preset="ultrafast"))
    folder = write_frames(tmp_path / "v", RGB, moving(4, 3, -2))
    one = record(ImageSequence(folder, RGB, 4))
    assert cache.missing([one]) == [one]
    flow = cache.load(one)
    assert flow.shape == (3, 80, 96, 2) and cache.missing([one]) == []
    assert cache.path(record(ImageSequence(folder, RGB, 3))) != cache.path(one)
    other = write_frames(tmp_path / "w" / "v", RGB, moving(4, -3, 2))
    assert cache.path(record(ImageSequence(other, RGB, 4))) != cache.path(one)


def test_lost_images_do_not_stop_the_flow_of_others(frames: ImageSequence, tmp_path: Path) -> None:
    cache = FlowCache(tmp_path / "cache", FlowSettings(algorithm="dis", preset="ultrafast"))
    (frames.folder / "img_00005.png").unlink()
    good = record(replace(frames, folder=write_frames(tmp_path / "w", RGB, noise(5, 3))))
    assert cache.missing([record(frames), good]) == [good]
    with pytest.raises(DecodeError, match=r"img_00005\.png"):
        cache.load(record(frames))


def test_a_lost_image_fails_the_sample_by_name(frames: ImageSequence, pairs: ImageSequence) -> None:
    for number in (2, 3, 4):
        (pairs.folder / f"flow_x_{number:05d}.png").unlink()
    sample = samples(record(frames, flow=pairs), None)[0, 0]
    assert "clips" not in sample
    assert "flow_x_0000" in sample["failures"][0][1] and "no such image" in sample["failures"][0][1]


# ------------------------------------------------------------------------------------------------ real files


@pytest.mark.real
def test_real_frames_agree_with_opencv() -> None:
    folder = real("clips/rawframes_demo/demo_dataset/jumping/0001")
    images = ImageSequence(folder, "img_{:05d}.jpg", len(list(folder.iterdir())))
    with open_media(images) as reader:
        expected = cv2.cvtColor(cv2.imread(str(folder / "img_00007.jpg")), cv2.COLOR_BGR2RGB)
        assert np.array_equal(reader.frames([6])[0], expected)


@pytest.mark.real
def test_real_flow_pairs() -> None:
    images = ImageSequence(real("clips/mmaction2/imgs"), "{axis}_{:05d}.jpg", 5, layout="flow_pair")
    pixels = ImageReader(images).frames(range(5))
    assert pixels.shape[-1] == 2 and abs(float(np.median(pixels)) - 128) < 3  # most of a scene stands still
