"""Sound is read once, in mono, and stands in the time of its video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mml_lightning.data.video.decode import DecodeError, NoSource
from mml_lightning.data.video.sound import read_sound
from tests.data.sounds import RATE, clicks, onsets, write_audible, write_sound
from tests.data.videos import counted, damaged, real, write_video

AT = [0.25, 1.0, 1.75]


@pytest.mark.parametrize("start", [0.0, 0.5])
@pytest.mark.parametrize("rate", [RATE, 24000, 44100])
def test_clicks_are_where_they_were_put(start: float, rate: int, tmp_path: Path) -> None:
    """Also where the sound begins after the pictures, and whatever rate is asked for."""
    sound = read_sound(write_audible(tmp_path / "v.mkv", 30, clicks(2.0, AT), start))
    assert sound.start == pytest.approx(start, abs=2e-3) and sound.gap is None
    found = [sound.start + one for one in onsets(sound.resampled(rate), rate)]
    assert found == pytest.approx([one + start for one in AT], abs=3e-3)


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_a_file_of_sound_begins_with_the_first_frame(ending: str, tmp_path: Path) -> None:
    given = (np.random.default_rng(0).standard_normal(RATE) * 3000).astype(np.int16)
    sound = read_sound(write_sound(tmp_path / f"s.{ending}", given))
    assert (sound.start, sound.rate, sound.end) == (0.0, RATE, 1.0)
    assert np.array_equal(sound.resampled(RATE), given), "16 bits at the rate asked for are what they were"


def test_two_channels_become_one(tmp_path: Path) -> None:
    left = clicks(1.0, [0.25])
    both = np.stack([left, np.zeros_like(left)], 1)
    sound = read_sound(write_sound(tmp_path / "s.wav", both, layout="stereo"))
    assert np.abs(sound.samples).max() == pytest.approx(10000, rel=1e-3) and len(sound.samples) == RATE


def test_a_gap_is_told(tmp_path: Path) -> None:
    first, second = clicks(1.0, [0.5]), clicks(1.0, [0.5])
    path = tmp_path / "gap.mkv"
    import av

    with av.open(str(path), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for begin, part in ((0, first), (RATE * 3 // 2, second)):
            frame = av.AudioFrame.from_ndarray(part[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, begin
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert read_sound(path).gap == pytest.approx((1.0, 0.5), abs=2e-3)


def test_a_video_without_sound_lacks_it_by_nature(tmp_path: Path) -> None:
    with pytest.raises(NoSource, match=r"v\.mp4: it has no audio stream"):
        read_sound(write_video(tmp_path / "v.mp4", counted(4)))


@pytest.mark.parametrize("kind", ["empty", "text", "zeros"])
def test_what_is_no_sound_is_one_line(kind: str, tmp_path: Path) -> None:
    bad = damaged(kind, write_sound(tmp_path / "s.wav", clicks(1.0, AT)), tmp_path / "bad.wav")
    with pytest.raises(DecodeError, match=r"bad\.wav: its sound can't be read") as caught:
        read_sound(bad)
    assert "\n" not in str(caught.value)


@pytest.mark.real
@pytest.mark.parametrize(
    "name", ["mmaction2/test.avi", "torchcodec/nasa_13013.mp4", "torchcodec/sine_stereo_mp2.mpg", "mmaction2/test.wav"]
)
def test_real_files_are_read_whole(name: str) -> None:
    import av

    path = real(f"clips/{name}")
    sound = read_sound(path)
    with av.open(str(path)) as container:
        stream = container.streams.best("audio")
        assert stream is not None and stream.duration is not None and stream.time_base is not None
        told = float(stream.duration * stream.time_base)
    assert len(sound.samples) / sound.rate == pytest.approx(told, abs=0.1)
    assert np.abs(sound.samples).max() > 300
