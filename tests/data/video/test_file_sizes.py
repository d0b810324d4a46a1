"""Sizes of many files are the same whether looks are fast or slow; slow ones are taken side by side."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.data.video import file_sizes
from tests.patience import LONGEST


@pytest.mark.parametrize("slow", [False, True])
def test_slow_looks_are_taken_side_by_side(slow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(50):
        (tmp_path / f"{n}").write_bytes(b"x" * n)
    (tmp_path / "folder").mkdir()
    names = [*(f"{n}" for n in range(50)), "none", "folder"]
    expected = [*range(50), -1, -1]
    monkeypatch.setattr(file_sizes, "FIRST", 5)
    monkeypatch.setattr(file_sizes, "SLOW", 1e-3 if slow else LONGEST)
    plain, threads = os.stat, set()

    def stat(path: Any, **options: Any) -> os.stat_result:
        if Path(path).parent == tmp_path:
            threads.add(threading.get_ident())
            time.sleep(2e-3 if slow else 0)
        return plain(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    assert file_sizes.sizes((str(tmp_path / name) for name in names), "files").tolist() == expected
    assert (len(threads) > 2) == slow and threading.get_ident() in threads
    assert file_sizes.sizes([], "files").tolist() == []
