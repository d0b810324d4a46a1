"""What loading takes is known before it begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.config import data as config_data
from mml_lightning.data.loading import memory
from mml_lightning.engine import train
from mml_lightning.utils import device
from mml_lightning.utils.errors import UserError

Composed = Callable[..., tuple[Any, list[str]]]


def datasets(cfg: Any) -> dict[str, Any]:
    chosen = config_data.modalities(cfg)
    data = config_data.dataset(cfg)
    return config_data.clip_datasets(cfg, data, config_data.flow_cache(cfg, chosen), list(chosen.values()))


@pytest.mark.parametrize("views", ["center", "uniform2_dense1_full", "ten_crop"])
def test_size_of_a_sample_is_that_of_a_real_one(composed: Composed, views: str) -> None:
    cfg, _ = composed("modality=[rgb,rgbdiff]", f"views={views}")
    for dataset in datasets(cfg).values():
        real = dataset[(0, 0)]["clips"].values()
        assert memory.sample_bytes(dataset) == sum(clip.nbytes for clip in real)


def test_what_does_not_fit_is_refused_before_anything_is_written(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = ("data.workers=2", "data.cache=none")
    too_much = composed(*two, "loading.memory_gb=0.5")
    message = (
        r"loading would take about 1\.2 GB of memory \(1 rank\(s\), 2 workers per split, batches up to 0 MB\), 0\.5 GB "
        r"are allowed by loading\.memory_gb; lower data\.workers or data\.batch_size, or set loading"
    )
    with pytest.raises(UserError, match=message):
        train.stage(*too_much)
    monkeypatch.setattr(memory, "free_memory", lambda: 2**30)
    monkeypatch.setattr(device, "free_memory", lambda: 2**30)
    with pytest.raises(UserError, match=r"about 1\.2 GB .*, 1\.0 GB are free; lower data.workers"):
        train.stage(*composed(*two))
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    monkeypatch.setattr(device, "free_memory", lambda: None)
    monkeypatch.setattr(memory, "free_shared_memory", lambda: 2**20)
    message = r"would take about 2 MB of shared memory .*, 1 MB are free: /dev/shm is too small"
    with pytest.raises(UserError, match=message):
        train.stage(*composed(*two))
    assert not (tmp_path / "single").exists()
    kept = config_data.check_memory  # a budget of one's own overrules what the system tells
    kept(composed(*two, "loading.memory_gb=100")[0], datasets(composed()[0]), 1)


@pytest.mark.parametrize(("workers", "needed"), [(0, "1.0"), (2, "7.2")])
def test_decoded_videos_count_once_for_every_process_that_reads(
    composed: Composed, monkeypatch: pytest.MonkeyPatch, workers: int, needed: str
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 2**29)
    monkeypatch.setattr(device, "free_memory", lambda: 2**29)
    cfg, _ = composed(f"data.workers={workers}", "data.cache=ram", "data.cache_mb=1024")
    message = rf"about {needed} GB .*, 1\.0 GB of decoded videos in each\), 0\.5 GB are free; .*, data\.cache_mb, or"
    with pytest.raises(UserError, match=message):
        config_data.check_memory(cfg, datasets(cfg), 1)


def test_free_memory_heeds_the_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "GROUPS", ())
    whole = device.free_memory()
    assert whole is not None and whole > 2**20
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    monkeypatch.setattr(device, "GROUPS", (tmp_path,))
    assert device.free_memory() == 2000000
    (tmp_path / "memory.max").write_text("max\n")
    assert device.free_memory() > 2000000
    assert device.free_shared_memory(str(tmp_path / "nowhere")) is None
