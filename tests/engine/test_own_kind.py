"""A kind of source from outside: numbers per frame, in a package and configs of the user; no file of ours knows it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mml_lightning.cli.commands.pack import prepare
from mml_lightning.config import data as config_data
from mml_lightning.config.settings import Settings
from mml_lightning.data.packs.encode import Coding
from mml_lightning.data.packs.packing import Wish
from mml_lightning.engine.evaluate import evaluate
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.result_file import read_result
from tests.conftest import SIZES

Composed = Callable[..., tuple[Settings, list[str]]]

PACKAGE = '''
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mml_lightning.backbones.peer import Peer, PeerOutput
from mml_lightning.data.loading.kinds import Kind, media_of
from mml_lightning.data.records.readers import read_demo
from mml_lightning.data.records.records import Dataset, Head, Record
from mml_lightning.data.video.decode import DecodeError


@dataclass
class OpenNumbers:
    values: np.ndarray
    fps: float = 25.0
    times: None = None

    @property
    def count(self):
        return len(self.values)


class Numbers(Kind):
    """Rows of a .npy file, one per frame."""

    def open(self, name, record, opening):
        try:
            return OpenNumbers(np.load(media_of(name, record)))
        except (OSError, ValueError) as error:
            raise DecodeError(f"{record.id}: {error}") from None

    def cut(self, source, modalities, indices, geometries):
        rows = {m.name: torch.from_numpy(source.values[indices[m.name]]).flatten(2) for m in modalities}
        return {name: clip.repeat(len(geometries), 1, 1) for name, clip in rows.items()}

    def segment(self, modality, size):
        return (modality.window * modality.item_channels,), torch.float32


def centred(clip, modality):
    return (clip - modality.mean[0]) / modality.std[0]


class Net(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.feature_dim = width
        self.conv1 = nn.Linear(channels, width)

    def forward(self, x):  # [B, T, C] or, of images, [B, T, C, H, W]
        return torch.relu(self.conv1(x.flatten(3).mean(-1) if x.ndim == 5 else x)).mean(1)


class NumbersPeer(Peer):
    in_channels = property(lambda self: self.net.conv1.in_features)

    def forward(self, clip):
        features = self.net(clip)
        return PeerOutput(self.classify(self.dropout(features)), {"pooled": features})


def net(in_channels, num_classes, width=16):
    return NumbersPeer(Net(in_channels, width), num_classes, head_std=0.1)


def read(name, root, **sizes):
    splits = {}
    for split, count in sizes.items():
        ids = [f"{split}{n}" for n in range(count)]
        splits[split] = [
            Record(one, {"numbers": Path(root) / f"{one}.npy"}, {"label": n % 2}) for n, one in enumerate(ids)
        ]
    return Dataset(name, splits, {"label": Head(("falls", "rises"))})


def read_both(numbers, **demo):
    data = read_demo(**demo)

    def with_numbers(record):
        path = Path(numbers) / f"{record.id}.npy"
        return Record(record.id, dict(record.media) | ({"numbers": path} if path.exists() else {}), record.target)

    splits = {split: [with_numbers(record) for record in records] for split, records in data.splits.items()}
    return Dataset(data.name, splits, data.heads)
'''
MODALITY = """
# @package _global_
modality:
  {name}:
    {{source: numbers, window: {window}, item_channels: 2, mean: [0.5], std: [0.25],
     prepare: {{_target_: own_numbers.centred, _partial_: true}}}}
init: {{{name}: "${{init.all}}"}}
sources: {{numbers: {{_target_: own_numbers.Numbers}}}}
"""
FILES = {
    "modality/numbers.yaml": MODALITY.format(name="numbers", window=1),
    "modality/pace.yaml": MODALITY.format(name="pace", window=3),
    "backbone/numbers_net.yaml": "name: numbers_net\nnet: {_target_: own_numbers.net, _partial_: true, width: 16}\n",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Words that bring the package along; its data lie in <tmp_path>/numbers."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/own_numbers.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    for name, text in FILES.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_text(text)
    yield [f"hydra.searchpath=[file://{tmp_path / 'own'}]", "trusted=[own_numbers]", "backbone=numbers_net"]
    sys.modules.pop("own_numbers", None)


def odd(name: str) -> bool:
    return int(name[-1]) % 2 == 1


def write_numbers(folder: Path, names: list[str], rising: Callable[[str], bool]) -> None:
    """Two numbers a frame that rise or fall over the video, in noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in names:
        slope = np.linspace(0, 1, 12)[:, None] * (1 if rising(name) else -1)
        np.save(folder / f"{name}.npy", (slope + 0.1 * rng.standard_normal((12, 2))).astype(np.float32))


def test_two_peers_on_it_train_are_measured_and_load_again(
    own: list[str], tmp_path: Path, shell: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    names = {split: [f"{split}{n}" for n in range(count)] for split, count in SIZES.items()}
    write_numbers(tmp_path / "numbers", [name for split in names.values() for name in split], odd)
    (tmp_path / "numbers/train3.npy").write_bytes(b"no numbers")
    where = ["data.reader._target_=own_numbers.read", f"data.root={tmp_path / 'numbers'}"]
    both = [*own, *where, "modality=[numbers,pace]"]
    run = tmp_path / "single" / "run"
    words = ["stage=mml", "init=scratch", "data.workers=1", "data.max_bad_share=0.1", "views.crops=3"]
    done = shell("train", *both, *words, "schedule.epochs=8", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    result = read_result(run)
    assert result is not None and result["status"] == "completed"
    assert min(result["metrics"]["test"][peer]["top1"] for peer in ("numbers", "pace", "ensemble")) > 90
    assert "train3" in (run / "quarantine.csv").read_text()
    with np.load(run / "predictions/test.npz") as file:
        assert file["logits/pace"].shape == (11, 3, 2), "three crops are three views, of what has no picture too"
    again = shell("eval", *both, "views.crops=3", f"ckpt={run}", f"hydra.run.dir={tmp_path / 'eval'}")
    assert again.returncode == 0, again.stderr
    assert (read_result(tmp_path / "eval") or {})["metrics"] == {"test": result["metrics"]["test"]}


@pytest.mark.parametrize("epochs", [2])
def test_it_stands_beside_frames_and_may_be_absent(
    own: list[str], epochs: int, demo: Path, tmp_path: Path, composed: Composed, train: Callable[..., dict[str, Any]]
) -> None:
    known = sorted(path.stem for path in (demo / "data/videos").iterdir())
    write_numbers(tmp_path / "numbers", known[::2], odd)  # every second video has some
    reader = ["data.reader._target_=own_numbers.read_both", f"+data.reader.numbers={tmp_path / 'numbers'}"]
    words = [*own, *reader, "modality=[rgb,pace]", "data.missing=mask"]
    result = train(*words, "stage=mml", "init=scratch", f"schedule.epochs={epochs}")
    run = tmp_path / "single" / "run"
    with np.load(run / "predictions/test.npz") as file:
        absent = np.isnan(file["logits/pace"]).all(axis=(1, 2))
        assert absent.tolist() == [video not in known[::2] for video in file["ids"]] and absent.any()
        assert not np.isnan(file["logits/rgb"]).any()
    cfg, typed = composed(*words, f"ckpt={run}", program="eval", run="eval")
    assert evaluate(cfg, typed)["metrics"] == {"test": result["metrics"]["test"]}
    data = config_data.dataset(cfg, ["test"])
    dataset = config_data.clip_datasets(cfg, data, None, list(config_data.modalities(cfg).values()))["test"]
    blank = next(sample for n in range(len(dataset)) if not (sample := dataset[0, n])["present"]["pace"])
    assert blank["clips"]["pace"].shape == (1, 4, 6) and blank["clips"]["pace"].dtype == torch.float32
    assert not blank["clips"]["pace"].any()


def test_it_is_not_packed(own: list[str], tmp_path: Path, composed: Composed) -> None:
    cfg, _ = composed(*own, "modality=[pace]")
    with pytest.raises(UserError, match="mml pack packs frames, flow, audio, not numbers"):
        prepare(cfg, tmp_path / "pack", Wish((), Coding()))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("+sources.frames._target_=own_numbers.Numbers", "frames already exists"),
        ("+sources.other.x=1", "sources.other is not a kind of source"),
        ("+sources.other._target_=own_numbers.net", "num_classes"),
        ("+sources.other._target_=own_numbers.OpenNumbers", "values"),
        ("+sources.other._target_=subprocess.Popen", r"trusted=\[subprocess\]"),
        ("sources=3", "sources=3 must be a table"),
        ("modality.rgb.source=numbers", r"source 'numbers' is unknown; use one of \['frames', 'flow', 'audio'\]"),
    ],
)
def test_a_wrong_source_is_one_line(own: list[str], word: str, message: str, composed: Composed) -> None:
    with pytest.raises(UserError, match=message):
        config_data.modalities(composed(*own, word)[0])
