"""Times of packed items are those of the video, whatever its rate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mml_lightning.data.records.readers import read_pack
from mml_lightning.data.records.records import Dataset, Head
from mml_lightning.data.video.decode import open_video
from mml_lightning.data.video.media import PackedFrames, media_identity
from mml_lightning.data.video.pack_format import packed
from mml_lightning.data.video.pack_reader import PackReader
from tests.data import pack_of as packs
from tests.data.numbered import Made
from tests.data.videos import record


@pytest.mark.parametrize("stamps", ["even", "uneven"])
def test_frames_and_flow_keep_their_times(tmp_path: Path, stamps: str) -> None:
    made = Made("a", "libx264", "mp4", {"g": "12", "bf": "2"}, stamps=stamps, frames=30)
    path = made.write(tmp_path)
    with open_video(path) as video:
        times = video.times
    assert times is not None and bool(times[-1] > 2) is (stamps == "uneven")
    data = Dataset("mine", {"train": [record(path), record(path, id="b")]}, {"label": Head(("x", "y"))})
    packs.packer(data, tmp_path / "cache", tmp_path / "pack").run(packs.quiet)
    media = next(iter(read_pack("mine", tmp_path / "pack").splits["train"])).media
    frames, flow = PackReader(media["frames"]), PackReader(media["flow"])  # type: ignore[arg-type]
    assert frames.times == pytest.approx(times, abs=2e-6) and flow.times == pytest.approx(times[:-1], abs=2e-6)
    assert frames.count == len(times) == flow.count + 1
    assert isinstance(media["frames"], PackedFrames) and (media["frames"].times is not None) is (stamps == "uneven")


def test_a_place_that_can_not_be_is_refused(tmp_path: Path) -> None:
    good = {
        "count": 3,
        "fps": 10.0,
        "size": [8, 8],
        "table": 900,
        "crc32": 1,
        "bytes": 5,
        "coding": "jpg",
        "layout": "rgb",
    }
    for times in ([100], [0, -1], [1, 2, 3], "ab", [["x"], 2], {}):
        with pytest.raises(ValueError, match="times of frames"):
            packed(tmp_path / "s.zip", "000000_a", "frames", {**good, "times": times})


def test_other_times_are_other_data(tmp_path: Path) -> None:
    one = PackedFrames(tmp_path / "s.zip", "000000_a", "frames", 3, 10.0, (8, 8), 9, 1)
    assert media_identity(one) != media_identity(replace(one, times=(100, 2)))
