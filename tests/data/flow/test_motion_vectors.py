"""Motion vectors of tiny encoded clips whose translation is known. Shapes: P pairs, H height, W width."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mml_lightning.data.flow import motion_vectors as module
from mml_lightning.data.flow.cache import FlowCache, FlowSettings, dequantise
from mml_lightning.data.flow.motion_vectors import motion_vectors
from mml_lightning.data.video.decode import DecodeError
from mml_lightning.data.video.orientation import STORED
from tests.data import videos
from tests.data.videos import damaged, moving, record, turned, write_sound, write_video

INSIDE = np.s_[:, 16:-16, 16:-16]
SETTINGS = FlowSettings(algorithm="mv", preset="default")


def encoded(path: Path, monkeypatch: pytest.MonkeyPatch, codec: str = "libx264", **options: str) -> Path:
    """Six frames that move by (3, -2) per frame."""
    chosen = {"preset": "veryfast", "crf": "16"} if codec == "libx264" else {"qscale": "2"}
    monkeypatch.setitem(videos.CODECS, path.suffix[1:], (codec, {**chosen, "g": "30", **options}))
    return write_video(path, moving(6, 3, -2, 128, 96))


@pytest.mark.parametrize(
    ("codec", "options"),
    [("libx264", {"bf": "0"}), ("libx264", {"bf": "2", "b-pyramid": "none", "refs": "1"}), ("mpeg4", {"bf": "0"})],
)
@pytest.mark.parametrize("turns", [0, 1])
def test_vectors_are_the_translation_per_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, options: dict[str, str], turns: int
) -> None:
    path = encoded(tmp_path / "a.mp4", monkeypatch, codec, **options)
    expected = [3.0, -2.0]
    if turns:  # shown a quarter turn clockwise: what went right goes down, what went up goes right
        path, expected = turned(path, tmp_path / "b.mp4", 1), [2.0, 3.0]
    fields = np.stack(list(motion_vectors(path)))
    assert fields.shape == ((5, 128, 96, 2) if turns else (5, 96, 128, 2)) and fields.dtype == np.float32
    assert np.median(fields[INSIDE], axis=(0, 1, 2)) == pytest.approx(expected, abs=1.0)
    if options["bf"] == "0":
        assert np.median(fields[INSIDE], axis=(1, 2)) == pytest.approx(np.array([expected] * 5), abs=1.0)


def test_distance_to_the_anchors_and_both_directions() -> None:
    names = ("source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale")
    kinds = np.dtype([(name, np.int32) for name in names])

    def blocks(*rows: tuple[int, ...]) -> np.ndarray:
        return np.array(list(rows), dtype=kinds)

    # 3 pixels right per frame; vectors in quarter pixels, from the block to where its content is
    b1 = blocks((-1, 16, 16, 8, 8, -12, 0, 4), (1, 16, 16, 24, 8, 24, 0, 4))
    b2 = blocks((-1, 16, 16, 8, 8, -24, 0, 4), (1, 16, 16, 8, 8, 12, 8, 4))
    p = blocks((-1, 16, 16, 8, 8, -36, 0, 4), (-1, 16, 16, 30, 14, -36, 12, 4))
    frames = [("I", None), ("B", b1), ("B", b2), ("P", p), ("I", p), ("P", blocks((-1, 16, 16, 8, 8, -12, 0, 4)))]
    fields = list(module._spread(module._Coded(kind, vectors, (16, 32), STORED) for kind, vectors in frames))
    assert len(fields) == 6 and not fields[0].any() and not fields[4].any(), "I frames have no motion"
    assert fields[1][4, 4].tolist() == [3.0, 0.0] and fields[1][4, 20].tolist() == [3.0, 0.0]
    assert fields[2][4, 4].tolist() == [3.0, 1.0], "the mean of both directions"
    assert fields[2][4, 20].tolist() == [0.0, 0.0], "intra"
    assert fields[3][4, 4].tolist() == [3.0, 0.0]
    assert fields[3][15, 31].tolist() == [3.0, -1.0], "a block that reaches over the edge"
    assert fields[5][4, 4].tolist() == [3.0, 0.0]


def test_codecs_without_vectors_and_files_without_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    webm = write_video(tmp_path / "a.webm", moving(3, 1, 1))
    good = encoded(tmp_path / "good.mp4", monkeypatch)
    cases = {
        webm: "vp9 has no readable motion vectors; use H.264, MPEG-4 or MPEG-2 files, or flow=dis",
        tmp_path / "none.mp4": "no such file",
        damaged("text", good, tmp_path / "text.mp4"): "pyav",
        write_sound(tmp_path / "sound.mp4"): "it has no video stream",
    }
    for path, message in cases.items():
        with pytest.raises(DecodeError, match=message) as caught:
            list(motion_vectors(path))
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_cache_of_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FlowCache(tmp_path / "flow", SETTINGS)
    path = encoded(tmp_path / "a.mp4", monkeypatch, bf="0")
    flow = cache.load(record(path))
    assert flow.shape == (5, 96, 128, 2) and flow.dtype == np.uint8
    assert np.median(dequantise(flow[INSIDE], 20.0), axis=(0, 1, 2)) == pytest.approx([3.0, -2.0], abs=1.0)
    webm = write_video(tmp_path / "a.webm", moving(3, 1, 1))
    assert [reason for _, reason in cache.prepare([record(webm)], 1, lambda: None)] == [
        f"{webm}: vp9 has no readable motion vectors; use H.264, MPEG-4 or MPEG-2 files, or flow=dis"
    ]


def test_vectors_of_other_frames_than_the_reader_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mml_lightning.data.flow.cache import coded_flow

    path = encoded(tmp_path / "a.mp4", monkeypatch, bf="0")
    with pytest.raises(DecodeError, match="its vectors make 5 pairs of 128x96, its frames 7 of 128x96"):
        coded_flow(path, (128, 96), 7, SETTINGS)
