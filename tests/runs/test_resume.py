"""A run that was cut anywhere and is continued equals one that was not: weights, numbers, logs."""

from __future__ import annotations

import functools
import json
import logging
import multiprocessing
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Timer

from mml_lightning.config.settings import Settings
from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.engine import train as engine_train
from mml_lightning.engine import trainer as engine_trainer
from mml_lightning.training import checkpoints
from mml_lightning.utils import preemption
from mml_lightning.utils.errors import Preempted, UserError

Train = Callable[..., dict[str, Any]]
Composed = Callable[..., tuple[Settings, list[str]]]
Same = Callable[[Path, Path], None]
MML = (
    *("stage=mml", "modality=[rgb,flow]", "data.batch_size=4", "trainer.accumulate_grad_batches=2"),
    *("optimizer.clip_norm=0.5", "sampling=random", "sampling.num_segments=4", "callbacks.checkpoint_every_steps=1"),
)
CE = ("data.batch_size=4", "callbacks.checkpoint_every_steps=1", "schedule=cosine", "schedule.epochs=2")
LP_FT = (  # one epoch of three steps, then two with another kind of optimiser and another schedule
    *("stage=lp_ft", "init=scratch", "schedule.epochs=3", "phases.0.epochs=1", "backbone.net.dropout=0.3"),
    *("callbacks.checkpoint_every_steps=1", "phases.1.optimizer.lr=0.002", "+phases.1.optimizer.groups=plain"),
    "+phases.1.optimizer.optimizer={_target_: torch.optim.AdamW, _partial_: true}",
    "+phases.1.schedule={interval: epoch, factor: {warmup_epochs: 0}}",
)


class Cut(pl.Callback):
    """The power goes before a hook's n-th call has done anything."""

    def __init__(self, hook: str, calls: int) -> None:
        self.left = calls

        def count(*args: Any, **kwargs: Any) -> None:
            self.left -= 1
            if self.left == 0:
                raise ConnectionResetError("power cut")

        setattr(self, hook, count)


@pytest.fixture
def cut(train: Train, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """cut(hook, n, *overrides, run=...) trains until a hook is called for the n-th time."""

    return functools.partial(train_until, train, monkeypatch)


def train_until(
    train: Train, monkeypatch: pytest.MonkeyPatch, hook: str, calls: int, *overrides: str, run: str
) -> None:
    """Train until a hook is called for the n-th time."""
    from mml_lightning.engine import train as runs
    from mml_lightning.engine import trainer as engine_trainer

    plain, before = engine_trainer.training_callbacks, multiprocessing.active_children()
    with monkeypatch.context() as patch:
        patch.setattr(runs, "training_callbacks", lambda *given: [*plain(*given), Cut(hook, calls)])
        with pytest.raises(ConnectionResetError):
            train(*overrides, run=run)
    for worker in multiprocessing.active_children():
        if worker not in before:
            worker.kill()  # it would be waited for whenever the loader is collected, seconds each


def assert_equal_runs(one: Path, two: Path, same_weights: Same) -> None:
    for peer in (one / "peers").glob("*.pt"):
        same_weights(peer, two / "peers" / peer.name)
    assert (one / "logs/metrics.csv").read_text() == (two / "logs/metrics.csv").read_text()
    first, second = (json.loads((folder / "result.json").read_text()) for folder in (one, two))
    for key in ("metrics", "fingerprint", "steps", "epochs", "measured"):
        assert first[key] == second[key], key
    with np.load(one / "predictions/test.npz") as scores, np.load(two / "predictions/test.npz") as others:
        assert all(np.array_equal(scores[key], others[key]) for key in scores.files if key.startswith("logits"))


@pytest.fixture(scope="session")
def whole(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that nothing interrupts."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from mml_lightning.config.compose import compose
    from tests.conftest import CONF

    folder = tmp_path_factory.mktemp("whole")
    for name, settings in (("mml", MML), ("ce", CE), ("lp_ft", LP_FT)):
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            typed = [*small, f"paths.root={folder}", *settings]
            engine_train.stage(compose("train", overrides=[*typed, f"paths.output_dir={folder / name}"]), typed)
    return {name: folder / name for name in ("mml", "ce", "lp_ft")}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("hook", "calls"),
    [
        ("on_train_batch_start", 4),  # gradients of a step are half there
        ("on_train_batch_start", 11),  # in the second epoch
        ("on_validation_epoch_end", 1),  # the last step of the epoch is done, its validation is not
        ("on_train_epoch_start", 2),  # between two epochs
    ],
)
def test_a_cut_run_equals_a_whole_one(
    cut: Callable[..., None],
    train: Train,
    tmp_path: Path,
    whole: dict[str, Path],
    same_weights: Same,
    hook: str,
    calls: int,
    workers: int,
) -> None:
    settings = (*MML, f"data.workers={workers}")
    cut(hook, calls, *settings, run="cut")
    folder = tmp_path / "single/cut"
    result = train(*settings, "resume=auto", run="cut")
    assert [told["checkpoint"] for told in result["resumed"]] == ["last.ckpt"]
    assert_equal_runs(whole["mml"], folder, same_weights)


def test_cut_at_the_end_of_an_epoch_that_is_not_validated(
    cut: Callable[..., None], train: Train, tmp_path: Path, same_weights: Same
) -> None:
    settings = (*CE, "trainer.validations=1")
    train(*settings, run="whole")
    cut("on_train_epoch_end", 1, *settings, run="cut")
    assert [told["step"] for told in train(*settings, "resume=auto", run="cut")["resumed"]] == [5]
    assert_equal_runs(tmp_path / "single/whole", tmp_path / "single/cut", same_weights)


def test_cut_again_and_again_with_a_schedule_by_step(
    cut: Callable[..., None],
    train: Train,
    tmp_path: Path,
    whole: dict[str, Path],
    same_weights: Same,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was done is not read again: every start reads the samples of its own steps only."""
    read: list[int] = []
    load = ClipDataset._load
    monkeypatch.setattr(
        ClipDataset,
        "_load",
        lambda self, record, epoch: (self.replace and read.append(epoch)) or load(self, record, epoch),
    )
    cut("on_train_batch_start", 5, *CE, run="cut")
    assert len(read) == 5 * 4
    cut("on_train_batch_start", 5, *CE, "resume=auto", run="cut")
    assert len(read) == (5 + 5) * 4 and read.count(1) == 3 * 4
    cut("on_test_batch_end", 1, *CE, "resume=auto", run="cut")
    assert len(read) == (4 + 4 + 1 + 1 + 4) * 4
    result = train(*CE, "resume=auto", run="cut")  # nothing to train, all to measure
    assert [told["step"] for told in result["resumed"]] == [4, 8, 12] and len(read) == 14 * 4
    assert_equal_runs(whole["ce"], tmp_path / "single/cut", same_weights)


def test_phases_cut_before_every_step(
    cut: Callable[..., None], train: Train, tmp_path: Path, whole: dict[str, Path], same_weights: Same
) -> None:
    """Within each phase and between them: every start makes one step, the one in the middle the first of a phase."""
    cut("on_train_batch_start", 2, *LP_FT, run="cut")
    for _ in range(7):
        cut("on_train_batch_start", 2, *LP_FT, "resume=auto", run="cut")
    result = train(*LP_FT, "resume=auto", run="cut")
    assert [told["step"] for told in result["resumed"]] == [*range(1, 9)]
    assert_equal_runs(whole["lp_ft"], tmp_path / "single/cut", same_weights)


@pytest.mark.parametrize(
    ("hook", "calls"),
    [
        ("on_validation_epoch_end", 1),  # the last step of the phase is done, its validation is not
        ("on_train_epoch_start", 2),  # between two phases
        ("on_train_epoch_start", 3),  # between two epochs of one
    ],
)
def test_phases_cut_at_their_ends(
    cut: Callable[..., None],
    train: Train,
    tmp_path: Path,
    whole: dict[str, Path],
    same_weights: Same,
    hook: str,
    calls: int,
) -> None:
    cut(hook, calls, *LP_FT, run="cut")
    folder = tmp_path / "single/cut"
    content = checkpoints.read(folder / "checkpoints/last.ckpt")
    assert content["phase"] == ({"number": 1, "name": "all"} if calls == 3 else {"number": 0, "name": "head"})
    train(*LP_FT, "resume=auto", run="cut")
    assert_equal_runs(whole["lp_ft"], folder, same_weights)


def test_phases_that_have_begun_can_not_be_changed(cut: Callable[..., None], train: Train, tmp_path: Path) -> None:
    """Those to come may take longer; a phase that is on, or was, is as it was: its optimiser is in the checkpoint."""
    cut("on_train_batch_start", 5, *LP_FT, run="cut")  # in the second phase
    folder = tmp_path / "single/cut"
    for words in (("phases.0.epochs=2",), ("phases.1.train=[rgb.head]",), ("phases=[]",), ("phases.0.name=x",)):
        with pytest.raises(UserError, match=r"its phases until then were head from epoch 1 \(all\.head\), all from ep"):
            train(*LP_FT, *words, "resume=auto", "resume_force=true", run="cut")
    with pytest.raises(UserError, match=r"phases\.1\.optimizer\.lr was 0\.002 and is 0\.1 now"):
        train(*LP_FT, "phases.1.optimizer.lr=0.1", "resume=auto", run="cut")
    longer = train(*LP_FT, "schedule.epochs=4", "resume=auto", run="cut")
    assert longer["epochs"] == 4 and longer["resumed"][0]["schedule"] == [
        "phases.1.epochs was 2 and is 3 now",
        "schedule.epochs was 3 and is 4 now",
    ]
    assert not list(folder.glob("peers_after*"))


@pytest.mark.parametrize(
    ("name", "settings", "hook", "calls", "step"),
    [
        ("ce", CE, "on_train_batch_start", 4, 4),
        ("ce", CE, "on_validation_batch_start", 1, 6),
        ("lp_ft", LP_FT, "on_train_batch_start", 4, 4),  # the first step of a phase
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_heard_at_the_next_step(
    train: Train,
    tmp_path: Path,
    whole: dict[str, Path],
    same_weights: Same,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    settings: tuple[str, ...],
    hook: str,
    calls: int,
    step: int,
    number: signal.Signals,
) -> None:
    """Only what the signal asks for is saved: no checkpoint by the number of steps."""

    class Ask(Cut):
        def __init__(self) -> None:
            super().__init__(hook, calls)
            cut = getattr(self, hook)

            def ask(*args: Any, **kwargs: Any) -> None:
                try:
                    cut()
                except ConnectionResetError:
                    signal.raise_signal(number)

            setattr(self, hook, ask)

    seldom = (*settings, "callbacks.checkpoint_every_steps=null")
    plain = engine_trainer.training_callbacks
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(engine_train, "training_callbacks", lambda *given: [*plain(*given), Ask()])
        with pytest.raises(Preempted, match=f"step {step}"), preemption.LISTENER.listen():
            train(*seldom, run="cut")
    assert signal.getsignal(number) == before
    told = json.loads((tmp_path / "single/cut/result.json").read_text())
    assert told["status"] == "preempted" and f"step {step}" in told["error"]
    assert [told["step"] for told in train(*seldom, "resume=auto", run="cut")["resumed"]] == [step]
    assert_equal_runs(whole[name], tmp_path / "single/cut", same_weights)


def test_a_signal_outside_of_training_ends_at_once() -> None:
    with pytest.raises(Preempted, match="SIGTERM"), preemption.LISTENER.listen() as listener:
        signal.raise_signal(signal.SIGTERM)
    assert listener.asked == signal.SIGTERM and not listener.listening


def test_who_listened_before_is_told() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        with preemption.LISTENER.listen() as listener:
            listener.deferring = True
            signal.raise_signal(signal.SIGUSR1)
            assert heard == []
            listener.hand_on()
        assert heard == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_checkpoints_by_the_clock(tmp_path: Path) -> None:
    time = [0.0]
    made = checkpoints.Checkpoints(tmp_path, None, 5.0, now=lambda: time[0])
    made._agreement = preemption.Agreement(1)
    trainer: Any = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    assert made._wishes(trainer) == [False, False]
    time[0] = 300.0
    assert made._wishes(trainer) == [False, True]


def test_the_older_one_is_there_when_the_newest_is_damaged(
    cut: Callable[..., None],
    train: Train,
    composed: Composed,
    tmp_path: Path,
    whole: dict[str, Path],
    same_weights: Same,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cut("on_train_batch_start", 5, *CE, run="cut")
    folder = tmp_path / "single/cut"
    files = folder / "checkpoints"
    assert {path.name for path in files.iterdir()} == {"last.ckpt", "previous.ckpt"}
    content = bytearray((files / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    (files / "last.ckpt").write_bytes(content)
    result = train(*CE, "resume=auto", run="cut")
    assert "CONTINUING FROM THE PREVIOUS ONE, previous.ckpt (step 3)" in caplog.text
    assert result["resumed"] == [{"checkpoint": "previous.ckpt", "step": 3, "forced": []}]
    assert_equal_runs(whole["ce"], folder, same_weights)
    for damage, message in (
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "it is truncated or not a checkpoint"),
        (lambda path: path.write_bytes(b""), "it is truncated or not a checkpoint"),
        (lambda path: torch.save({"state_dict": {}}, path), "it is not a checkpoint of a run"),
        (lambda path: torch.save(Path("x"), path), "it is not a checkpoint"),
        (lambda path: shutil.copy(folder / "predictions/test.npz", path), "it is not a checkpoint"),
    ):
        for path in files.iterdir():
            damage(path)
        with pytest.raises(UserError, match=rf"last.ckpt can't be used: {message}.*previous.ckpt.*delete it"):
            engine_train.stage(*composed(*CE, "resume=auto", run="cut"))


def test_resume_names_what_differs_and_can_be_forced(
    train: Train, composed: Composed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train("schedule.epochs=1", run="first")
    resume = (f"resume='{tmp_path / 'single/first'}'", "schedule.epochs=2")
    for changed, message in (
        (("objective.supervised_weight=0.5",), r"objective\.supervised_weight was 1\.0 and is 0\.5 now"),
        (("stage=ml", "stage.copies=2"), "its peers were rgb and are rgb, rgb_1 now"),
        (("modality=[rgb,flow]",), "its peers were rgb and are rgb, flow now"),
        (("data.decoder=pyav",), r"its videos were read by decord 0\.6\.0 and are now read by pyav"),
        (("trainer.precision=bf16-mixed",), "trainer.precision was 32-true"),
    ):
        with pytest.raises(UserError, match=message):
            engine_train.stage(*composed(*resume, *changed, run="first"))
    edited = tmp_path / "single/edited"
    shutil.copytree(tmp_path / "single/first", edited)
    content = torch.load(edited / "checkpoints/last.ckpt", weights_only=True)
    content["hyper_parameters"]["data"]["fingerprint"] = "of other videos"
    torch.save(content, edited / "checkpoints/last.ckpt")
    with pytest.raises(UserError, match="its data have changed: remove what differs"):
        engine_train.stage(*composed("resume=auto", "schedule.epochs=2", run="edited"))
    with pytest.raises(UserError, match="its peers were"):
        engine_train.stage(*composed(*resume, "modality=[rgb,flow]", "resume_force=true", run="first"))
    forced = train(*resume, "optimizer.lr=0.5", "resume_force=true", run="first")
    assert forced["resumed"][0]["forced"] == ["optimizer.lr was 0.05 and is 0.5 now"] and forced["epochs"] == 2
    assert "resume_force: optimizer.lr was" in caplog.text


def test_a_setting_that_came_into_being_since_does_not_refuse(train: Train, composed: Composed, tmp_path: Path) -> None:
    train("schedule.epochs=1", run="first")
    last = tmp_path / "single/first/checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    del content["hyper_parameters"]["config"]["optimizer"]["flow_stem_lr5"]
    torch.save(content, last)
    again = ("resume=auto", "schedule.epochs=1")
    assert train(*again, run="first")["status"] == "completed"
    with pytest.raises(UserError, match=r"optimizer\.flow_stem_lr5 was None and is True now"):
        engine_train.stage(*composed(*again, "optimizer.flow_stem_lr5=true", run="first"))


@pytest.mark.parametrize("lessons", [(), ("stage=mars", "objective.edges.0.project=true", "init=scratch")])
def test_networks_of_two_kinds_go_on_as_well(
    cut: Callable[..., None], train: Train, tmp_path: Path, same_weights: Same, lessons: tuple[str, ...]
) -> None:
    own = (*MML, "backbone=tsm_resnet50", "backbone.flow=tsm_resnet18", "backbone.flow.net.width=8", *lessons)
    train(*own, run="whole")
    cut("on_train_batch_start", 4, *own, run="cut")
    with pytest.raises(UserError, match=r"backbone\.flow\.net\.width was 8 and is 4 now"):
        train(*own, "backbone.flow.net.width=4", "resume=auto", run="cut")
    train(*own, "resume=auto", run="cut")
    assert_equal_runs(tmp_path / "single/whole", tmp_path / "single/cut", same_weights)


@pytest.mark.parametrize("by", ["max_time", "callback"])
def test_a_run_that_time_has_stopped_within_an_epoch_goes_on_as_if_it_had_not(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    by: str,
    whole: dict[str, Path],
    same_weights: Same,
) -> None:
    """Lightning's own timer, with a clock that counts steps."""
    caplog.set_level(logging.INFO)
    settings = (*(word for word in CE if "every_steps" not in word), "checkpoint.monitor=val/rgb/loss")
    timer = "+trainer.max_time" if by == "max_time" else "+callbacks.timer.duration"
    called = () if by == "max_time" else ("+callbacks.timer._target_=lightning.pytorch.callbacks.Timer",)
    plain, clock = Timer.on_train_batch_end, [0]

    def ticks(timer: Timer, trainer: pl.Trainer, *given: Any, **named: Any) -> None:
        clock[0] = trainer.global_step
        plain(timer, trainer, *given, **named)

    monkeypatch.setattr(Timer, "on_train_batch_end", ticks)
    monkeypatch.setattr(Timer, "time_elapsed", lambda timer, stage="train": float(clock[0]))
    cut = train(*settings, *called, f"{timer}={{seconds: 8}}", "test=false")
    run = tmp_path / "single/run"
    limit = "trainer.max_time={'seconds': 8}" if by == "max_time" else "callbacks.timer.duration={'seconds': 8}"
    assert (cut["steps"], cut["limited"]) == (8, [limit]) and not (tmp_path / "zoo").exists()
    assert f"stopped by {limit} in epoch 2, at step 8; it goes on with resume={run}" in caplog.text
    train(*settings, *called, f"{timer}={{hours: 9}}", f"resume={run}")
    told = json.loads((run / "result.json").read_text())
    assert told["limited"] == [] and not told["resumed"][0]["forced"] and (tmp_path / "zoo").exists()
    assert told["steps"] == 12
    same_weights(whole["ce"] / "peers/rgb.pt", run / "peers/rgb.pt")
    assert (whole["ce"] / "logs/metrics.csv").read_text() == (run / "logs/metrics.csv").read_text()
