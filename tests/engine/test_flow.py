"""The flow that a run lacks is computed with all cores before it begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from mml_lightning.config import data as config_data
from mml_lightning.config.settings import Settings
from mml_lightning.data.flow.cache import FlowCache, FlowSettings
from mml_lightning.data.records.records import Record
from mml_lightning.engine import flow
from mml_lightning.engine.flow import at_once, flow_filler
from mml_lightning.utils.threads import cores

Composed = Callable[..., tuple[Settings, list[str]]]


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


@pytest.mark.parametrize("lacking", [None, 0, -1], ids=["none", "the first", "the last"])
def test_a_process_starts_only_for_what_is_missing(
    demo: Path, tmp_path: Path, composed: Composed, monkeypatch: pytest.MonkeyPatch, lacking: int | None
) -> None:
    started: list[int] = []
    monkeypatch.setattr(flow, "FlowAhead", lambda cache, records, threads: started.append(len(records)))
    monkeypatch.setattr(flow, "cores", lambda: 2)
    cfg, _ = composed("stage=mml", "modality=[rgb,flow]", f"paths.cache={tmp_path / 'cache'}", "flow.preset=ultrafast")
    data = config_data.dataset(cfg)
    records, cache = flow.records_read(cfg, data), flow.cached_in(cfg)
    assert cache is not None and not cache.prepare(records, 1, lambda: None)
    if lacking is not None:
        cache.path(records[lacking]).unlink()
    flow.begin_ahead(cfg, data)
    assert started == ([] if lacking is None else [len(records)])


@pytest.mark.parametrize("words", [["flow.on_the_fly=true"], ["modality=[rgb]"]])
def test_a_run_without_a_cache_of_flow_has_nothing_to_prepare(composed: Composed, words: list[str]) -> None:
    cfg, _ = composed("stage=mml", "modality=[rgb,flow]", *words)
    assert flow.cached_in(cfg) is None


def test_one_core_has_nothing_to_spare(composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "cores", lambda: 1)
    cfg, _ = composed("stage=mml", "modality=[rgb,flow]", f"paths.cache={tmp_path / 'cache'}")
    assert flow.begin_ahead(cfg, config_data.dataset(cfg)) is None
