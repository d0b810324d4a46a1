"""Time is looked up: parts, timed labels and packs of videos whose frames come at a variable rate."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_lightning.data.check.inspection import inspect, of_record
from mml_lightning.data.flow.cache import FlowCache, FlowSettings
from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.data.loading.draws import FixedCrops
from mml_lightning.data.loading.ram_cache import HeldItems, ram_cache
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.records.clock import clock, frames_of, is_constant, items_of, length, unevenness
from mml_lightning.data.records.readers import read_csv, read_pack
from mml_lightning.data.records.records import Dataset, FrameSpan, Head, Record
from mml_lightning.data.video.decode import DecodeError, even_times
from mml_lightning.data.video.images import open_media
from mml_lightning.data.video.media import ImageSequence, PackedFrames
from mml_lightning.modalities import Modality
from mml_lightning.transforms import TestGeometry as FixedGeometry
from tests.data import pack_of as packs
from tests.data.videos import counted, numbers

RGB = Modality("rgb", "frames", 1, 3)
FLOW = Modality("flow", "flow", 1, 2, flip="mirror_negate_x")
HEADS = {"label": Head(tuple("abcdefgh"), multi_label=True)}
CODECS = {"mp4": "libx264", "webm": "libvpx-vp9", "mkv": "libx264"}
OPTIONS = {
    "libx264": {"preset": "ultrafast", "crf": "12", "g": "4"},
    "libvpx-vp9": {"deadline": "realtime", "crf": "12"},
}
FRAMES = 30


def write(path: Path, milliseconds: list[int], first: int = 0) -> Path:
    """Counted frames that are shown at these times."""
    name = CODECS[path.suffix[1:]]
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(name, rate=25, options=OPTIONS[name])
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 64, 48, "yuv420p", Fraction(1, 1000)
        stream.codec_context.time_base = Fraction(1, 1000)
        for pixels, at in zip(counted(len(milliseconds)), milliseconds, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = first + at, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def seconds_of(path: Path) -> np.ndarray:
    """Times of the frames by PyAV, from the first one on."""
    with av.open(str(path)) as container:
        found = [frame.time for frame in container.decode(video=0)]
    return np.array(found, dtype=np.float64) - (found[0] or 0.0)


def uneven(seed: int) -> list[int]:
    """Steps of 20 to 900 milliseconds, in stretches."""
    rng = np.random.default_rng(seed)
    steps = np.repeat(rng.choice([20, 40, 50, 100, 333, 500, 900], size=6), 5)
    return [0, *np.cumsum(steps[: FRAMES - 1]).tolist()]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("uneven")
    made = {f"{kind}{seed}": write(folder / f"{seed}.{kind}", uneven(seed)) for kind in CODECS for seed in range(2)}
    return made | {"late": write(folder / "late.mkv", uneven(7), first=700)}


def every(counts: Any, windows: Any, rng: Any) -> dict[str, np.ndarray]:
    return {name: np.arange(count)[None] for name, count in counts.items()}


def dataset(record: Record, **changes: Any) -> ClipDataset:
    fields: dict[str, Any] = {
        "records": [record],
        "modalities": (RGB,),
        "heads": HEADS,
        "opener": SourceOpener("decord"),
        "starts": every,
        "geometries": FixedCrops(FixedGeometry(32, 40, 1)),
        "seed": 0,
        "replace": False,
    }
    return ClipDataset(**(fields | changes))


def shown(sample: dict[str, Any]) -> list[int]:
    return numbers(sample["clips"]["rgb"][0], (-1, -2, -3)).tolist()


# ------------------------------------------------------------------------------------------------ parts


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize("name", [*(f"{kind}{seed}" for kind in CODECS for seed in range(2)), "late"])
def test_parts_show_what_is_on_display_in_them(clips: dict[str, Path], name: str, decoder: str) -> None:
    times, rng = seconds_of(clips[name]), np.random.default_rng(1)
    assert len(times) == FRAMES and np.ptp(np.diff(times)) > 0.1
    for _ in range(6):
        start = float(rng.uniform(0, times[-1] - 0.1))
        end = float(rng.uniform(start + 0.05, times[-1] + 1))
        sample = dataset(Record("v", {"frames": clips[name]}, {}, (start, end)), opener=SourceOpener(decoder))[0, 0]
        frames = shown(sample)
        assert frames == list(range(frames[0], frames[-1] + 1))
        # all that begin inside of the part, and the one that is on display as it starts
        inside = np.flatnonzero((times > start) & (times <= end)).tolist()
        assert frames == [*([inside[0] - 1] if inside else [int(np.searchsorted(times, start, "right")) - 1]), *inside]


def test_flow_shows_the_same_part(clips: dict[str, Path], tmp_path: Path) -> None:
    cache = FlowCache(tmp_path, FlowSettings(preset="ultrafast"))
    times = seconds_of(clips["mp40"])
    record = Record("v", {"frames": clips["mp40"]}, {}, (times[5] + 0.001, times[20] + 0.001))
    for opener in (SourceOpener("decord", cache), SourceOpener("decord", cache, ram_cache(2**24))):
        for modalities in ((RGB, FLOW), (FLOW,)):
            sample = dataset(record, modalities=modalities, opener=opener)[0, 0]
            assert sample["failures"] == [] and sample["clips"]["flow"].shape[1] == 15  # pairs of frames 5 to 20
    assert shown(dataset(record, modalities=(RGB, FLOW), opener=opener)[0, 0]) == list(range(5, 21))


def test_parts_behind_the_end(clips: dict[str, Path]) -> None:
    times = seconds_of(clips["mp40"])
    end = 2 * times[-1] - times[-2]  # the last frame lasts as long as the one before
    last = dataset(Record("v", {"frames": clips["mp40"]}, {}, (end - 0.01, end + 5)))
    assert shown(last[0, 0]) == [FRAMES - 1]
    behind = Record("v", {"frames": clips["mp40"]}, {}, (end + 0.01, end + 5))
    (_, said), *_ = dataset(behind)[0, 0]["failures"]
    checked = of_record(inspect(clips["mp40"]), "train", behind, "frames").problem
    for text in (said, checked):
        assert float(text.rpartition(" s")[0].rpartition(" ")[2]) == pytest.approx(end, abs=0.011)


def test_frames_are_exact_at_any_rate(clips: dict[str, Path], tmp_path: Path) -> None:
    text = "path,label,split,start_frame,stop_frame\n" + "".join(
        f"{clips[name]},{n},train,{n + 3},{n + 7}\n" for n, name in enumerate(("mp40", "webm0", "late"))
    )
    (tmp_path / "videos.csv").write_text(text)
    data = read_csv("mine", str(tmp_path / "videos.csv"))
    for record in [*data.splits["train"], *data.splits["val"]]:
        assert isinstance(record.span, FrameSpan)
        sample = dataset(record, span_margin=0.4, heads=data.heads)[0, 0]
        assert shown(sample) == list(range(record.span.first, record.span.first + 5))
    past = Record("v", {"frames": clips["mp40"]}, {}, FrameSpan(FRAMES, FRAMES + 1))
    (_, said), *_ = dataset(past)[0, 0]["failures"]
    assert said.endswith("the part starts at frame 30 (from 0), the video has 30")
    assert of_record(inspect(clips["mp40"]), "train", past, "frames").problem == said


# ------------------------------------------------------------------------------------------------ timed labels


@pytest.mark.parametrize("name", ["mp40", "webm1", "mkv0", "late"])
def test_timed_labels_go_by_the_times_of_frames(clips: dict[str, Path], name: str) -> None:
    times, rng = seconds_of(clips[name]), np.random.default_rng(2)
    actions = tuple((k, *sorted(rng.uniform(0, times[-1], size=2).tolist())) for k in range(8))
    record = Record("v", {"frames": clips[name]}, {"label": ()}, intervals={"label": actions})  # type: ignore[dict-item]
    for first, last in ((0, 29), (3, 9), (12, 12), (20, 28)):

        def starts(counts: Any, windows: Any, rng: Any, ends: tuple[int, int] = (first, last)) -> dict[str, np.ndarray]:
            return {key: np.array([ends]) for key in counts}

        target = dataset(record, starts=starts, clip_labels=True)[0, 0]["target"]["label"]
        on = times[first : last + 1]
        expected = [bool(((on >= start) & (on <= end)).any()) for _, start, end in actions]
        assert target.bool().tolist() == expected


# ------------------------------------------------------------------------------------------------ constant rates


RATES = st.sampled_from([5.0, 12.0, 24.0, 25.0, 29.97, 30.0, 30000 / 1001, 50.0, 60.0, 119.88])


@given(RATES, st.integers(2, 400), st.floats(0, 20), st.floats(0.01, 20), st.sampled_from([0.0, 0.1]), st.booleans())
@settings(max_examples=300)
def test_at_a_constant_rate_nothing_changes(
    rate: float, count: int, start: float, lasts: float, margin: float, rounded: bool
) -> None:
    """Whether containers round times to milliseconds or not, parts are what the rate alone gives."""
    times = np.arange(count) / rate
    held = HeldItems(
        np.zeros((count, 1, 1, 3), np.uint8), rate, np.round(times, 3) if rounded and rate < 100 else times
    )
    assert is_constant(held) and unevenness(held) == 0.0 and length(held) == count / rate
    assert np.array_equal(np.asarray(clock(held)), np.arange(count) / rate)
    end = start + lasts
    if start * rate >= count:
        with pytest.raises(DecodeError, match="the span starts at"):
            frames_of((start, end), margin, held, "v")
        return
    first, behind = frames_of((start, end), margin, held, "v")
    flow = HeldItems(held.items[:-1], rate, held.times[:-1])  # type: ignore[index]
    for source in (held, flow):
        old = max(0, min(source.count - 1, round((start - margin) * rate)))
        last = min(count, round((end + margin) * rate) + 1)
        assert items_of(first, behind, held, source) == (old, max(1, last - old - (count - source.count)))


def test_one_late_frame_moves_no_other() -> None:
    """A frame is dropped in the middle: at the average rate all others would be misplaced by up to half of it."""
    times = np.delete(np.arange(101), 50) / 25
    held = HeldItems(np.zeros((100, 1, 1, 3), np.uint8), 25.0, times)
    assert not is_constant(held) and frames_of((3.0, 3.2), 0.0, held, "v") == (74, 80)
    assert unevenness(held) == pytest.approx(0.04)


def test_without_times_and_rates() -> None:
    items = np.zeros((9, 1, 1, 3), np.uint8)
    assert clock(HeldItems(items, 0.0)) is None and length(HeldItems(items, 0.0)) == 0
    with pytest.raises(DecodeError, match="v: unknown frame rate, its time span can't be located"):
        frames_of((0.0, 1.0), 0.0, HeldItems(items, 0.0), "v")
    timed = HeldItems(items, 0.0, np.arange(9) / 3)
    assert frames_of((1.0, 2.0), 0.0, timed, "v") == (3, 7) and length(timed) == pytest.approx(3.0)


def test_flow_at_a_rate_of_its_own(tmp_path: Path) -> None:
    frames = HeldItems(np.zeros((40, 1, 1, 3), np.uint8), 20.0, even_times(40, 20.0))
    flow = HeldItems(np.zeros((10, 1, 1, 2), np.uint8), 5.0, even_times(10, 5.0))
    assert items_of(*frames_of((1.0, 1.6), 0.0, frames, "v"), frames, flow) == (5, 3)  # 1, 1.2 and 1.4 s
    assert items_of(*frames_of((0.0, 9.0), 0.0, frames, "v"), frames, flow) == (0, 10)
    assert items_of(39, 40, frames, flow) == (9, 1)


def test_folders_of_images_keep_their_rate(tmp_path: Path) -> None:
    images = ImageSequence(tmp_path, "{:05d}.png", 9, 3.0)
    assert is_constant(HeldItems(np.zeros((9, 1, 1, 3), np.uint8), images.fps, even_times(9, images.fps)))


# ------------------------------------------------------------------------------------------------ packs, checks


def test_packs_keep_the_times(clips: dict[str, Path], tmp_path: Path) -> None:
    spans = [None, (0.5, 2.0), FrameSpan(4, 8)]
    train = [Record(f"{n}", {"frames": clips["mp40"]}, {}, span) for n, span in enumerate(spans)]
    data = Dataset("d", {"train": [*train, Record("late", {"frames": clips["late"]}, {}, (1.0, 3.0))]}, HEADS)
    packer = packs.packer(data, tmp_path / "cache", tmp_path / "pack")
    packer.run(packs.quiet)
    packed = read_pack("d", str(tmp_path / "pack"))
    assert [record.span for record in packed.splits["train"]] == [record.span for record in data.splits["train"]]
    assert isinstance(packed.splits["train"][2].span, FrameSpan)
    for source, record in zip(data.splits["train"], packed.splits["train"], strict=True):
        assert shown(dataset(record)[0, 0]) == shown(dataset(source, opener=SourceOpener("pyav"))[0, 0])
        media = record.media["frames"]
        assert isinstance(media, PackedFrames) and media.times is not None
        with open_media(media) as reader:
            assert np.allclose(reader.times, seconds_of(Path(str(source.media["frames"]))), atol=1e-6)
    content = bytearray(media.shard.read_bytes())
    content[media.times[0] + 9] ^= 1
    media.shard.write_bytes(content)
    (_, said), *_ = dataset(record)[0, 0]["failures"]
    assert "frames.times is damaged: checksum mismatch" in said


def test_checks_tell_of_variable_rates(clips: dict[str, Path], videos: dict[str, Path]) -> None:
    found = inspect(clips["webm0"])
    assert found.uneven > 0.1 and found.lasts == pytest.approx(seconds_of(clips["webm0"])[-1], abs=1)
    assert inspect(videos["vp9"]).uneven == 0.0 and inspect(videos["vp9"]).lasts == 2.0
