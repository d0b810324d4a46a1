"""Sources of a sample: which reader opens them, and what cached flow says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.utils.errors import UserError
from tests.data.loading.test_dataset import FLOW, build
from tests.data.videos import record


def test_a_record_may_name_its_reader(videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from mml_lightning.data.loading import images as loading_images
    from mml_lightning.data.video import images

    used: list[str] = []
    opened = images.open_media
    monkeypatch.setattr(
        loading_images, "open_media", lambda media, decoder, *more: used.append(decoder) or opened(media, decoder)
    )
    for own in (None, "pyav"):
        build([record(videos["vp9"], decoder=own)])[0, 0]
    assert used == ["decord", "pyav"]


def test_opener_checks_its_decoder_and_its_cache(videos: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"data\.decoder='cv2' is unknown"):
        SourceOpener("cv2")
    with pytest.raises(UserError, match="needs a flow cache"):
        build([record(videos["vp9"])], modalities=(FLOW,))[0, 0]
