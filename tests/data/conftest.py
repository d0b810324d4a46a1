from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.videos import counted, moving, write_video


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """vp9 and h264: 24 counted frames each; single: one frame; moving: 3 px right and 2 px up per frame."""
    folder = tmp_path_factory.mktemp("videos")
    return {
        "vp9": write_video(folder / "vp9.webm", counted(24)),
        "h264": write_video(folder / "h264.mp4", counted(24)),
        "single": write_video(folder / "single.mp4", counted(1)),
        "moving": write_video(folder / "moving.webm", moving(7, 3, -2)),
    }
