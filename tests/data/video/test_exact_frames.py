"""Frame i is what decoding from the start shows at i, by both readers, in every codec and container that can be made.

The referee is PyAV without any code of the package. Draws are sparse, and around the places where decoding may begin.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mml_lightning.data.check import inspect
from mml_lightning.data.flow.cache import FlowCache, FlowSettings
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.video.decode import DECODERS, open_video
from mml_lightning.data.video.index_store import IndexStore
from tests.data.flow_of import flow_of
from tests.data.numbered import HEIGHT, WIDTH, Made, everything, from_the_start, number, numbered
from tests.data.videos import real, record

ALL = everything()
QUICK = ("libx264-closed.mp4", "libx264-closed.avi", "libx264-open.mkv", "libx264-closed.ts", "libx264-closed-cut.mp4",
         "libx264-frag-closed.mp4", "libx264-noedit-closed.mp4",
         "libx265-default.mp4", "mpeg4-b2.avi", "mpeg4-b2.mp4", "mpeg2video-b2.mpg",
         "libvpx-vp9-plain.webm", "wmv2-plain.wmv")  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    level = av.logging.get_level()
    av.logging.set_level(None)
    yield
    av.logging.set_level(level)


def draws(count: int, starts: np.ndarray, seed: int) -> list[list[int]]:
    """Sparse indices: eight at random, six times, and the neighbours of four places where decoding may begin."""
    rng = np.random.default_rng(seed)
    random = [sorted(rng.choice(count, min(8, count), replace=False).tolist()) for _ in range(6)]
    chosen = rng.choice(starts, min(4, len(starts)), replace=False)
    return [*random, sorted({int(s) + d for s in chosen for d in (-2, -1, 0, 1)} & set(range(count)))]


def wrong_frames(path: Path, truth: list[int], decoder: str, indexes: IndexStore) -> list[tuple[int, int, int]]:
    """(index, number that is there, number that was given) of all that is wrong."""
    wrong = []
    with open_video(path, decoder, indexes) as video:
        assert video.count == len(truth)
        starts = video.index.starts  # type: ignore[attr-defined]
    for seed, indices in enumerate(draws(len(truth), starts, 0)):
        with open_video(path, decoder, indexes) as video:
            for order in (indices, indices[::-1]) if seed == 0 else (indices,):
                given = [number(frame) for frame in video.frames(order)]
                wrong += [(i, truth[i], n) for i, n in zip(order, given, strict=True) if truth[i] != n]
    return wrong


def check(made: Made, folder: Path) -> None:
    path, indexes = made.write(folder), IndexStore(folder / "videos")
    truth = from_the_start(path)
    assert len(truth) > 30 and len(set(truth)) == len(truth), "the referee can tell frames apart"
    for decoder in DECODERS:
        assert wrong_frames(path, truth, decoder, indexes) == []
    with open_video(path) as video:
        assert [number(frame) for frame in video.stream()] == truth
        times = video.times
    assert times is not None and times[0] == 0 and (np.diff(times) > 0).all()
    found = inspect(path, 4, indexes)
    assert (found.decoder, found.problem, found.frames_decord, found.frames_pyav) == ("", "", len(truth), len(truth))
    for decoder in DECODERS:
        assert wrong_frames(path, truth, found.decoder or decoder, indexes) == []
    rgb_and_flow_agree(path, truth, folder, indexes)


def rgb_and_flow_agree(path: Path, truth: list[int], folder: Path, indexes: IndexStore) -> None:
    """Cached flow of pair i, flow on the fly, and flow computed here of rgb frames i and i + 1 of the same sample."""
    settings = [FlowSettings(preset="ultrafast", on_the_fly=live) for live in (False, True)]
    openers = [SourceOpener("decord", FlowCache(folder, one, indexes), indexes=indexes) for one in settings]
    at = sorted(np.random.default_rng(1).choice(len(truth) - 1, 5, replace=False).tolist())
    with openers[0].open(record(path), ["frames", "flow"]) as one, openers[1].open(record(path), ["flow"]) as other:
        cached, live = one["flow"].frames(at), other["flow"].frames(at)
        assert one["flow"].count == other["flow"].count == len(truth) - 1
        pairs = [one["frames"].frames([i, i + 1]) for i in at]
    here = np.concatenate([flow_of(pair, settings[1]) for pair in pairs])
    assert np.array_equal(live, here) and np.array_equal(cached, here)


@pytest.mark.parametrize(
    "made", [m for m in ALL if f"{m.name}.{m.ending}" in QUICK], ids=lambda m: f"{m.name}.{m.ending}"
)
def test_common_files(made: Made, tmp_path: Path) -> None:
    check(made, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "made", [m for m in ALL if f"{m.name}.{m.ending}" not in QUICK], ids=lambda m: f"{m.name}.{m.ending}"
)
def test_all_codecs_and_containers(made: Made, tmp_path: Path) -> None:
    check(made, tmp_path)


def test_there_are_enough_of_them() -> None:
    assert len({(m.name, m.ending) for m in ALL}) == len(ALL) >= 100
    assert len(QUICK) == len({f"{m.name}.{m.ending}" for m in ALL} & set(QUICK))


def test_decord_reads_where_it_is_proven_only(tmp_path: Path) -> None:
    safe = {"libx264-closed.mp4": True, "libx264-open.mp4": False, "libx264-frag-closed.mp4": False,
            "libx264-closed-cut.mp4": False, "libx264-closed.avi": False, "libvpx-vp9-plain.webm": True,
            "libx264-closed-uneven.mp4": False, "libx264-noedit-closed.mp4": False,
            "libx264-noedit-plain.mp4": True}  # fmt: skip
    for made in ALL:
        name = f"{made.name}.{made.ending}"
        if name in safe:
            with open_video(made.write(tmp_path)) as video:
                assert (video.used == "decord") is safe[name], name  # type: ignore[attr-defined]
                assert (video.notes == {}) is safe[name]  # type: ignore[attr-defined]


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov"])
def test_of_several_streams_both_readers_show_the_same(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"two.{ending}"
    with av.open(str(path), "w") as output:
        streams = [output.add_stream("libx264", rate=25, options={"g": "12"}) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for n in range(40):
            for first, stream in zip((0, 100), streams, strict=True):
                frame = av.VideoFrame.from_ndarray(numbered(first + n), format="rgb24")
                frame.pts, frame.time_base = n, Fraction(1, 25)
                output.mux(stream.encode(frame))
        for stream in streams:
            output.mux(stream.encode(None))
    truth = from_the_start(path)
    for decoder in DECODERS:
        assert wrong_frames(path, truth, decoder, IndexStore()) == []


@pytest.mark.real
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    "name",
    ["torchcodec/h265_video.mp4", "torchcodec/discard_first_keyframe.mp4", "torchcodec/av1_video.mkv",
     "torchcodec/sine_stereo_mp2.mpg", "torchcodec/testsrc2_mpeg4.avi", "mmaction2/test.avi", "mmaction2/test.mp4",
     "mmaction2/S001C001P001R001A001_rgb.avi", "decord/flipping_a_pancake.mkv", "decord/unordered.mov",
     "tiny-ucf101/v_Basketball_g01_c01.avi", "torchcodec/h265_10bits.mp4", "mmaction2/demo.mp4"],
)  # fmt: skip
def test_real_clips(name: str, decoder: str) -> None:
    path = real(f"clips/{name}")
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        truth = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with open_video(path, decoder) as video:
        assert video.count == len(truth)
        starts = video.index.starts  # type: ignore[attr-defined]
    for indices in draws(len(truth), starts, 3):
        with open_video(path, decoder) as video:
            for index, frame in zip(indices, video.frames(indices), strict=True):
                assert np.array_equal(frame, truth[index]), index
