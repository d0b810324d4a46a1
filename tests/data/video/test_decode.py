"""Both readers give the frames that were asked for, and one line for every file that has none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_lightning.data.video import decode
from mml_lightning.data.video.decode import DECODERS, DecodeError, check_decoder, decoder_version, open_video
from mml_lightning.utils.errors import UserError
from tests.data.videos import FPS, HEIGHT, WIDTH, counted, damaged, numbers, real, turned, write_sound, write_video

BOTH = pytest.mark.parametrize("decoder", DECODERS)
CODEC = pytest.mark.parametrize("codec", ["vp9", "h264"])


@CODEC
@BOTH
def test_describes_the_video(videos: dict[str, Path], codec: str, decoder: str) -> None:
    with open_video(videos[codec], decoder) as video:
        assert (video.count, video.size) == (24, (WIDTH, HEIGHT))
        assert video.fps == pytest.approx(FPS)


@given(st.lists(st.integers(0, 23), min_size=1, max_size=12))
@settings(deadline=None, max_examples=15, derandomize=True)
@CODEC
@BOTH
def test_any_indices_in_any_order(videos: dict[str, Path], codec: str, decoder: str, indices: list[int]) -> None:
    with open_video(videos[codec], decoder) as video:
        frames = video.frames(indices)
        again = video.frames(indices[::-1])  # a reader answers more than once, also backwards
    assert frames.shape == (len(indices), HEIGHT, WIDTH, 3) and frames.dtype == np.uint8
    assert numbers(frames, (1, 2, 3)).tolist() == indices
    assert np.array_equal(again[::-1], frames)


@CODEC
def test_readers_agree_to_the_pixel(videos: dict[str, Path], codec: str) -> None:
    with open_video(videos[codec], "decord") as a, open_video(videos[codec], "pyav") as b:
        assert np.array_equal(a.frames(range(24)), b.frames(range(24)))


@BOTH
def test_stream_is_all_frames_in_order(videos: dict[str, Path], decoder: str) -> None:
    with open_video(videos["h264"], decoder) as video:
        assert numbers(np.stack(list(video.stream())), (1, 2, 3)).tolist() == list(range(24))


@BOTH
def test_every_frame_has_its_time(videos: dict[str, Path], decoder: str) -> None:
    with open_video(videos["h264"], decoder) as video:
        assert video.times is not None and video.times.dtype == np.float64
        assert video.times == pytest.approx(np.arange(24) / FPS)


@pytest.mark.parametrize("turns", [1, 2, 3])
@BOTH
def test_rotation_flag_is_obeyed(tmp_path: Path, decoder: str, turns: int) -> None:
    width, height = 128, 64  # decord can't turn frames that become narrower than this
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    frame[:16, :16] = 255  # bright in the upper left corner
    path = turned(write_video(tmp_path / "up.mp4", [frame] * 3), tmp_path / "turned.mp4", turns)
    with open_video(path, decoder) as video:
        assert video.size == ((height, width) if turns % 2 else (width, height))
        shown = video.frames([1])[0].astype(int)
    assert np.abs(shown - np.rot90(frame, -turns)).mean() < 4


@pytest.mark.parametrize("kind", ["empty", "zeros", "truncated", "text"])
@BOTH
def test_bad_files_are_one_line(videos: dict[str, Path], tmp_path: Path, decoder: str, kind: str) -> None:
    path = damaged(kind, videos["h264"], tmp_path / "bad.mp4")
    with pytest.raises(DecodeError) as caught, open_video(path, decoder) as video:
        video.frames([0])
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.endswith("(pyav)")  # which judges every file first
    assert "\n" not in message and message.count(str(path)) == 1 and ".cc:" not in message


@BOTH
def test_sound_alone_is_no_video(tmp_path: Path, decoder: str) -> None:
    with pytest.raises(DecodeError, match=r"sound\.mp4: "), open_video(write_sound(tmp_path / "sound.mp4"), decoder):
        pass


@BOTH
def test_missing_file_and_folder(tmp_path: Path, decoder: str) -> None:
    for path in (tmp_path / "gone.mp4", tmp_path):
        with pytest.raises(DecodeError, match=r": no such file$"), open_video(path, decoder):
            pass


@BOTH
def test_frames_that_are_not_there(videos: dict[str, Path], decoder: str) -> None:
    with open_video(videos["vp9"], decoder) as video:
        for indices in ([24], [-1], [3, 99]):
            with pytest.raises(DecodeError, match="it has 24"):
                video.frames(indices)


@BOTH
def test_errors_of_the_caller_pass_unchanged(videos: dict[str, Path], decoder: str) -> None:
    for error in (ValueError("mine"), RuntimeError("mine"), IndexError("mine")):
        with pytest.raises(type(error), match=r"^mine$"), open_video(videos["vp9"], decoder):
            raise error


def test_pyav_counts_what_is_there_not_what_is_claimed(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.webm", counted(36)).read_bytes()
    path = tmp_path / "cut.webm"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with open_video(path, "pyav") as video:
        assert 1 <= video.count < 36
        indices = list(range(video.count))
        assert numbers(video.frames(indices), (1, 2, 3)).tolist() == indices


def test_unknown_decoder_names_the_choice(videos: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"data\.decoder='ffmpeg' is unknown; use one of"):
        check_decoder("ffmpeg")
    with pytest.raises(UserError, match="unknown"):
        decoder_version("ffmpeg")
    with pytest.raises(UserError, match="unknown"), open_video(videos["vp9"], "ffmpeg"):
        pass


def test_missing_library_names_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "installed", lambda decoder: decoder == "pyav")
    with pytest.raises(UserError, match=r"not installed on this machine; use data\.decoder=pyav"):
        check_decoder("decord")


@BOTH
def test_versions(decoder: str) -> None:
    assert decoder_version(decoder)[0].isdigit()


# ------------------------------------------------------------------------------------------------ real files


@pytest.mark.real
@pytest.mark.parametrize("name", ["video_0.mov", "video_90.mov", "video_180.mov", "video_270.mov"])
def test_real_rotation_equals_decord(name: str) -> None:
    path = real(f"clips/decord/{name}")
    with open_video(path, "decord") as a, open_video(path, "pyav") as b:
        assert (a.count, a.size) == (b.count, b.size)
        assert np.abs(a.frames([0, 2]).astype(int) - b.frames([0, 2])).mean() < 1


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "size", "levels"),
    [
        ("testsrc2_odd_height_444.mp4", (320, 241), 1),
        ("testsrc2_odd_height_and_width_vp9.mp4", (321, 241), 1),
        ("testsrc2_odd_height_and_width_mpeg2.mp4", (121, 81), 6),
    ],
)
def test_real_odd_sizes(name: str, size: tuple[int, int], levels: float) -> None:
    path = real(f"clips/torchcodec/{name}")
    with open_video(path, "decord") as a, open_video(path, "pyav") as b:
        assert a.size == b.size == size
        assert np.abs(a.frames([0, 5]).astype(int) - b.frames([0, 5])).mean() < levels


@pytest.mark.real
def test_real_corrupted_file_keeps_what_decodes() -> None:
    with open_video(real("clips/decord/corrupted.mp4"), "pyav") as video:
        assert video.count == 28


@pytest.mark.real
@BOTH
@pytest.mark.parametrize(
    ("name", "count"), [("discard_first_keyframe.mp4", 25), ("av1_video.mkv", 125), ("sine_stereo_mp2.mpg", 100)]
)
def test_real_files_that_decord_gets_wrong(name: str, count: int, decoder: str) -> None:
    with open_video(real(f"clips/torchcodec/{name}"), decoder) as video:
        assert video.count == count and video.used == "pyav"  # type: ignore[attr-defined]
