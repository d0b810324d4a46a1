"""The flow that a run lacks is computed with all cores before it begins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mml_lightning.data.flow.cache import FlowCache, FlowSettings
from mml_lightning.data.records.records import Record
from mml_lightning.engine import flow
from mml_lightning.engine.flow import at_once, flow_filler
from mml_lightning.utils.threads import cores


def test_a_run_without_workers_uses_all_cores() -> None:
    assert at_once(FlowSettings("dis", "ultrafast"), 0) == cores()
    assert at_once(FlowSettings("dis", "ultrafast"), cores() + 3) == cores() + 3
    assert at_once(FlowSettings("tvl1", "fast"), 0) == 1, "torch keeps the cores busy by itself"


def test_the_number_of_videos_at_once_changes_no_flow(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted((demo / "data" / "videos").iterdir())[:6]
    split = SimpleNamespace(records=[Record(path.stem, {"frames": path}, {}) for path in files])
    made = {}
    for number in (1, 4):
        monkeypatch.setattr(flow, "cores", lambda number=number: number)
        cache = FlowCache(tmp_path / str(number), FlowSettings("dis", "ultrafast"))
        flow_filler(cache, {"train": split}, 0)()  # type: ignore[dict-item]
        made[number] = {path.name: path.read_bytes() for path in cache.folder.glob("*.npy")}
    assert made[1] == made[4] and len(made[1]) == 6
