"""The damaged inputs, a family each: good input of every kind, and what is broken of it and tried."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf.errors import OmegaConfBaseException

from mml_lightning.cli import hydra_app, main
from mml_lightning.cli.commands import pack as pack_command
from mml_lightning.config import data as config_data
from mml_lightning.config.compose import compose, save
from mml_lightning.config.settings import Settings
from mml_lightning.data.records.pack_index import read_dataset, write_manifest
from mml_lightning.data.records.records import SPLITS
from mml_lightning.engine import evaluate, job, train
from mml_lightning.evaluation import predictions
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.result_file import read_result
from mml_lightning.zoo.files import load_entry
from mml_lightning.zoo.importers import read_checkpoint
from tests import tiny
from tests.fuzz import mutations, overrides

CONF = Path(__file__).parents[2] / "conf"
BEGIN = train.open_result
OWN = ("checksum", "format", "version")  # fields of a manifest that are written with it
SMALL = (
    *("data.batch_size=4", "data.eval_batch_size=4", "data.workers=0", "schedule.epochs=1", "trainer.num_threads=1"),
    *("trainer.accelerator=cpu", "sampling.num_segments=2", "backbone.net.width=8", "transforms.output=32"),
    *("transforms.short_side=36", "views=center"),
)


class Started(BaseException):
    """Everything was checked: the run would begin now."""


class Vague(Exception):
    """One line, but of the last resort: no check knows what is wrong."""


@dataclass
class Ground:
    """Good input of every kind below one folder, and what is known of it."""

    folder: Path
    data: dict[str, Settings] = field(default_factory=dict)  # a config for each kind of dataset
    known: list[str] = field(default_factory=list)
    options: dict[str, list[str]] = field(default_factory=dict)
    world: Any = None  # of the attacks, once there is one

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def out(self) -> Path:
        return self.root / "single" / "run"

    @property
    def trained(self) -> Path:
        return self.root / "single" / "trained"

    def saved(self, *more: str) -> list[str]:
        """What a run remembers of its command line."""
        return [word for word in self.words(*more) if not word.startswith("paths.output_dir=")]

    def words(self, *more: str) -> list[str]:
        own = [f"paths.root={self.root}", f"paths.output_dir={self.out}", f"data.index={self.csv}"]
        return ["data=csv", *SMALL, *own, *more]

    @property
    def csv(self) -> Path:
        return self.folder / "csv" / "videos.csv"


def prepare(folder: Path) -> Ground:
    """Make the good input; trains for two steps to have weights, a checkpoint and scores."""
    ground = Ground(folder, known=overrides.keys(CONF), options=overrides.groups(CONF))
    clips = folder / "clips"
    clips.mkdir(parents=True)
    tiny.make_clips(clips)
    tiny.table(folder / "csv", clips)
    tiny.ssv2(folder / "ssv2", clips)
    tiny.frame_lists(folder / "frame_lists")
    tiny.charades(folder / "charades")
    lists = folder / "video_lists"
    shutil.copytree(folder / "csv" / "videos", lists)
    for split, numbers in tiny.SPLITS.items():
        (lists / f"{split}.txt").write_text("".join(f"{n}.mp4 {n % 2}\n" for n in numbers))
    ground.data = {
        "csv": compose("train", ground.words()),
        **{
            name: compose("train", [*ground.words()[1:-1], f"data={name}", f"data.root={folder / name}", *more])
            for name, more in {
                "ssv2": (),
                "frame_lists": ("data.sources.frames.test=test.txt",),
                "charades": (),
                "video_lists": ("test=false",),
            }.items()
        },
    }
    words = ground.words("trainer=smoke", "trainer.accelerator=cpu")
    saved = ground.saved("trainer=smoke", "trainer.accelerator=cpu")
    train.stage(compose("train", words), saved)
    ground.out.rename(ground.trained)
    (ground.trained / ".hydra").mkdir(exist_ok=True)
    (ground.trained / ".hydra" / "overrides.yaml").write_text(json.dumps(saved))
    save(compose("train", words), ground.trained / ".hydra" / "config.yaml")
    _pack(ground)
    return ground


def _pack(ground: Ground) -> None:
    args = main.parse(["pack", *ground.words(), "--out", str(ground.folder / "pack")])
    with contextlib.redirect_stdout(None):
        pack_command.run(args, lambda words: compose("train", list(words)))


def _read(cfg: Settings) -> None:
    """What a run does with the lists before it starts, and one sample of each split."""
    chosen = config_data.modalities(cfg)
    data = config_data.dataset(cfg)
    made = config_data.clip_datasets(cfg, data, None, list(chosen.values()))
    config_data.check_batch(cfg, data, 1)
    for dataset in made.values():
        dataset[(0, 0)]


def _lists(name: str, pattern: str) -> Callable[[Ground, random.Random], None]:
    def case(ground: Ground, rng: random.Random) -> None:
        file = rng.choice(sorted((ground.folder / name).glob(pattern)))
        good = file.read_bytes()
        try:
            file.write_bytes(mutations.encoded(rng, mutations.text(rng, good.decode())))
            _read(ground.data[name])
        finally:
            file.write_bytes(good)

    return case


def command(ground: Ground, rng: random.Random) -> None:
    """As `train.py` and `eval.py` do it, up to the moment when the run would begin."""
    program = rng.choice(("train", "train", "train", "eval"))
    typed = overrides.words(rng, CONF, ground.known, ground.options)
    more = [f"ckpt={ground.trained / 'peers' / 'rgb.pt'}"] if program == "eval" else []
    _start(program, hydra_app.prepare([*ground.words(), *more, *typed], CONF))


def _start(program: str, words: list[str]) -> None:
    """As `job.job` does it."""
    cfg = compose(program, words)
    try:
        (evaluate.evaluate if program == "eval" else train.stage)(cfg, words)
    except (UserError, OmegaConfBaseException):
        raise
    except Exception as error:
        raise Vague(str(job.not_begun(error, words))) from error


def whole(ground: Ground, rng: random.Random) -> None:
    """A command line that may be good, to the end of two steps: what the start lets pass must not fail later."""
    typed = overrides.words(rng, CONF, ground.known, ground.options)[:1]
    good = ground.words("trainer=smoke", "trainer.accelerator=cpu", "loading.stall=null")
    words = hydra_app.prepare([*good, *typed], CONF)
    cfg = compose("train", words)
    stopped = train.open_result
    train.open_result = BEGIN  # type: ignore[assignment]
    try:
        train.stage(cfg, words)
    except (UserError, OmegaConfBaseException, Started):
        if ground.out.exists():
            assert json.loads((ground.out / "result.json").read_text())["status"] == "failed", "it looks complete"
        raise
    except Exception as error:
        if not ground.out.exists():
            raise Vague(str(job.not_begun(error, words))) from error
        raise
    finally:
        train.open_result = stopped
        shutil.rmtree(ground.out, ignore_errors=True)
        shutil.rmtree(ground.root / "zoo", ignore_errors=True)


def weights(ground: Ground, rng: random.Random) -> None:
    """Zoo files and checkpoints, as bytes and as values that are wrong inside."""
    name = rng.choice(("peers/rgb.pt", "checkpoints/last.ckpt"))
    good, bad = ground.trained / name, ground.folder / "bad" / Path(name).name
    bad.parent.mkdir(exist_ok=True)
    if rng.random() < 0.4:
        bad.write_bytes(mutations.data(rng, good.read_bytes()))
    else:
        content = torch.load(good, map_location="cpu", weights_only=True)
        for _ in range(rng.choice((1, 1, 3))):
            content = mutations.value(rng, content)
        torch.save(content, bad)
    what = rng.randrange(4)
    if what == 0:
        read_checkpoint(bad)
    elif what == 1:
        load_entry(bad, "rgb", "rgb")
    else:
        program, word = (("train", "init.all"), ("eval", "ckpt"))[what - 2]
        _start(program, ground.words(f"{word}={bad}"))


def scores(ground: Ground, rng: random.Random) -> None:
    good, bad = ground.trained / "predictions" / "test.npz", ground.folder / "bad" / "test.npz"
    bad.parent.mkdir(exist_ok=True)
    if rng.random() < 0.4:
        bad.write_bytes(mutations.data(rng, good.read_bytes()))
    else:
        with np.load(good, allow_pickle=False) as saved:
            arrays = {key: saved[key] for key in saved.files}
        key = rng.choice(sorted(arrays))
        if rng.random() < 0.3:
            del arrays[key]
        else:
            odd = [np.zeros(3), np.array("x"), np.zeros((2, 2), np.int64), np.array(["a", "a"])]
            odd += (
                [arrays[key][..., :1], arrays[key][:1]] if arrays[key].ndim else [np.array(rng.choice(mutations.WORDS))]
            )
            arrays[key] = rng.choice(odd)
        np.savez(bad, **arrays)
    dump = predictions.load(bad)
    dump.metrics()


def directory(ground: Ground, rng: random.Random) -> None:
    """A run directory of somebody else: its overrides, its result, its checkpoint."""
    folder = ground.trained.with_name("bad_run")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ground.trained, folder)
    file = folder / rng.choice((".hydra/overrides.yaml", "result.json", "checkpoints/last.ckpt"))
    if file.suffix == ".ckpt":
        file.write_bytes(mutations.data(rng, file.read_bytes()))
    elif rng.random() < 0.5:
        file.write_bytes(mutations.encoded(rng, mutations.text(rng, file.read_text())))
    else:
        file.write_text(json.dumps(mutations.value(rng, json.loads(file.read_text()))))
    read_result(folder)
    words = hydra_app.prepare([rng.choice(("resume", "ckpt")) + f"={folder}"], CONF)
    program = "eval" if any(word.startswith("ckpt=") for word in words) else "train"
    words = [word for word in words if not word.startswith("hydra.")] + [f"paths.output_dir={ground.out}"]
    _start(program, words)


def pack(ground: Ground, rng: random.Random) -> None:
    folder = ground.folder / "pack"
    file = rng.choice([path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".jsonl")])
    good = {path: path.read_bytes() for path in (file, folder / "manifest.json")}
    try:
        if file.suffix == ".json" and rng.random() < 0.7:  # its sum is right
            fields = json.loads(good[file])
            fields = mutations.value(rng, {k: v for k, v in fields.items() if k not in OWN})
            if isinstance(fields, dict):
                write_manifest(folder, json.loads(json.dumps(fields)))
        else:
            changed = mutations.text(rng, good[file].decode())
            file.write_bytes(mutations.encoded(rng, changed))
            if file.suffix == ".jsonl" and rng.random() < 0.7:
                fields = json.loads(good[folder / "manifest.json"])
                fields["sha256"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
                write_manifest(folder, {k: v for k, v in fields.items() if k not in ("checksum", "format", "version")})
        data = read_dataset("pack", folder)
        assert set(data.splits) == set(SPLITS)
        data.fingerprint()
    finally:
        for path, content in good.items():
            path.write_bytes(content)


def attack(ground: Ground, rng: random.Random) -> None:
    from tests.fuzz import attacks  # it needs this module

    attacks.attack(ground, rng)


FAMILIES: dict[str, tuple[int, Callable[[Ground, random.Random], None]]] = {  # share of the cases in percent
    "command": (23, command),
    "whole": (1, whole),
    "attack": (10, attack),
    "csv": (10, _lists("csv", "*.csv")),
    "frame_lists": (10, _lists("frame_lists", "*.txt")),
    "video_lists": (8, _lists("video_lists", "*.txt")),
    "ssv2": (9, _lists("ssv2", "annotations/*")),
    "charades": (9, _lists("charades", "*.*")),
    "weights": (8, weights),
    "scores": (4, scores),
    "directory": (4, directory),
    "pack": (4, pack),
}
