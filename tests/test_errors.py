"""Mistakes of a user: one line that names the fix, exit code 2, no traceback, nothing half written."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from mml_lightning.config.settings import Settings
from mml_lightning.engine import evaluate
from mml_lightning.engine import train as engine_train
from mml_lightning.utils.errors import UserError

Shell = Callable[..., subprocess.CompletedProcess[str]]
Composed = Callable[..., tuple[Settings, list[str]]]
Train = Callable[..., dict[str, Any]]


def test_mistakes_on_the_command_line(shell: Shell, tmp_path: Path) -> None:
    """Through the front door: what is printed, the exit code, and that nothing is left behind."""
    cases = {
        ("stage=mml", "modality=[rgb]"): "for one use stage=ml",
        ("resume=",): "need a run directory",
        ("modality=[rgb,rgb]",): "two networks of one modality are stage=ml",
        (
            "modality=[rgb,radar]",
        ): "'radar' is unknown; use one of ['audio', 'audio_mel', 'audio_small', 'flow', 'liveflow', ",
        ("data=ssv2",): "data.root is required",
    }
    for overrides, message in cases.items():
        done = shell("train", f"paths.root={tmp_path}", *overrides, plain=True)
        assert done.returncode == 2, (overrides, done)
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        assert len(said) == 1 and message in said[0] and "error: " in said[0], said
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("override", ["optimizer.lrr=1", "stage=mlm", "init.flow=ce"])
def test_hydra_names_its_own_mistakes(shell: Shell, tmp_path: Path, override: str) -> None:
    done = shell("train", override)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and override.split("=")[0].split(".")[-1] in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


IN_PROCESS = {
    "schedule.epochs=-1": "schedule.epochs=-1 must be a whole number from 1",
    "schedule.epochs=many": "schedule.epochs=many must be a whole number",
    "seed=-1": "seed=-1",
    "optimizer.lr=fast": "optimizer.lr=fast must be a number",
    "data.workers=-1": "data.workers=-1",
    "data.batch_size=25": "data.batch_size=25 is larger than the train split (24 videos)",
    "data.videos.val=0": "the demo in .* was made with",
    "init.all=/no/such/file.pt": "no such file",
    "init.all=imagenet": "has no ImageNet weights",
    "init.rgb=nonsense": "unknown; use scratch, imagenet",
    "stage.copies=0": "stage.copies=0",
    "objective=mutual": "the run has one; use stage=ml",
    "sampling.mode=often": "often",
    "sampling.policy=guess": "guess",
    "views.pooling=median": "views.pooling='median' is unknown",
    "views.ensemble=median": "views.ensemble='median' is unknown",
    "metrics.ap=micro": "metrics.ap='micro' is unknown",
    "metrics.empty_class=skip": "metrics.empty_class='skip' is unknown",
    "views.uniform=0": "ask for at least one clip",
    "transforms.scales=[]": "scales",
    "data.decoder=opencv": "decoder",
    "optimizer.groups=mine": "use one of ['tsn', 'slowfast', 'plain']",
    "trainer.accelerator=abacus": "trainer: .*abacus",
    "trainer.devices=0": "trainer: ",
    "backbone.net.depth=20": "depth",
    "backbone.net.shift_place=nowhere": "nowhere",
    "modality.rgb.window=0": "modality rgb: ",
    "modality.rgb.source=radar": "source 'radar' is unknown",
}


@pytest.mark.parametrize("override", IN_PROCESS)
def test_mistake_is_found_before_anything_is_written(composed: Composed, tmp_path: Path, override: str) -> None:
    cfg, typed = composed(override)
    with pytest.raises(UserError) as caught:
        engine_train.stage(cfg, typed)
    text = str(caught.value)
    assert "\n" not in text
    assert IN_PROCESS[override] in text or re.search(IN_PROCESS[override], text), text
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def videos_csv(folder: Path, demo: Path, label: str = "label", **replaced: Path) -> Path:
    """A CSV over the demo's videos, twelve for training and four each to measure; `replaced`: id -> file instead."""
    files = sorted((demo / "data" / "videos").iterdir())[:20]
    index = folder / "videos.csv"
    with index.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["id", "path", label, "split"])
        for number, file in enumerate(files):
            split = "train" if number < 12 else "val" if number < 16 else "test"
            writer.writerow([f"v{number}", replaced.get(f"v{number}", file), f"class{number % 3}", split])
    return index


@pytest.fixture
def own(small: list[str], hydra: None, tmp_path: Path) -> Callable[..., tuple[Settings, list[str]]]:
    """own(index, *overrides): a small run on a CSV."""
    from mml_lightning.config.compose import compose
    from mml_lightning.utils.process import quieten_libraries

    quieten_libraries()

    def make(index: Path, *overrides: str, program: str = "train", folder: str = "run") -> tuple[Settings, list[str]]:
        kept = [item for item in small if not item.startswith(("data.videos", "data.root"))]
        typed = ["data=csv", f"data.index={index}", *kept, "data.batch_size=4", f"paths.root={tmp_path}", *overrides]
        return compose(program, overrides=[*typed, f"paths.output_dir={tmp_path / folder}"]), typed

    return make


def test_own_videos_train(own: Composed, demo: Path, tmp_path: Path) -> None:
    cfg, typed = own(videos_csv(tmp_path, demo), "schedule.epochs=1")
    assert engine_train.stage(cfg, typed)["status"] == "completed"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text.replace("id,path,label", "id,path,colour"), "no label column"),
        (lambda text: text.replace(",train", ",val"), "the train split is empty"),
        (lambda text: text.replace(",test", ",exam"), "exam"),
        (lambda text: re.sub(r"class\d", "one", text), "at least two are needed"),
        (lambda text: text.replace("v1,", "v0,", 1), "id 'v0' appears 2 times"),
        (lambda text: re.sub(r"v3,[^,]*", "v3,gone.mp4", text), "1 of 20 videos are missing, first: .*gone.mp4"),
        (lambda text: "", "no line below the header|can't read"),
    ],
)
def test_a_wrong_index(own: Composed, demo: Path, tmp_path: Path, change: Any, message: str) -> None:
    index = videos_csv(tmp_path, demo)
    index.write_text(change(index.read_text()))
    with pytest.raises(UserError, match=message):
        engine_train.stage(*own(index))
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {index}


def damaged(folder: Path) -> Path:
    path = folder / "damaged.mp4"
    path.write_bytes(b"not a video at all" * 64)
    return path


def one_frame(folder: Path) -> Path:
    path = folder / "one_frame.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 72, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((72, 96, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_unreadable_videos_are_replaced_up_to_a_share(own: Composed, demo: Path, tmp_path: Path) -> None:
    index = videos_csv(tmp_path, demo, v3=damaged(tmp_path), v17=damaged(tmp_path))
    cfg, typed = own(index, "data.max_bad_share=0.1", "schedule.epochs=1")
    result = engine_train.stage(cfg, typed)
    with (tmp_path / "run" / "quarantine.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["id"] for row in rows] == ["v3"] and "damaged.mp4" in rows[0]["reason"]
    assert list(result["unreadable"]["test"]) == ["v17"]
    with np.load(tmp_path / "run" / "predictions" / "test.npz") as scores:
        assert scores["ids"].tolist() == ["v16", "v18", "v19"]


def test_too_many_unreadable_videos_stop_the_run(own: Composed, demo: Path, tmp_path: Path) -> None:
    index = videos_csv(tmp_path, demo, v3=damaged(tmp_path), v4=damaged(tmp_path))
    cfg, typed = own(index, "data.max_bad_share=0.1", "schedule.epochs=1")
    with pytest.raises(UserError, match=r"of 12 training videos are unreadable, more than data.max_bad_share=0.1"):
        engine_train.stage(cfg, typed)
    assert not (tmp_path / "zoo").exists() and not (tmp_path / "run" / "peers").exists()
    assert '"status": "failed"' in (tmp_path / "run" / "result.json").read_text()


def test_flow_of_a_video_of_one_frame(own: Composed, demo: Path, tmp_path: Path) -> None:
    index = videos_csv(tmp_path, demo, v3=one_frame(tmp_path))
    overrides = ("modality=[rgb,flow]", "stage=mml", "schedule.epochs=1", f"paths.cache={tmp_path / 'cache'}")
    with pytest.raises(UserError, match="1 of 12 training videos are unreadable"):
        engine_train.stage(*own(index, *overrides, "data.max_bad_share=0.05"))
    with (tmp_path / "run" / "quarantine.csv").open() as handle:
        reason = next(csv.DictReader(handle))["reason"]
    assert "flow needs two" in reason and "one_frame.mp4" in reason
    assert engine_train.stage(*own(index, *overrides, "data.max_bad_share=0.1"))["status"] == "completed"
    assert engine_train.stage(*own(index, "schedule.epochs=1", folder="rgb"))["unreadable"]["test"] == {}, (
        "rgb alone can use it"
    )


def test_weights_that_do_not_fit(train: Train, own: Composed, composed: Composed, demo: Path, tmp_path: Path) -> None:
    train("schedule.epochs=1", "trainer=smoke", run="ten_classes")
    peer = tmp_path / "single/ten_classes/peers/rgb.pt"
    with pytest.raises(UserError, match=r"other classes \(label: 10\) than the data have \(label: 3\).*init.new_head"):
        engine_train.stage(*own(videos_csv(tmp_path, demo), f"init.all={peer}"))
    assert engine_train.stage(
        *own(videos_csv(tmp_path, demo), f"init.all={peer}", "init.new_head=true", "schedule.epochs=1")
    )
    with pytest.raises(UserError, match="trained for 10 classes, data=csv_videos has 3"):
        evaluate.evaluate(*own(videos_csv(tmp_path, demo), f"ckpt={peer}", program="eval", folder="eval"))
    with pytest.raises(UserError, match="does not fit this backbone"):
        engine_train.stage(*composed("backbone.net.width=16", f"init.all={peer}"))
    with pytest.raises(UserError, match="does not fit this backbone"):
        engine_train.stage(*composed("backbone=tsm_resnet18", "backbone.net.width=8", f"init.all={peer}"))


def test_files_that_are_no_weights(train: Train, composed: Composed, tmp_path: Path) -> None:
    text, foreign = tmp_path / "text.pt", tmp_path / "foreign.pt"
    text.write_text("hello")
    torch.save({"weight": torch.zeros(1)}, foreign)
    with pytest.raises(UserError, match="can't be read as weights"):
        engine_train.stage(*composed(f"init.all={text}"))
    with pytest.raises(UserError, match="is not a zoo file"):
        engine_train.stage(*composed(f"init.all={foreign}"))
    for given in (text, foreign):
        checkpoint = shutil.copy(given, given.with_suffix(".ckpt"))
        with pytest.raises(UserError, match="not a readable checkpoint of a run"):
            evaluate.evaluate(*composed(f"ckpt={checkpoint}", program="eval"))
    with pytest.raises(UserError, match="no such weight file"):
        evaluate.evaluate(*composed("ckpt=/no/such/file.pt", program="eval"))
    with pytest.raises(UserError, match="not a file, directory or alias"):
        evaluate.evaluate(*composed("ckpt=nothing", program="eval"))
    with pytest.raises(UserError, match="split='train' is unknown"):
        evaluate.evaluate(*composed("ckpt=ce", "split=train", program="eval"))
    with pytest.raises(UserError, match="ckpt is required"):
        evaluate.evaluate(*composed(program="eval"))


def test_damaged_checkpoint_on_resume(train: Train, composed: Composed, tmp_path: Path) -> None:
    train("schedule.epochs=1", "trainer=smoke")
    folder = tmp_path / "single" / "run"
    last = folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    before = (folder / "result.json").read_bytes()
    with pytest.raises(UserError, match="it is truncated or not a checkpoint"):
        engine_train.stage(*composed(f"resume='{folder}'", "schedule.epochs=1", "trainer=smoke"))
    assert (folder / "result.json").read_bytes() == before


def test_ckpt_that_is_no_run(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for program, override in (("eval", "ckpt"), ("train", "resume")):
        done = shell(program, f"{override}={tmp_path / 'empty'}")
        assert done.returncode == 2 and "is not a run directory" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    done = shell("eval")
    assert done.returncode == 2 and "ckpt is required: ckpt=..." in done.stdout


def test_the_printed_command_makes_what_was_missing(shell: Shell, tmp_path: Path) -> None:
    wanted = ("stage=ml", "init=ce", "seed=3", "schedule.epochs=1")
    done = shell("train", *wanted)
    assert done.returncode == 2 and "was never trained; make it with: " in done.stdout
    advice = shlex.split(done.stdout.partition("make it with: ")[2])
    assert advice[:2] == ["python", "train.py"] and {"stage=ce", "stage.copies=2", "seed=3"} <= set(advice)
    # the other half of "small" is not part of the advice: the command must work as printed
    assert shell("train", *advice[2:], "schedule.epochs=1", "backbone.net.width=8", plain=True).returncode == 0
    assert shell("train", *wanted).returncode == 0


def test_an_unreadable_validation_video_is_named(
    own: Composed, demo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = engine_train.stage(*own(videos_csv(tmp_path, demo, v13=damaged(tmp_path)), "schedule.epochs=1"))
    assert list(result["unreadable"]["val"]) == ["v13"] and result["unreadable"]["test"] == {}
    assert "val: not evaluated: 1 video, first v13" in caplog.text
