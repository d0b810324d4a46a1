"""The file of a fusion beside the networks: what it holds, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mml_lightning.fusion.fuse import Fusion
from mml_lightning.utils.errors import UserError
from mml_lightning.zoo.fusions import FILE, export_fusion, load_fusion


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    fusion = Fusion("class_weighted", {"rgb": 8, "flow": 4}, {"label": 3})
    path = export_fusion(tmp_path, {"arch": fusion.arch, "state_dict": fusion.state_dict(), "provenance": {"run": "x"}})
    assert path == tmp_path / FILE and not list(tmp_path.glob("*.pt")), "no network of a peer"
    found = load_fusion(path)
    again = Fusion(**found["arch"])
    again.load_state_dict(found["state_dict"])
    assert again.arch == fusion.arch and found["provenance"] == {"run": "x"}


@pytest.mark.parametrize("content", ["text", {"arch": {}}, {"arch": {}, "provenance": {}, "state_dict": {"a": 1}}])
def test_another_or_damaged_file_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / FILE
    if isinstance(content, str):
        path.write_text(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=str(path)):
        load_fusion(path)
