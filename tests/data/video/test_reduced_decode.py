"""JPEG frames decoded at a fraction of their size: no crop is enlarged for it, and by default nothing changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning.config import data as config_data
from mml_lightning.config.settings import Settings
from mml_lightning.config.values import check_values
from mml_lightning.data.loading.images import fitted
from mml_lightning.data.records.readers import read_frame_lists
from mml_lightning.data.video.decode import DecodeError
from mml_lightning.data.video.images import ImageReader, ReducibleReader, open_media
from mml_lightning.data.video.jpeg import jpeg_size
from mml_lightning.data.video.media import ImageSequence
from mml_lightning.runs.fingerprint import config_that_decides_weights, evaluation
from mml_lightning.training.datamodule import VideoData
from mml_lightning.transforms import Crop, JitterGeometry, TrainGeometry, reduced_size, reduction
from mml_lightning.transforms import TestGeometry as Geometry  # not a test
from mml_lightning.utils.errors import UserError
from tests.data.images import noise, write_frames

TEMPLATE = "img_{:05d}.jpg"
WHOLE = (203, 121)  # not a whole number of blocks


def smooth(count: int, width: int, height: int) -> np.ndarray:
    """uint8 [count, height, width, 3], as a photograph is: neighbours are much alike."""
    coarse = noise(count, 3, width // 16 + 2, height // 16 + 2)
    return np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC) for one in coarse])


@pytest.fixture
def images(tmp_path: Path) -> ImageSequence:
    return ImageSequence(write_frames(tmp_path / "v", TEMPLATE, smooth(5, *WHOLE)), TEMPLATE, 5, fps=10.0)


# ------------------------------------------------------------------------------------------------ by how much


@pytest.mark.parametrize(
    ("size", "output", "scale", "factor"),
    [
        ((1280, 720), 224, 1.0, 2),
        ((1280, 720), 112, 1.0, 4),
        ((1280, 720), 112, 0.66, 4),
        ((1280, 720), 64, 1.0, 8),
        ((1280, 720), 224, 0.5, 1),  # 360 pixels
        ((448, 448), 224, 1.0, 2),  # what is left is as large as asked for
        ((447, 447), 224, 1.0, 2),  # half of it is rounded up
        ((446, 446), 224, 1.0, 1),
        ((200, 200), 224, 1.0, 1),  # enlarged as it is
    ],
)
def test_factors_of_boxes(size: tuple[int, int], output: int, scale: float, factor: int) -> None:
    side = int(scale * min(size))
    crop = Crop(size[0] - side, 0, side, side, size, (output, output))
    assert reduction([crop], *size) == factor
    assert reduction([crop, replace(crop, output=(side, side))], *size) == 1, "the neediest crop decides"
    assert reduction([replace(crop, antialias=False)], *size) == 1


def test_factors_of_views() -> None:
    assert reduction(Geometry(224, 256, 3).views(1280, 720), 1280, 720) == 2
    assert reduction(Geometry(224, 256, 3).views(1280, 512), 1280, 512) == 2
    assert reduction(Geometry(224, 256, 3).views(1280, 511), 1280, 511) == 1
    assert reduction(Geometry(64, 72, 1).views(1280, 720), 1280, 720) == 8
    assert reduction(Geometry(224, 256, 3, antialias=False).views(1280, 720), 1280, 720) == 1


@given(
    size=st.tuples(st.integers(16, 2000), st.integers(16, 2000)),
    output=st.integers(8, 300),
    seed=st.integers(0, 999),
    kind=st.sampled_from(["boxes", "jitter", "views"]),
)
def test_no_crop_is_enlarged_that_was_not(size: tuple[int, int], output: int, seed: int, kind: str) -> None:
    if kind == "views":
        crops = Geometry(output, output + seed % 40, 3).views(*size)
    elif kind == "jitter":
        jitter = JitterGeometry(output, (output + 8, output + 80), antialias=True)
        crops = [jitter.draw(*size, random.Random(seed))]
    else:
        crops = [TrainGeometry(output=output).draw(*size, random.Random(seed))]
    factor = reduction(crops, *size)
    whole, reduced = ([shrinks(crop, frame) for crop in crops] for frame in (size, reduced_size(*size, factor)))
    assert factor == 1 or (all(whole) and all(reduced))
    if factor < 8 and all(whole):
        assert not all(shrinks(crop, reduced_size(*size, 2 * factor)) for crop in crops), "it is the largest one"


def shrinks(crop: Crop, frame: tuple[int, int]) -> bool:
    """Whether no side grows on the way from a frame of that size to the result."""
    here = crop.scaled_to(*frame)
    steps = [((here.width, here.height), here.output)] if here.resize is None else [(frame, here.resize)]
    return all(before[0] >= after[0] and before[1] >= after[1] for before, after in steps)


# ------------------------------------------------------------------------------------------------ pixels


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_reduced_frames_are_means_of_blocks(images: ImageSequence, factor: int) -> None:
    with open_media(images, reducible=True) as reader:
        assert isinstance(reader, ReducibleReader)
        part = reader.reduced(factor)
        assert (reader.size, part.size) == (WHOLE, reduced_size(*WHOLE, factor))
        whole, small = reader.frames([3, 1]), part.frames([3, 1])
    assert small.shape == (2, *part.size[::-1], 3)
    high, wide = (side // factor for side in WHOLE[::-1])  # whole blocks
    blocks = whole[:, : high * factor, : wide * factor].reshape(2, high, factor, wide, factor, 3).mean((2, 4))
    difference = np.abs(small[:, :high, :wide] - blocks)
    assert difference.mean() < 1.5 and difference.max() < 24


def test_golden_block(tmp_path: Path) -> None:
    """Of a block of one colour every reduction is that colour: 16 x 16 pixels, left half dark, right half light."""
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, :16], image[:, 16:] = 50, 200
    images = ImageSequence(write_frames(tmp_path, TEMPLATE, [image]), TEMPLATE, 1)
    for factor in (2, 4, 8):
        pixels = ReducibleReader(images, (32, 16), factor).frames([0])[0]
        assert pixels.shape == (16 // factor, 32 // factor, 3)
        assert np.unique(pixels[:, : 16 // factor]).tolist() == [50]
        assert np.unique(pixels[:, 16 // factor :]).tolist() == [200]


def test_whole_frames_are_what_they_were(images: ImageSequence) -> None:
    with open_media(images) as plain, open_media(images, reducible=True) as reducible:
        assert type(plain) is ImageReader and not hasattr(plain, "reduced")
        assert np.array_equal(plain.frames(range(5)), reducible.frames(range(5)))
        large = Crop(0, 0, *WHOLE, WHOLE, WHOLE)
        assert fitted(plain, [large]) is plain and fitted(reducible, [large]).size == WHOLE
        small = replace(large, output=(24, 14))
        assert fitted(plain, [small]) is plain and fitted(reducible, [small]).size == reduced_size(*WHOLE, 8)


def test_what_is_no_jpeg_file_is_decoded_whole(tmp_path: Path) -> None:
    png = ImageSequence(write_frames(tmp_path, "{:05d}.png", noise(2, 3)), "{:05d}.png", 2)
    flow = ImageSequence(write_frames(tmp_path / "f", TEMPLATE, noise(2, 3)), TEMPLATE, 2, layout="flow_packed")
    for images in (png, flow):
        with open_media(images, reducible=True) as reader:
            assert not hasattr(reader, "reduced")


def test_damage_is_named(images: ImageSequence) -> None:
    with open_media(images, reducible=True) as reader:
        write_frames(images.folder, TEMPLATE, smooth(1, 64, 48), first=2)
        with pytest.raises(DecodeError, match=r"img_00002\.jpg: it is 32x24, the first is 102x61"):
            reader.reduced(2).frames([1])  # type: ignore[attr-defined]
        path = images.paths(0)[0]
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(DecodeError, match=r"img_00001\.jpg: it is not a readable image"):
            reader.reduced(2).frames([0])  # type: ignore[attr-defined]
        path.unlink()
    with pytest.raises(DecodeError, match=r"img_00001\.jpg: no such image"), open_media(images, reducible=True):
        pass


@given(cut=st.integers(0, 700))
def test_sizes_of_headers(cut: int) -> None:
    for options in ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 3]):
        content = bytes(cv2.imencode(".jpg", smooth(1, *WHOLE)[0], options)[1])
        assert jpeg_size(content) == WHOLE and jpeg_size(content[:cut]) in (WHOLE, None)
    assert jpeg_size(b"\x89PNG" + content) is None


# ------------------------------------------------------------------------------------------------ runs


def test_samples_do_not_depend_on_workers(composed: Callable[..., tuple[Settings, list[str]]], tmp_path: Path) -> None:
    lines = []
    for number in range(6):
        write_frames(tmp_path / "images" / f"v{number}", TEMPLATE, smooth(4, 200 + 8 * number, 120 + 16 * number))
        lines.append(f"v{number} 4 {number % 2}\n")
    for split, part in (("train", lines[:4]), ("val", lines[4:])):
        (tmp_path / f"{split}.txt").write_text("".join(part))
    sources = {"frames": {"folder": "images", "template": TEMPLATE, "train": "train.txt", "val": "val.txt"}}
    data = read_frame_lists("mine", str(tmp_path), sources)

    def batches(wish: str, workers: int) -> list[torch.Tensor]:
        words = [f"transforms.reduced_decode={wish}", f"data.workers={workers}", "data.cache=none", "data.batch_size=2"]
        cfg, _ = composed(*words, "transforms.output=32", "transforms.short_side=36", "modality=[rgb,rgbdiff]")
        sets = config_data.clip_datasets(cfg, data, None, list(config_data.modalities(cfg).values()))
        loaders = VideoData(sets, config_data.loader_settings(cfg))
        return [
            b["clips"][m]
            for load in (loaders.train_dataloader, loaders.val_dataloader)
            for b in load()
            for m in b["clips"]
        ]

    alone = batches("auto", 0)
    for workers in (1, 2):
        assert all(torch.equal(one, other) for one, other in zip(alone, batches("auto", workers), strict=True))
    whole = batches("never", 0)
    differ = [(one.float() - other.float()).abs().mean().item() for one, other in zip(alone, whole, strict=True)]
    *trained, _, last = differ
    assert 0 < last < 2, "views resize whole frames"
    assert min(trained) > 0 and max(trained) < 10, "edges of boxes fall on whole pixels"


def test_it_is_part_of_what_a_run_is(composed: Callable[..., tuple[Settings, list[str]]]) -> None:
    from mml_lightning.config.resolvers import register

    register()
    never, auto = (composed(f"transforms.reduced_decode={wish}")[0] for wish in ("never", "auto"))
    assert evaluation(never) != evaluation(auto) and "reduced_decode" not in evaluation(never)["frames"]
    assert config_that_decides_weights(never.plain()) != config_that_decides_weights(auto.plain())


def test_mistakes_name_the_fix(composed: Callable[..., tuple[Settings, list[str]]]) -> None:
    data = config_data.dataset(composed()[0])
    for words, message in (
        (["transforms.reduced_decode=half"], r"reduced_decode='half' is unknown; use one of \['never', 'auto'\]"),
        (
            ["transforms.reduced_decode=auto", "data.cache=ram"],
            "set data.cache=none, or transforms.reduced_decode=never",
        ),
    ):
        cfg, _ = composed(*words)
        with pytest.raises(UserError, match=message):
            check_values(cfg)
            config_data.clip_datasets(cfg, data, None, list(config_data.modalities(cfg).values()))
