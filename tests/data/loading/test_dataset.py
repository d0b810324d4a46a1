"""Samples: which frames they show, that modalities agree, that nothing but (seed, epoch, record) matters."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_lightning.data.flow.cache import FlowCache, FlowSettings
from mml_lightning.data.loading.dataset import ATTEMPTS, ClipDataset, collate, keyed_generator
from mml_lightning.data.loading.draws import (
    FixedCrops,
    RandomCrop,
    TrainTemporalSampler,
    ValTemporalSampler,
    ViewsTemporalSampler,
)
from mml_lightning.data.loading.sources import SOURCES, SourceOpener
from mml_lightning.data.records.records import Head, Record
from mml_lightning.modalities import Modality
from mml_lightning.sampling import train_starts
from mml_lightning.transforms import Crop, TrainGeometry
from mml_lightning.transforms import TestGeometry as FixedGeometry
from mml_lightning.utils.errors import UserError
from tests.data.videos import FPS, counted, damaged, numbers, record, texture, write_video

RGB = Modality("rgb", "frames", 1, 3)
FLOW = Modality("flow", "flow", 5, 2, flip="mirror_negate_x")
RGBDIFF = Modality("rgbdiff", "frames", 6, 3, prepare="difference")
ALL = (RGB, FLOW, RGBDIFF)
SETTINGS = FlowSettings(preset="ultrafast")
PAIRS = (np.arange(23) * 9 + 20).astype(np.uint8)  # x of the stand-in flow says which pair it is
TRAIN = TrainTemporalSampler(4, "uniform", 8, "fixed")
CROP = RandomCrop(TrainGeometry(32, (1.0, 0.75), 0.0))
CENTRE = FixedCrops(FixedGeometry(32, 40, 1))


@pytest.fixture(scope="session")
def cache(videos: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> FlowCache:
    """Flow of the counted videos is replaced by numbers: x names the pair, y is 7 everywhere."""
    made = FlowCache(tmp_path_factory.mktemp("flow"), SETTINGS)
    made.folder.mkdir()
    for name in ("vp9", "h264"):
        flow = np.full((23, 48, 64, 2), 7, dtype=np.uint8)
        flow[..., 0] = PAIRS[:, None, None]
        np.save(made.path(record(videos[name])), flow)
    return made


def build(records: Sequence[Record], cache: FlowCache | None = None, **changes: Any) -> ClipDataset:
    fields: dict[str, Any] = {
        "records": records,
        "modalities": ALL if cache else (RGB, RGBDIFF),
        "heads": {"label": Head(("a", "b", "c", "d"))},
        "opener": SourceOpener("decord", cache),
        "starts": TRAIN,
        "geometries": CROP,
        "seed": 0,
        "replace": True,
    }
    return ClipDataset(**(fields | changes))


def items(clip: torch.Tensor, modality: Modality) -> np.ndarray:
    """Source items that a clip of the counted videos shows, [V, T, L]."""
    windows = clip.unflatten(2, (modality.window, modality.item_channels))
    if modality.source == "flow":
        return np.searchsorted(PAIRS, windows[:, :, :, 0].float().mean(dim=(-1, -2)).numpy())
    return numbers(windows, (-1, -2, -3))


@dataclass
class Memory:
    """A source that lies in memory."""

    pixels: np.ndarray
    fps: float = 10.0

    @property
    def count(self) -> int:
        return len(self.pixels)

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[2], self.pixels.shape[1]

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return self.pixels[np.asarray(indices)]


@dataclass
class MemoryOpener:
    sources: Mapping[str, Any]
    kinds = SOURCES

    @contextmanager
    def open(self, record: Record, names: Sequence[str], skip_absent: bool = False) -> Iterator[Mapping[str, Any]]:
        yield {name: self.sources[name] for name in names}


# ------------------------------------------------------------------------------------------------ which frames


@pytest.mark.parametrize("codec", ["vp9", "h264"])
@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize("mode", ["uniform", "dense", "random"])
def test_all_modalities_show_the_same_frames(
    videos: dict[str, Path], cache: FlowCache, codec: str, decoder: str, mode: Any
) -> None:
    data = build([record(videos[codec], 2)], cache, starts=TrainTemporalSampler(4, mode, 8, "fixed"))
    data.opener = SourceOpener(decoder, cache)
    for epoch in range(4):
        sample = data[epoch, 0]
        shown = {m.name: items(sample["clips"][m.name], m) for m in ALL}
        frame = shown["rgb"][..., 0]
        assert frame.shape == (1, 4) and (np.diff(frame) >= 0).all()
        for modality in ALL:
            window = shown[modality.name]
            assert np.array_equal(window, window[..., :1] + np.arange(modality.window)), "consecutive"
            last = window[..., -1] + (modality.source == "flow")  # flow pair i is (frame i, frame i + 1)
            assert (window[..., 0] <= frame).all() and (frame <= last).all()
        alone = build([record(videos[codec], 2)], modalities=(RGB,), starts=TrainTemporalSampler(4, mode, 8, "fixed"))
        alone.opener = SourceOpener(decoder)
        assert torch.equal(alone[epoch, 0]["clips"]["rgb"], sample["clips"]["rgb"]), "whatever stands beside it"
        assert sample["failures"] == [] and sample["id"] == codec and sample["index"] == 0
        assert sample["target"] == {"label": torch.tensor(2)} and all(sample["present"].values())


def test_shapes_types_and_order_of_views(videos: dict[str, Path], cache: FlowCache) -> None:
    views = ViewsTemporalSampler(3, uniform=2, dense=1, dense_length=6, policy="fixed")
    data = build([record(videos["vp9"])], cache, starts=views, geometries=FixedCrops(FixedGeometry(40, 40, 3)))
    clips = data[0, 0]["clips"]
    assert {m: tuple(c.shape) for m, c in clips.items()} == {
        "rgb": (9, 3, 3, 40, 40),
        "flow": (9, 3, 10, 40, 40),
        "rgbdiff": (9, 3, 18, 40, 40),
    }
    assert all(clip.dtype == torch.uint8 for clip in clips.values())
    shown = items(clips["rgb"], RGB)[..., 0]
    assert np.array_equal(shown[:3], shown[3:6]) and np.array_equal(shown[:3], shown[6:])  # crop by crop
    assert len({tuple(row) for row in shown[:3]}) == 3


def test_short_videos_repeat_their_last_items(tmp_path: Path) -> None:
    data = build([record(write_video(tmp_path / "short.mp4", counted(3)))], modalities=(RGBDIFF,))
    shown = items(data[0, 0]["clips"]["rgbdiff"], RGBDIFF)
    assert shown.tolist() == [[[0, 1, 2, 2, 2, 2]] * 4]


@given(st.integers(0, 12), st.integers(1, 12), st.floats(0.0, 0.3))
@settings(deadline=None, max_examples=20, derandomize=True)
def test_span_bounds_what_is_shown(
    videos: dict[str, Path], cache: FlowCache, first: int, length: int, margin: float
) -> None:
    span = (first / FPS, (first + length) / FPS)
    data = build(
        [record(videos["vp9"], span=span)],
        cache,
        span_margin=margin,
        starts=TrainTemporalSampler(4, "uniform", 8, "fixed"),
    )
    low = max(0, round((span[0] - margin) * FPS))
    high = min(23, round((span[1] + margin) * FPS))
    for epoch in range(2):
        clips = data[epoch, 0]["clips"]
        for modality in ALL:
            shown = items(clips[modality.name], modality)
            # the last pair starts one frame before the last frame, so flow does not look out of the span either
            assert low <= shown.min() and shown.max() <= (max(low, high - 1) if modality is FLOW else high)


def test_flow_alone_takes_the_clock_of_the_frames(videos: dict[str, Path], cache: FlowCache) -> None:
    data = build([record(videos["vp9"], span=(1.0, 1.5))], cache, modalities=(FLOW,))
    sample = data[0, 0]
    assert set(sample["clips"]) == {"flow"} and items(sample["clips"]["flow"], FLOW).min() >= 12


def test_span_behind_the_end_is_an_error(videos: dict[str, Path]) -> None:
    data = build([record(videos["vp9"], span=(5.0, 6.0))], replace=False)
    assert "the span starts at 5 s, the video ends at 2.00 s" in data[0, 0]["failures"][0][1]


def test_each_modality_may_have_its_own_draw(videos: dict[str, Path], cache: FlowCache) -> None:
    shared, own = (build([record(videos["vp9"])], cache, shared=value) for value in (True, False))
    firsts = [items(own[e, 0]["clips"][m.name], m)[..., 0].tolist() for e in range(3) for m in ALL]
    assert len({str(f) for f in firsts}) > 3  # three epochs, more than one draw in some
    assert not np.array_equal(own[0, 0]["clips"]["rgb"], shared[0, 0]["clips"]["rgb"])
    alone = build([record(videos["vp9"])], modalities=(RGB,), shared=False)
    assert torch.equal(alone[1, 0]["clips"]["rgb"], own[1, 0]["clips"]["rgb"])  # whatever stands beside it


def test_paper_and_code_policies_run(videos: dict[str, Path], cache: FlowCache) -> None:
    for policy in ("code", "paper"):
        data = build([record(videos["vp9"])], cache, starts=TrainTemporalSampler(4, "random", 8, policy))
        assert items(data[0, 0]["clips"]["flow"], FLOW).shape == (1, 4, 5)


def test_video_that_the_published_program_rejects_is_reported(tmp_path: Path) -> None:
    path = write_video(tmp_path / "five.mp4", counted(5))
    starts = TrainTemporalSampler(4, "uniform", 8, "code")
    data = build([record(path)], modalities=(RGBDIFF,), starts=starts, replace=False)
    assert "policy='code' cannot draw windows of 6 from 5 items" in data[0, 0]["failures"][0][1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrainTemporalSampler(0, "uniform", 8, "fixed"),
        lambda: TrainTemporalSampler(4, "sometimes", 8, "fixed"),  # type: ignore[arg-type]
        lambda: TrainTemporalSampler(4, "dense", 0, "fixed"),
        lambda: ValTemporalSampler(4, "uniform", 8, "best"),  # type: ignore[arg-type]
        lambda: ViewsTemporalSampler(4, 0, 0, 8, "fixed"),
        lambda: ViewsTemporalSampler(4, 3, 0, 8, "code"),
    ],
)
def test_wrong_draws_fail_when_they_are_made(make: Any) -> None:
    with pytest.raises(ValueError):
        make()


VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "mml_channel_order.json").read_text())["cases"]
BY_NAME = {
    "RGB": replace(RGB, name="RGB"),
    "Flow": replace(FLOW, name="Flow"),
    "RGBDiff": replace(RGBDIFF, name="RGBDiff"),
}


@pytest.mark.parametrize("case", [c for c in VECTORS if len(set(c["modalities"])) == len(c["modalities"])], ids=str)
def test_channels_stand_in_the_published_order(case: dict[str, Any]) -> None:
    numbered = np.arange(1, 13, dtype=np.uint8)  # the published program counts frames from 1
    frames = np.stack([numbered, numbered + 50, numbered + 100], axis=-1)[:, None, None].repeat(2, 1).repeat(2, 2)
    flow = np.stack([numbered[:11], numbered[:11] + 100], axis=-1)[:, None, None].repeat(2, 1).repeat(2, 2)

    def starts(counts: Any, windows: Any, rng: Any) -> dict[str, np.ndarray]:
        draw = np.random.RandomState(case["seed"])
        drawn = train_starts(counts, windows, num_segments=case["N"], mode="uniform", policy="code", rng=draw)
        return {name: value[None] for name, value in drawn.items()}

    chosen = [BY_NAME[name] for name in case["modalities"]]
    data = build(
        [record(Path("memory"))],
        modalities=chosen,
        opener=MemoryOpener({"frames": Memory(frames), "flow": Memory(flow)}),
        starts=starts,
        geometries=lambda width, height, rng: [Crop(0, 0, width, height, (width, height), (width, height))],
    )
    clips = data[0, 0]["clips"]
    stacked = torch.cat([clips[m.name][0] for m in chosen], dim=1)  # [T, C of all modalities, H, W]
    assert stacked[..., 0, 0].flatten().tolist() == case["channel_values"]


# ------------------------------------------------------------------------------------------------ geometry


def test_one_crop_for_all_modalities(tmp_path: Path) -> None:
    path = write_video(tmp_path / "still.mp4", [texture(64, 48)] * 8)
    cache = FlowCache(tmp_path / "flow", SETTINGS)
    cache.folder.mkdir(parents=True)
    grey = texture(64, 48)[..., :1]
    np.save(cache.path(record(path)), np.broadcast_to(np.concatenate([grey, grey], -1), (7, 48, 64, 2)))
    data = build([record(path)], cache, geometries=RandomCrop(TrainGeometry(24, (0.75, 0.5), 0.0)))
    for epoch in range(3):
        clips = data[epoch, 0]["clips"]
        assert torch.equal(clips["rgb"].repeat(1, 1, 6, 1, 1), clips["rgbdiff"])
        apart = clips["rgb"][:, :, 1].int() - clips["flow"][:, :, 0].int()
        assert apart.abs().float().mean() < 6  # the picture lies in the same place of frames and flow


def test_flip_mirrors_all_inverts_x_and_maps_labels(videos: dict[str, Path], cache: FlowCache) -> None:
    geometry = TrainGeometry(32, (1.0,), 0.0)
    crops = {flip: RandomCrop(replace(geometry, flip=flip)) for flip in (0.0, 1.0)}
    mirrored = {"label": {0: 1, 1: 0}}
    video = record(videos["moving"])
    heads = {"label": Head(("left", "right", "up")), "tags": Head(("left", "right", "up"), multi_label=True)}
    for label, tags, label_after, tags_after in ((0, (0, 2), 1, [0, 1, 1]), (2, (), 2, [0, 0, 0])):
        target = {"label": label, "tags": tags}
        pair = [
            build(
                [replace(video, target=target)],
                FlowCache(cache.folder.parent, SETTINGS),
                geometries=crops[flip],
                heads=heads,
                mirrored=mirrored | {"tags": {0: 1, 1: 0}},
            )[0, 0]
            for flip in (0.0, 1.0)
        ]
        plain, flipped = pair
        # the flip is drawn last, so box and place are those of the plain sample
        assert torch.equal(flipped["clips"]["rgb"], plain["clips"]["rgb"].flip(-1))
        assert torch.equal(flipped["clips"]["rgbdiff"], plain["clips"]["rgbdiff"].flip(-1))
        expected = plain["clips"]["flow"].flip(-1).clone()
        expected[:, :, 0::2] = 255 - expected[:, :, 0::2]
        assert torch.equal(flipped["clips"]["flow"], expected)
        assert plain["target"]["label"] == label and flipped["target"]["label"] == label_after
        assert flipped["target"]["tags"].tolist() == tags_after


def test_mirrored_test_views_keep_their_label(videos: dict[str, Path]) -> None:
    data = build(
        [record(videos["vp9"], 0)], geometries=FixedCrops(FixedGeometry(32, 40, 10)), mirrored={"label": {0: 1, 1: 0}}
    )
    assert data[0, 0]["target"]["label"] == 0


# ------------------------------------------------------------------------------------------------ randomness


def test_sample_is_a_function_of_seed_epoch_and_record(videos: dict[str, Path], cache: FlowCache) -> None:
    records = [record(videos["vp9"]), record(videos["h264"])]
    first, again, swapped = build(records, cache), build(records, cache), build(records[::-1], cache)
    again[3, 0]  # what was asked before does not matter
    for name, clip in first[1, 0]["clips"].items():
        assert torch.equal(again[1, 0]["clips"][name], clip)
        assert torch.equal(swapped[1, 1]["clips"][name], clip)
    shown = {str(items(first[epoch, 0]["clips"]["rgb"], RGB)) for epoch in range(6)}
    assert len(shown) > 3
    other = build(records, cache, seed=1)
    assert any(not torch.equal(other[e, 0]["clips"]["rgb"], first[e, 0]["clips"]["rgb"]) for e in range(3))


def test_keyed_generators_are_golden_and_separate() -> None:
    keys = [(s, e, r, p) for s in (0, 1) for e in (0, 1) for r in ("a", "b") for p in ("time", "geometry")]
    drawn = {key: keyed_generator(*key).integers(2**62) for key in keys}
    assert len(set(drawn.values())) == len(keys)
    assert drawn[0, 0, "a", "time"] == keyed_generator(0, 0, "a", "time").integers(2**62)


def test_evaluation_does_not_depend_on_the_epoch(videos: dict[str, Path]) -> None:
    data = build(
        [record(videos["vp9"])], starts=ValTemporalSampler(4, "uniform", 8, "fixed"), geometries=CENTRE, replace=False
    )
    assert torch.equal(data[0, 0]["clips"]["rgb"], data[7, 0]["clips"]["rgb"])


# ------------------------------------------------------------------------------------------------ unreadable videos


@pytest.fixture
def broken(videos: dict[str, Path], tmp_path: Path) -> list[Record]:
    """Records 0 and 2 can't be read."""
    bad = damaged("zeros", videos["vp9"], tmp_path / "bad.webm")
    return [record(bad, 0), record(videos["vp9"], 1), record(tmp_path / "gone.webm", 2), record(videos["h264"], 3)]


def test_training_replaces_by_one_whole_record(broken: list[Record], cache: FlowCache) -> None:
    data = build(broken, cache)
    for epoch in range(6):
        for index in (0, 2):
            sample = data[epoch, index]
            taken = sample["index"]
            assert taken in (1, 3) and sample["id"] == broken[taken].id
            assert sample["target"]["label"] == broken[taken].target["label"]
            whole = data[epoch, taken]["clips"]  # the very sample of the record that stands in
            assert all(torch.equal(sample["clips"][name], whole[name]) for name in whole)
            assert sample["failures"][0][0] == broken[index].id
    picked = {data[epoch, 0]["index"] for epoch in range(12)}
    assert picked == {1, 3}
    assert data[4, 0]["index"] == build(broken, cache)[4, 0]["index"]


def test_evaluation_reports_and_does_not_replace(broken: list[Record]) -> None:
    sample = build(broken, replace=False)[0, 2]
    assert set(sample) == {"index", "failures"} and sample["index"] == 2
    assert sample["failures"] == [("gone", f"{broken[2].media['frames']}: no such file")]


def test_training_gives_up_when_nothing_can_be_read(tmp_path: Path) -> None:
    data = build([record(tmp_path / f"{i}.mp4") for i in range(ATTEMPTS + 5)])
    sample = data[0, 3]
    assert "clips" not in sample and len({video for video, _ in sample["failures"]}) == ATTEMPTS


def test_mistakes_in_code_are_not_unreadable_videos(videos: dict[str, Path]) -> None:
    def wrong(*args: object) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        build([record(videos["vp9"])], geometries=wrong)[0, 0]


# ------------------------------------------------------------------------------------------------ presence mask


@pytest.mark.parametrize("train", [True, False])
def test_mask_admits_videos_without_flow(videos: dict[str, Path], cache: FlowCache, train: bool) -> None:
    data = build([record(videos["single"], 3), record(videos["vp9"], 1)], cache, missing="mask", replace=train)
    sample, whole = data[0, 0], data[0, 1]
    assert sample["present"] == {"rgb": True, "flow": False, "rgbdiff": True} and sample["failures"] == []
    assert sample["target"]["label"] == 3 and sample["id"] == "single"
    assert sample["clips"]["flow"].shape == whole["clips"]["flow"].shape
    assert sample["clips"]["flow"].dtype == torch.uint8 and not sample["clips"]["flow"].any()
    assert items(sample["clips"]["rgb"], RGB).tolist() == [[[0]] * 4]
    batch = collate([sample, whole], data.kinds)
    assert batch["present"]["flow"].tolist() == [False, True] and batch["present"]["rgb"].all()


def test_without_mask_they_are_replaced_or_reported(videos: dict[str, Path], cache: FlowCache) -> None:
    records = [record(videos["single"], 3), record(videos["vp9"], 1)]
    assert build(records, cache)[0, 0]["index"] == 1
    assert "it has one frame and flow needs two" in build(records, cache, replace=False)[0, 0]["failures"][0][1]


def test_mask_is_no_excuse_for_unreadable_videos(
    broken: list[Record], videos: dict[str, Path], cache: FlowCache
) -> None:
    assert "clips" not in build(broken, cache, missing="mask", replace=False)[0, 0]
    alone = build([record(videos["single"])], cache, modalities=(FLOW,), missing="mask", replace=False)
    assert "flow needs two" in alone[0, 0]["failures"][0][1]  # nothing is left to look at


def test_unknown_answer_to_missing(videos: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"data\.missing='skip' is unknown; use one of \['error', 'mask'\]"):
        build([record(videos["vp9"])], missing="skip")


# ------------------------------------------------------------------------------------------------ collate


def test_batch_shapes(videos: dict[str, Path], cache: FlowCache) -> None:
    data = build([record(videos["vp9"], 1), record(videos["h264"], 2)], cache)
    batch = collate([data[0, 0], data[0, 1]], data.kinds)
    assert {m: tuple(c.shape) for m, c in batch["clips"].items()} == {
        "rgb": (2, 1, 4, 3, 32, 32),
        "flow": (2, 1, 4, 10, 32, 32),
        "rgbdiff": (2, 1, 4, 18, 32, 32),
    }
    assert batch["index"].tolist() == [0, 1] and batch["target"]["label"].tolist() == [1, 2]
    assert batch["id"] == ["vp9", "h264"] and batch["failures"] == []


def test_batch_with_unreadable_videos_is_shorter_or_empty(broken: list[Record]) -> None:
    data = build(broken, replace=False)
    batch = collate([data[0, i] for i in range(4)], data.kinds)
    assert batch["index"].tolist() == [1, 3] and batch["clips"]["rgb"].shape[0] == 2
    assert [video for video, _ in batch["failures"]] == ["bad", "gone"]
    empty = collate([data[0, 0], data[0, 2]], data.kinds)
    assert empty["index"].shape == (0,) and empty["index"].dtype == torch.int64 and empty["id"] == []
    assert "clips" not in empty and len(empty["failures"]) == 2


def test_geometry_draw_does_not_share_state_with_the_module_random(videos: dict[str, Path]) -> None:
    random.seed(0)
    state = random.getstate()
    torch_state = torch.random.get_rng_state()
    build([record(videos["vp9"])])[0, 0]
    assert random.getstate() == state and torch.equal(torch.random.get_rng_state(), torch_state)
