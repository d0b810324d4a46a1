"""Zoo files: round trip without pickle, atomic writing, refusals in one line."""

from __future__ import annotations

import pytest
import torch

from mml_lightning.backbones import tsm_resnet
from mml_lightning.backbones.registry import rebuild
from mml_lightning.utils.errors import UserError
from mml_lightning.zoo import files


def entry() -> dict:
    net = tsm_resnet("tiny", width=8, in_channels=10, num_classes={"label": 4})
    return {
        "state_dict": net.state_dict(),
        "arch": net.arch,
        "modality": {"name": "flow", "source": "flow", "window": 5, "item_channels": 2},
        "classes": {"label": ["a", "b", "c", "d"]},
        "provenance": {"stage": "ce", "seed": 0, "metrics": {"test": {"top1": 50.0}}, "origin": {"init": "scratch"}},
    }


def test_round_trip_rebuilds_the_network(tmp_path):
    saved = entry()
    path = files.export_peer(tmp_path / "seed0" / "flow.pt", saved)
    torch.load(path, weights_only=True)
    loaded = files.load_peer(path)
    net = rebuild(loaded["arch"])
    net.load_state_dict(loaded["state_dict"])
    clip = torch.randn(2, 4, 10, 16, 16)
    original = rebuild(saved["arch"])
    original.load_state_dict(saved["state_dict"])
    assert torch.equal(net.eval()(clip).logits["label"], original.eval()(clip).logits["label"])
    assert loaded["provenance"] == saved["provenance"] and loaded["format"] == files.FORMAT


def test_writing_leaves_nothing_but_the_file_and_a_failure_keeps_the_old_one(tmp_path):
    path = files.export_peer(tmp_path / "rgb.pt", entry())
    before = path.read_bytes()
    unpicklable = entry() | {"provenance": {"function": lambda: None}}
    with pytest.raises(Exception, match=r"pickle|lambda|local"):
        files.export_peer(path, unpicklable)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_incomplete_entries_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="classes"):
        files.export_peer(tmp_path / "x.pt", {k: v for k, v in entry().items() if k != "classes"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: None, "no such weight file"),
        (lambda p: p.write_bytes(b"not weights"), "can't be read"),
        (lambda p: p.write_bytes(b""), "can't be read"),
        (lambda p: torch.save({"state_dict": {}}, p), "not a zoo file"),
        (lambda p: torch.save([1, 2], p), "not a zoo file"),
    ],
    ids=["missing", "foreign", "empty", "incomplete", "list"],
)
def test_refusals_are_one_line(tmp_path, make, said):
    path = tmp_path / "x.pt"
    make(path)
    with pytest.raises(UserError, match=said) as caught:
        files.load_peer(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_truncated_files_are_refused(tmp_path):
    path = files.export_peer(tmp_path / "rgb.pt", entry())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="can't be read"):
        files.load_peer(path)


def test_code_in_a_weight_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save(entry() | {"provenance": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError):
        files.load_peer(tmp_path / "evil.pt")
    assert not (tmp_path / "owned").exists()


def test_classes_are_compared_by_name_and_order():
    saved = entry()
    assert files.same_classes(saved, {"label": ["a", "b", "c", "d"]})
    assert not files.same_classes(saved, {"label": ["b", "a", "c", "d"]})
    assert not files.same_classes(saved, {"verb": ["a", "b", "c", "d"]})


def test_heads_are_told_from_the_trunk():
    trunk, heads = files.split_heads(entry()["state_dict"])
    assert set(heads) == {"heads.label.weight", "heads.label.bias"} and trunk and not set(trunk) & set(heads)
