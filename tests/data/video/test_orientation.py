"""The picture is as a player shows it: eight display matrices, in both readers, motion vectors, packs and the check.

The referee is FFmpeg's filter graph, with the filters that its own programs choose.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from mml_lightning.data.check import inspect
from mml_lightning.data.check.referee import shown_from_the_start
from mml_lightning.data.flow.cache import FlowCache, FlowSettings
from mml_lightning.data.flow.motion_vectors import motion_vectors
from mml_lightning.data.video.decode import DECODERS, DecodeError, open_video
from mml_lightning.data.video.orientation import Orientation, read_matrix
from tests.data.videos import moving, record, with_matrix, write_video

ONE = 1 << 16
# a, b, c, d of the matrix: the stored point (p, q), right and down, is shown at (a p + c q, b p + d q)
EIGHT = {
    "stored": (1, 0, 0, 1),
    "turned 90 clockwise": (0, 1, -1, 0),
    "turned 180": (-1, 0, 0, -1),
    "turned 270 clockwise": (0, -1, 1, 0),
    "mirrored sideways": (-1, 0, 0, 1),
    "mirrored upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transposed the other way": (0, -1, -1, 0),
}
# what each does to a picture, by NumPy's own words
EXPECTED = {
    "stored": lambda p: p,
    "turned 90 clockwise": lambda p: np.rot90(p, -1),
    "turned 180": lambda p: np.rot90(p, 2),
    "turned 270 clockwise": lambda p: np.rot90(p, 1),
    "mirrored sideways": np.fliplr,
    "mirrored upside down": np.flipud,
    "transposed": lambda p: p.swapaxes(0, 1),
    "transposed the other way": lambda p: np.rot90(p, 2).swapaxes(0, 1),
}
MOTION = (3.0, -2.0)  # pixels a frame, right and down, as stored
ALL = pytest.mark.parametrize("name", EIGHT)


@pytest.fixture(scope="module")
def upright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = [frame.copy() for frame in moving(6, 3, -2, 128, 96)]
    for frame in frames:
        frame[:24, :24] = (250, 20, 20)  # red in the upper left corner, so that no two of the eight look alike
        frame[:24, -24:] = (20, 20, 250)
    return write_video(tmp_path_factory.mktemp("upright") / "up.mp4", frames)


def matrix(name: str) -> tuple[int, ...]:
    a, b, c, d = EIGHT[name]
    return (a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30)


@ALL
@pytest.mark.parametrize("decoder", DECODERS)
def test_both_readers_show_what_a_player_shows(upright: Path, tmp_path: Path, name: str, decoder: str) -> None:
    path = with_matrix(upright, tmp_path / "shown.mp4", matrix(name))
    with av.open(str(upright)) as container:
        stored = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with open_video(path, decoder) as video:
        shown = video.frames([4, 1])
        assert video.size == shown.shape[2:0:-1]
    referee = shown_from_the_start(path, {1, 4})
    for frame, index in zip(shown, (4, 1), strict=True):
        assert np.array_equal(frame, EXPECTED[name](stored[index]))
        assert np.abs(frame.astype(int) - referee.frames[index]).mean() < 3  # filters turn before colours are made
    assert referee.size == video.size


@ALL
def test_check_agrees_and_notices_a_reader_that_does_not(
    upright: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_matrix(upright, tmp_path / "shown.mp4", matrix(name))
    assert (found := inspect(path)).decoder == found.problem == ""
    if name != "stored":
        monkeypatch.setattr("mml_lightning.data.video.pyav_reader.Orientation.apply", lambda self, pixels: pixels)
        assert inspect(path).decoder == "none", "both readers are wrong in the same way"


@ALL
def test_motion_goes_where_the_picture_goes(upright: Path, tmp_path: Path, name: str) -> None:
    path = with_matrix(upright, tmp_path / "shown.mp4", matrix(name))
    a, b, c, d = EIGHT[name]
    expected = (a * MOTION[0] + c * MOTION[1], b * MOTION[0] + d * MOTION[1])
    fields = np.stack(list(motion_vectors(path)))[:, 40:-20, 40:-20]
    assert np.median(fields, axis=(0, 1, 2)) == pytest.approx(expected, abs=1.0)
    flow = FlowCache(tmp_path / "flow", FlowSettings()).load(record(path)).astype(float)[:, 40:-20, 40:-20]
    assert np.median((flow - 127.5) * 40 / 255, axis=(0, 1, 2)) == pytest.approx(expected, abs=0.5)


@ALL
def test_codes_and_sizes(name: str) -> None:
    found = read_matrix(np.array(matrix(name)).reshape(3, 3))
    assert Orientation.of_code(found.code) == found
    pixels = np.arange(2 * 3 * 1).reshape(2, 3, 1)
    assert np.array_equal(found.apply(pixels), EXPECTED[name](pixels))
    assert found.size((3, 2)) == found.apply(pixels).shape[1::-1]
    assert found.turned == ("turned" in name or name == "stored")


def test_all_eight_are_different() -> None:
    assert {read_matrix(np.array(matrix(name)).reshape(3, 3)).code for name in EIGHT} == set(range(8))


def test_other_matrices(upright: Path, tmp_path: Path) -> None:
    scaled = np.array([2 * ONE, 0, 0, 0, -3 * ONE, 0, 5, 7, 1 << 30]).reshape(3, 3)
    assert read_matrix(scaled) == Orientation(False, False, True), "scale and place don't turn anything"
    assert read_matrix(np.zeros((3, 3))) == Orientation()
    tilted = (56756, 32768, 0, -32768, 56756, 0, 0, 0, 1 << 30)  # 30 degrees
    path = with_matrix(upright, tmp_path / "tilted.mp4", tilted)
    for decoder in DECODERS:
        with (
            pytest.raises(DecodeError, match=r"its display matrix rotates the picture by 30 .*encode it upright"),
            open_video(path, decoder),
        ):
            pass


@ALL
def test_packs_hold_the_picture_as_shown(upright: Path, tmp_path: Path, name: str) -> None:
    from mml_lightning.data.packs.encode import Coding, encode

    path = with_matrix(upright, tmp_path / "shown.mp4", matrix(name))
    with open_video(path) as video:
        packed = encode("frames", video, video.fps, path, Coding(short_side=0, quality=95))
        assert packed.size == video.size
        import cv2

        first = cv2.imdecode(np.frombuffer(packed.images[0], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.abs(first.astype(int) - video.frames([0])[0]).mean() < 6
