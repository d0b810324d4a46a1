"""A stage in this process: what it leaves; same seed, same numbers; and a resume changes none."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from mml_lightning.config.settings import Settings
from mml_lightning.engine import train as engine_train
from mml_lightning.engine import trainer as engine_trainer
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.console import EpochLines
from mml_lightning.utils.errors import UserError

Train = Callable[..., dict[str, Any]]
Composed = Callable[..., tuple[Settings, list[str]]]
Same = Callable[[Path, Path], None]
FIELDS = (
    "schema status error command git_sha versions started finished wall_s metrics name stage objective setup data "
    "backbone modality views seed overrides data_fingerprint decoder fingerprint peers epochs steps clips_per_s "
    "speed unreadable damaged measured zoo evaluation resumed skipped_steps limited stopped_early checkpoint monitored"
)


def test_a_run_leaves_what_the_design_says(train: Train, tmp_path: Path) -> None:
    result = train("stage=mml", "modality=[rgb,flow,rgbdiff]")
    home = tmp_path / "zoo/demo/tiny/mml_rgb+flow+rgbdiff_from_scratch/seed0"
    folder, zoo = tmp_path / "single" / "run", home / result["fingerprint"]
    assert result["zoo"] == str(zoo) and result["limited"] == []
    assert json.loads((folder / "result.json").read_text()) == result
    assert set(result) == set(FIELDS.split())
    assert (result["status"], result["error"], result["epochs"], result["steps"]) == ("completed", None, 2, 6)
    assert result["clips_per_s"] > 0 and result["decoder"] == {"name": "decord", "version": "0.6.0"}
    for split in ("val", "test"):
        assert set(result["metrics"][split]) == {"rgb", "flow", "rgbdiff", "ensemble"}
        assert set(result["metrics"][split]["rgb"]) == {"top1", "top5", "mean_class", "loss", "ece"}
        with np.load(folder / "predictions" / f"{split}.npz") as scores:
            assert set(scores.files) == {"ids", "target", "classes", "meta", *(f"logits/{p}" for p in result["peers"])}
            assert scores["logits/flow"].dtype == np.float32 and scores["logits/flow"].shape == (11, 1, 10)
            assert len(set(scores["ids"].tolist())) == 11
            top1 = 100 * (scores["logits/rgb"][:, 0].argmax(-1) == scores["target"]).mean()
        assert result["metrics"][split]["rgb"]["top1"] == pytest.approx(top1, abs=1e-3)
    for peer, channels in (("rgb", 3), ("flow", 10), ("rgbdiff", 15)):
        assert (folder / "peers" / f"{peer}.pt").read_bytes() == (zoo / f"{peer}.pt").read_bytes()
        entry = torch.load(zoo / f"{peer}.pt", weights_only=True)
        assert entry["arch"]["in_channels"] == channels and entry["modality"]["name"] == peer
        told = entry["provenance"]
        assert (told["run"], told["stage"], told["seed"]) == ("mml_rgb+flow+rgbdiff_from_scratch", "mml", 0)
        assert told["fingerprint"] == result["fingerprint"] and told["origin"]["init"] == "scratch"
        assert (told["epochs"], told["steps"], told["limited"]) == (2, 6, [])
        assert told["metrics"]["test"]["top1"] == result["metrics"]["test"][peer]["top1"]
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1
    assert {path.name for path in folder.iterdir()} == {
        "checkpoints",
        "logs",
        "peers",
        "predictions",
        "result.json",
        "manifest.json",
    }
    columns = (folder / "logs" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/flow/kl", "train/rgb/ce", "val/rgb/top1", "val/ensemble/top1", "test/ensemble/top1"} <= set(columns)


def test_same_command_same_weights_whatever_reads(train: Train, tmp_path: Path, same_weights: Same) -> None:
    one = train("stage=mml", "modality=[rgb,flow]", "schedule.epochs=1", run="one")
    two = train("stage=mml", "modality=[rgb,flow]", "schedule.epochs=1", "data.workers=2", run="two")
    assert one["metrics"] == two["metrics"] and one["fingerprint"] == two["fingerprint"]
    for peer in ("rgb", "flow"):
        same_weights(tmp_path / f"single/one/peers/{peer}.pt", tmp_path / f"single/two/peers/{peer}.pt")
    other = train("stage=mml", "modality=[rgb,flow]", "schedule.epochs=1", "seed=1", run="other")
    assert other["metrics"] != one["metrics"]


def test_validation_now_and_then_changes_no_number(train: Train, tmp_path: Path, same_weights: Same) -> None:
    """Of four epochs every second is followed by one, of three the second and the last."""
    for epochs, validated in ((4, [2, 4]), (3, [2, 3])):
        often, seldom = (
            train(f"schedule.epochs={epochs}", f"trainer.validations={times}", "test=false", run=f"{epochs}_{times}")
            for times in ("null", 2)
        )
        assert seldom["metrics"] == often["metrics"] and seldom["fingerprint"] == often["fingerprint"]
        same_weights(*(tmp_path / f"single/{epochs}_{times}/peers/rgb.pt" for times in ("null", 2)))
        with (tmp_path / f"single/{epochs}_2/logs/metrics.csv").open() as handle:
            rows = [row for row in csv.DictReader(handle) if row["val/rgb/top1"]]
        assert len(rows) == len(validated)
        assert [int(row["step"]) for row in rows][:1] == [2 * 3 - 1]
    with pytest.raises(UserError, match=r"trainer\.validations=0 must be a whole number from 1"):
        train("trainer.validations=0")
    with pytest.raises(UserError, match=r"callbacks\.speed_every_steps=0 must be a whole number from 1"):
        train("callbacks.speed_every_steps=0")


def test_a_peer_does_not_depend_on_who_trains_beside_it(train: Train, tmp_path: Path, same_weights: Same) -> None:
    own = ("schedule.epochs=1", "sampling.shared=false")  # a shared draw depends on the shortest source
    train(*own, run="alone")
    train(*own, "stage.copies=2", run="pair")
    train(*own, "modality=[flow,rgb]", run="mixed")
    for other in ("pair", "mixed"):
        same_weights(tmp_path / "single/alone/peers/rgb.pt", tmp_path / f"single/{other}/peers/rgb.pt")
    with pytest.raises(AssertionError):
        same_weights(tmp_path / "single/alone/peers/rgb.pt", tmp_path / "single/pair/peers/rgb_1.pt")


def test_a_chain_of_stages(train: Train, tmp_path: Path, same_weights: Same) -> None:
    """CE of two networks -> ML of both -> MML from the first; origins are told, a file does as well as its alias."""
    ce = train("stage.copies=2", "schedule.epochs=1", run="ce")
    ml = train("stage=ml", "init=ce", "schedule.epochs=1", run="ml")
    assert set(ml["peers"]) == {"rgb", "rgb_1"} and ml["name"] == "ml_rgb_from_ce"
    assert ml["peers"]["rgb_1"]["origin"] == str(Path(ce["zoo"]) / "rgb_1.pt")
    assert ml["peers"]["rgb_1"]["origin_fingerprint"] == ce["fingerprint"]
    mml = train("stage=mml", "modality=[rgb,flow]", "init=ml", "schedule.epochs=1", run="mml")
    assert mml["peers"]["flow"]["origin"] == str(Path(ml["zoo"]) / "rgb.pt")
    for name, file in (("peer", "peers/rgb.pt"), ("checkpoint", "checkpoints/last.ckpt")):
        given = [f"init.rgb={tmp_path / 'single/ml' / file}", f"init.flow={tmp_path / 'single/ml/peers/rgb.pt'}"]
        train("stage=mml", "modality=[rgb,flow]", *given, "schedule.epochs=1", run=name)
        for peer in ("rgb", "flow"):
            same_weights(tmp_path / f"single/mml/peers/{peer}.pt", tmp_path / f"single/{name}/peers/{peer}.pt")


def test_reduced_mml_and_three_copies(train: Train) -> None:
    train("schedule.epochs=1", run="ce")
    result = train("stage=reduced_mml", "modality=[rgb,flow]", "schedule.epochs=1", run="reduced")
    assert result["name"] == "reduced_mml_rgb+flow_from_ce"
    result = train("stage=ml", "stage.copies=3", "schedule.epochs=1", "trainer=smoke", run="three")
    assert set(result["metrics"]["test"]) == {"rgb", "rgb_1", "rgb_2", "ensemble"}


class StopAfter(pl.Callback):
    """Ends the process's run like a power cut, once the checkpoint of an epoch is written."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epochs:
            raise ConnectionResetError("power cut")


def test_resume_is_bit_equal_and_stays_in_its_directory(
    train: Train, tmp_path: Path, same_weights: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("stage=mml", "modality=[rgb,flow]", "schedule.epochs=3", "sampling=random", "sampling.num_segments=4")
    whole = train(*settings, run="whole")
    with monkeypatch.context() as patch:
        plain = engine_trainer.training_callbacks
        patch.setattr(engine_train, "training_callbacks", lambda *given: [*plain(*given), StopAfter(2)])
        with pytest.raises(ConnectionResetError):
            train(*settings, run="cut")
    cut = tmp_path / "single" / "cut"
    told = json.loads((cut / "result.json").read_text())
    assert (told["status"], told["error"]) == ("failed", "ConnectionResetError: power cut")
    assert not (cut / "peers").exists()
    resumed = train(*settings, f"resume='{cut}'", run="cut")
    assert (resumed["status"], resumed["metrics"], resumed["steps"]) == ("completed", whole["metrics"], whole["steps"])
    assert resumed["fingerprint"] == whole["fingerprint"]
    for peer in ("rgb", "flow"):
        same_weights(tmp_path / f"single/whole/peers/{peer}.pt", cut / f"peers/{peer}.pt")
    assert {path.name for path in (tmp_path / "single").iterdir()} == {"whole", "cut"}
    assert {path.name for path in (cut / "logs").glob("*.csv")} == {"metrics.csv"}
    assert (cut / "logs/metrics.csv").read_bytes() == (tmp_path / "single/whole/logs/metrics.csv").read_bytes()
    # a run that had finished is measured and exported again, with the same numbers
    again = train(*settings, f"resume='{cut}'", run="cut")
    assert again["metrics"] == whole["metrics"] and again["clips_per_s"] is None


class Cut:
    """A value whose writing is interrupted, and whose file then complains, as torch.save does."""

    def __reduce__(self) -> Any:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("unexpected pos")


def test_ctrl_c_while_a_checkpoint_is_written(
    train: Train, tmp_path: Path, same_weights: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train("schedule.epochs=3", run="whole")
    with monkeypatch.context() as patch:
        patch.setattr(
            Cohort,
            "on_save_checkpoint",
            lambda self, content: content.update(cut=Cut()) if self.current_epoch == 1 else None,
        )
        with pytest.raises(KeyboardInterrupt):
            train("schedule.epochs=3", run="cut")
    cut = tmp_path / "single" / "cut"
    assert json.loads((cut / "result.json").read_text())["error"] == "interrupted"
    assert [path.name for path in (cut / "checkpoints").iterdir()] == ["last.ckpt"], "the one before, whole"
    assert train("schedule.epochs=3", f"resume='{cut}'", run="cut")["metrics"] == whole["metrics"]
    same_weights(tmp_path / "single/whole/peers/rgb.pt", cut / "peers/rgb.pt")


def test_resume_refuses_what_its_checkpoint_would_overrule(train: Train, composed: Composed, tmp_path: Path) -> None:
    train(run="first")
    resume = f"resume='{tmp_path / 'single/first'}'"
    for changed in ("optimizer.lr=0.5", "backbone.net.width=16", "sampling.num_segments=2", "seed=3"):
        cfg, typed = composed(resume, changed, run="first")
        with pytest.raises(UserError, match=rf"{changed.split('=')[0]} was .* now"):
            engine_train.stage(cfg, typed)
    longer = train(resume, "schedule.epochs=3", "data.eval_batch_size=4", run="first")
    assert longer["epochs"] == 3


def test_resume_without_a_checkpoint_starts_over(train: Train, tmp_path: Path) -> None:
    (tmp_path / "single/run").mkdir(parents=True)
    assert train(f"resume='{tmp_path / 'single/run'}'", "schedule.epochs=1")["epochs"] == 1


def test_fingerprint_ignores_what_cannot_change_weights(train: Train) -> None:
    short = ("schedule.epochs=1", "trainer=smoke")
    base = train(*short, run="a")["fingerprint"]
    assert train(*short, "views=uniform2", "tags=[x]", "data.eval_batch_size=3", run="b")["fingerprint"] == base
    assert train(*short, "optimizer.lr=0.5", run="c")["fingerprint"] != base
    assert train(*short, "flow.preset=fast", run="d")["fingerprint"] == base, "a run without flow"


def test_callbacks_none_leaves_no_checkpoint_and_says_no_epoch(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train("callbacks=none", "schedule.epochs=1", "test=false")
    assert "epoch 1/1" not in caplog.text
    assert not (tmp_path / "single/run/checkpoints").exists()
    assert not (tmp_path / "single/run/predictions/test.npz").exists()


def test_trainer_has_lines_or_a_bar(composed: Composed, tmp_path: Path) -> None:
    for bar, every in (("true", None), ("false", 30.0)):
        cfg, _ = composed(f"callbacks.progress_bar={bar}")
        trainer = engine_trainer.make_trainer(cfg, tmp_path / "x", [])
        lines = next(c for c in trainer.callbacks if isinstance(c, EpochLines))  # type: ignore[attr-defined]
        assert lines.every == every and (trainer.progress_bar_callback is not None) == (bar == "true")


def test_a_3d_network_trains_with_every_batch_norm_option(train: Train, tmp_path: Path) -> None:
    own = ("backbone=i3d_tiny", "trainer=smoke", "schedule.epochs=1", "modality=[rgb,flow]", "stage=mml")
    norms = ("batch_norm.group_size=4", "batch_norm.precise=1", "batch_norm.freeze=partial")
    with pytest.raises(UserError, match=r"freeze=partial would keep 4 batch norms of rgb at zero for good \(first net"):
        train(*own, *norms, run="silent")
    plain = train(*own, run="plain")
    start = [f"init.{peer}={tmp_path}/single/plain/peers/{peer}.pt" for peer in ("rgb", "flow")]
    changed = train(*own, *norms, *start, run="norms")
    assert plain["fingerprint"] != changed["fingerprint"]
    first, second = (
        torch.load(tmp_path / f"single/{run}/peers/flow.pt", weights_only=True) for run in ("plain", "norms")
    )
    assert first["arch"]["builder"] == "video_resnet" and first["arch"]["in_channels"] == 10
    assert first["state_dict"]["net.conv1.weight"].shape == (8, 10, 5, 3, 3)
    assert list(first["state_dict"]) == list(second["state_dict"])
    still = "net.layer1.0.bn1.running_mean"
    assert first["state_dict"][still].any() and torch.equal(first["state_dict"][still], second["state_dict"][still])
    assert not torch.equal(first["state_dict"]["net.bn1.running_mean"], second["state_dict"]["net.bn1.running_mean"])


def test_windows_are_averaged_as_the_labels_say(train: Train, tmp_path: Path) -> None:
    own = ("backbone=i3d_tiny", "backbone.net.eval_pool=sliding", "backbone.net.activation=sigmoid")
    with pytest.raises(UserError, match=r"head label has one label per video.*backbone\.net\.activation=softmax"):
        train(*own)
    assert not (tmp_path / "single").exists()


@pytest.mark.parametrize(
    "override, message",
    [
        ("batch_norm.group_size=3", "batch_norm.group_size=3 does not divide data.batch_size=8 on 1 rank"),
        (
            "batch_norm.freeze=true",
            r"batch_norm.freeze=True is unknown; use one of \['none', 'partial', 'stats', 'all'\]",
        ),
    ],
)
def test_batch_norm_mistakes_are_named_before_anything_is_written(
    train: Train, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(override)
    assert not (tmp_path / "single").exists()


def test_flow_without_a_cache(train: Train, composed: Composed, tmp_path: Path, same_weights: Same) -> None:
    """In the workers: the weights of a run with the cache. On the device: a network of ten channels."""
    words = ["modality=[flow]", "flow.preset=ultrafast", "schedule.epochs=1", "test=false"]
    cached, live = (
        train(*words, run="a"),
        train(*words, "flow.on_the_fly=true", f"paths.cache={tmp_path / 'b'}", run="b"),
    )
    assert cached["metrics"]["val"]["flow"] == live["metrics"]["val"]["flow"] and not (tmp_path / "b").exists()
    same_weights(tmp_path / "single/a/peers/flow.pt", tmp_path / "single/b/peers/flow.pt")
    device = train("modality=[liveflow]", "schedule.epochs=1", "test=false", "sampling.num_segments=2", run="c")
    entry = torch.load(tmp_path / "single/c/peers/liveflow.pt", weights_only=True)
    assert entry["arch"]["in_channels"] == 10 and device["status"] == "completed"
