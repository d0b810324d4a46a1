"""Flow: its unit, its sign, its cache."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning.data.flow import cache as module
from mml_lightning.data.flow.cache import FlowCache, FlowSettings, dequantise, quantise
from mml_lightning.data.flow.engine_names import ALGORITHMS
from mml_lightning.data.video.decode import DecodeError, NoSource, open_video
from mml_lightning.transforms import invert_x
from mml_lightning.utils.errors import UserError
from tests.data.flow_of import flow_of
from tests.data.numbered import Made
from tests.data.videos import counted, damaged, moving, record, texture, with_matrix, write_video

BOUNDS = st.floats(1.0, 64.0)


# ------------------------------------------------------------------------------------------------ quantisation


@given(BOUNDS, st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=8))
def test_error_is_half_a_step_inside_the_bound(bound: float, shares: list[float]) -> None:
    flow = np.array(shares, dtype=np.float64) * bound
    error = np.abs(dequantise(quantise(flow, bound), bound) - flow)
    assert error.max() <= bound / 255 * 1.001


@given(BOUNDS, st.floats(1.0, 1e6), st.booleans())
def test_motion_beyond_the_bound_is_clipped(bound: float, times: float, left: bool) -> None:
    value = quantise(np.array([-bound * times if left else bound * times]), bound)
    assert value.item() == (0 if left else 255)


@given(BOUNDS, st.floats(-2.0, 2.0))
def test_mirror_is_255_minus(bound: float, share: float) -> None:
    flow = np.array([share * bound])
    assert abs(255 - int(quantise(flow, bound)[0]) - int(quantise(-flow, bound)[0])) <= 1


def test_golden_values() -> None:
    values = quantise(np.array([-30.0, -20.0, -10.0, -0.1, 0.0, 0.1, 10.0, 19.95, 20.0]), 20.0)
    assert values.tolist() == [0, 0, 64, 127, 128, 128, 191, 255, 255]
    assert dequantise(values[4:5], 20.0).item() == pytest.approx(20 / 255, abs=1e-5)
    code = torch.from_numpy(quantise(np.array([5.0, 3.0]), 20.0)).view(2, 1, 1)
    assert dequantise(invert_x(code).flatten().numpy(), 20.0) == pytest.approx([-5.0, 3.0], abs=0.08)


# ------------------------------------------------------------------------------------------------ computation


@pytest.mark.parametrize("preset", ALGORITHMS["dis"])
def test_translation_has_the_right_sign_and_size(preset: str) -> None:
    settings = FlowSettings(preset=preset)
    flow = dequantise(flow_of(moving(4, 3, -2), settings), settings.bound)
    assert flow.shape == (3, 80, 96, 2)
    inside = flow[:, 16:-16, 16:-16]  # the pattern leaves and enters at the edges
    assert np.median(inside[..., 0]) == pytest.approx(3.0, abs=0.15)
    assert np.median(inside[..., 1]) == pytest.approx(-2.0, abs=0.15)


def test_mirrored_video_has_inverted_x() -> None:
    settings = FlowSettings()
    plain, mirrored = (flow_of([f[:, ::s] for f in moving(3, 3, -2)], settings) for s in (1, -1))
    expected = torch.from_numpy(plain).permute(0, 3, 1, 2).flip(-1)
    inside = slice(16, -16)
    found = mirrored.transpose(0, 3, 1, 2)[..., inside, inside].astype(int)
    assert np.abs(np.median(found - invert_x(expected).numpy()[..., inside, inside], axis=(2, 3))).max() <= 1


def test_frames_too_small_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"^flow\.algorithm=dis failed: ") as caught:
        flow_of([np.zeros((2, 2, 3), dtype=np.uint8), np.zeros((9, 7, 3), dtype=np.uint8)], FlowSettings())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"algorithm": "raft"}, "use one of"),
        ({"preset": "slow"}, "use one of"),
        ({"algorithm": "tvl1"}, r"flow.preset='medium' is unknown to flow.algorithm=tvl1"),
        ({"bound": 0.0}, "positive pixels"),
    ],
)
def test_settings_name_the_mistake(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FlowSettings(**values)


# ------------------------------------------------------------------------------------------------ cache


@pytest.fixture
def cache(tmp_path: Path) -> FlowCache:
    return FlowCache(tmp_path / "flow", FlowSettings())


def test_key_holds_every_parameter_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    variants = [
        FlowSettings(),
        FlowSettings(preset="fast"),
        FlowSettings(bound=20.5),
        FlowSettings(bound=20.0000001),  # prints like 20
        FlowSettings(decoder="pyav"),
        FlowSettings(algorithm="tvl1", preset="fast"),
        FlowSettings(algorithm="tvl1", preset="accurate"),
        FlowSettings(algorithm="tvl1", preset="fast", parameters={"lam": 0.1}),
        FlowSettings(algorithm="tvl1_opencv", preset="default"),
        FlowSettings(algorithm="tvl1_opencv", preset="half"),
        FlowSettings(algorithm="farneback", preset="default"),
        FlowSettings(algorithm="mv", preset="default"),
    ]
    keys = {settings.key() for settings in variants}
    assert len(keys) == len(variants) and FlowSettings().key() in keys
    monkeypatch.setattr(module, "decoder_version", lambda decoder: "next")
    assert FlowSettings().key() not in keys


def test_cached_flow_is_that_of_the_frames(videos: dict[str, Path], cache: FlowCache) -> None:
    flow = cache.load(record(videos["moving"]))
    assert isinstance(flow, np.memmap) and flow.shape == (6, 80, 96, 2) and flow.dtype == np.uint8
    motion = dequantise(flow[:, 16:-16, 16:-16], cache.settings.bound)
    assert np.median(motion, axis=(0, 1, 2)) == pytest.approx([3.0, -2.0], abs=0.2)


def test_path_follows_content_not_name_or_place(
    videos: dict[str, Path], cache: FlowCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = record(videos["moving"], id="a/b:c d")
    copy = tmp_path / "elsewhere" / "moving.webm"
    copy.parent.mkdir()
    content = videos["moving"].read_bytes()
    copy.write_bytes(content)
    monkeypatch.setattr(module, "CONTENT_BYTES", len(content) // 4)
    assert cache.path(first) == cache.path(record(copy, id="other", span=(0.0, 0.2)))
    for changed in (content + b"\0", content[:-1] + b"\1", b"\0" + content[1:]):
        copy.write_bytes(changed)
        assert cache.path(first) != cache.path(record(copy))
    assert cache.path(replace(first, decoder="pyav")) != cache.path(first)
    assert cache.path(replace(first, decoder="decord")) == cache.path(first)


def test_prepare_fills_once_and_continues(
    videos: dict[str, Path], cache: FlowCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [record(videos["moving"]), record(videos["vp9"]), record(videos["vp9"], id="again")]
    assert [r.media["frames"] for r in cache.missing(records)] == [videos["moving"], videos["vp9"]]
    steps: list[int] = []
    assert cache.prepare(records[:1], 2, lambda: steps.append(1)) == []
    described = json.loads((cache.folder / "settings.json").read_text())
    assert described["bound"] == 20.0 and described["decoder"] == "decord" and "opencv" in described
    stamp = cache.path(records[0]).stat().st_mtime_ns
    computed: list[int] = []
    whole = module.stream_flow
    monkeypatch.setattr(module, "stream_flow", lambda *args: computed.append(1) or whole(*args))
    assert cache.prepare(cache.missing(records), 2, lambda: steps.append(1)) == []
    assert (len(steps), len(computed)) == (2, 1)
    assert cache.path(records[0]).stat().st_mtime_ns == stamp and cache.missing(records) == []
    assert {p.suffix for p in cache.folder.iterdir()} == {".npy", ".json"}


def test_prepare_reports_what_has_no_flow(videos: dict[str, Path], cache: FlowCache, tmp_path: Path) -> None:
    bad = damaged("zeros", videos["vp9"], tmp_path / "bad.webm")
    failed = cache.prepare([record(videos["single"]), record(bad), record(videos["moving"])], 2, lambda: None)
    assert [video for video, _ in failed] == ["bad", "single"]
    assert "it has one frame and flow needs two" in failed[1][1] and "data.missing=mask" in failed[1][1]
    assert cache.path(record(videos["moving"])).is_file()


def test_one_frame_and_unreadable_are_told_apart(videos: dict[str, Path], cache: FlowCache, tmp_path: Path) -> None:
    with pytest.raises(NoSource):
        cache.load(record(videos["single"]))
    with pytest.raises(DecodeError) as caught:
        cache.load(record(damaged("text", videos["vp9"], tmp_path / "bad.webm")))
    assert not isinstance(caught.value, NoSource)
    with pytest.raises(DecodeError, match=r"gone\.webm: No such file"):
        cache.load(record(tmp_path / "gone.webm"))


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"no array at all", None])
def test_damaged_files_are_made_again(videos: dict[str, Path], cache: FlowCache, damage: bytes | None) -> None:
    video = record(videos["moving"])
    path = cache.make(video)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert cache.missing([video]) == [video]
    assert cache.load(video).shape == (6, 80, 96, 2)
    assert path.read_bytes() == whole


def test_nothing_half_written_is_left(
    videos: dict[str, Path], cache: FlowCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: object, *rest: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(UserError, match=r"can't write the flow cache .*No space left on device.*paths\.cache"):
        cache.make(record(videos["moving"]))
    assert list(cache.folder.iterdir()) == []


def test_two_writers_of_one_file_do_no_harm(videos: dict[str, Path], cache: FlowCache) -> None:
    video = record(videos["moving"])
    assert cache.prepare([video] * 4, 4, lambda: None) == []
    assert {p.suffix for p in cache.folder.iterdir()} == {".npy", ".json"}
    assert cache.load(video).shape[0] == 6


def test_frames_without_structure_still_have_flow(cache: FlowCache, tmp_path: Path) -> None:
    still = write_video(tmp_path / "still.mp4", [texture(64, 48)] * 3 + counted(1))
    assert np.abs(dequantise(cache.load(record(still))[0], 20.0)).max() < 1.5


def before(cache: FlowCache, path: Path, decoder: str | None = None) -> Path:
    """Where an older version kept the flow of `path`, with zeros in it."""
    with open_video(path) as video:
        shape = (video.count - 1, *video.size[::-1], 2)
    place = cache.before / cache.path(record(path, decoder=decoder)).name
    place.parent.mkdir(parents=True, exist_ok=True)
    np.save(place, np.zeros(shape, dtype=np.uint8))
    return place


def test_flow_of_an_older_version_is_kept_where_its_frames_were_the_right_ones(
    videos: dict[str, Path], tmp_path: Path, cache: FlowCache
) -> None:
    assert cache.before != cache.folder
    mirrored = with_matrix(videos["h264"], tmp_path / "m.mp4", (-(1 << 16), 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    turned = with_matrix(videos["h264"], tmp_path / "t.mp4", (-(1 << 16), 0, 0, 0, -(1 << 16), 0, 0, 0, 1 << 30))
    avi = Made("a", "mpeg4", "avi", {"g": "10", "bf": "2"}, frames=12).write(tmp_path)
    for path, decoder, kept in (
        (videos["h264"], None, True),  # decord was right, and is proven to be
        (avi, None, False),
        (avi, "pyav", True),
        (mirrored, None, False),
        (mirrored, "pyav", False),
        (turned, "pyav", True),
    ):
        old = before(cache, path, decoder)
        flow = cache.load(record(path, decoder=decoder))
        assert (not flow.any()) is kept, (path.name, decoder)
        assert old.exists()
    short = before(cache, videos["vp9"])
    np.save(short, np.zeros((3, 48, 64, 2), dtype=np.uint8))  # of fewer frames than there are
    assert cache.load(record(videos["vp9"])).shape[0] == 23


@pytest.mark.parametrize("shape", [(10**12, 10**6, 10**6, 2), (10**30, 1, 1, 2), (2**62, 2, 2, 2), (-1, 2, 2, 2)])
def test_a_header_that_claims_more_than_the_file_has_is_damage(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with (tmp_path / "flow.npy").open("wb") as handle:
        np.lib.format.write_array_header_1_0(handle, {"descr": "|u1", "fortran_order": False, "shape": shape})
        handle.write(bytes(1000))
    assert module._stored(tmp_path / "flow.npy") is None
