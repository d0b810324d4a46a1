"""What an alias means: settings that must agree, those that need not, and which of several is taken."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.config import data, peers
from mml_lightning.config.settings import Settings
from mml_lightning.engine.evaluate import evaluate
from mml_lightning.engine.train import stage
from mml_lightning.pipelines.run_pipeline import pipeline
from mml_lightning.runs import resume
from mml_lightning.runs.lineage import Lineage, typed_path
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.result_file import write_json
from mml_lightning.zoo.files import load_peer, weights_hash

Train = Callable[..., dict[str, Any]]
Composed = Callable[..., tuple[Settings, list[str]]]
SHORT = ("schedule.epochs=1", "test=false")
MML = ("stage=mml", "modality=[rgb,flow]", "init=ce", *SHORT)


@pytest.fixture
def found(composed: Composed) -> Callable[..., dict[str, Path | None]]:
    """found(*overrides): the files that the peers of a run would start from."""

    def make(*overrides: str) -> dict[str, Path | None]:
        cfg, typed = composed(*overrides)
        lineage = Lineage(cfg, typed, lambda: data.dataset(cfg))
        return {spec.name: spec.origin.path for spec in lineage.settle(peers.peer_specs(cfg, typed))}

    return make


@pytest.fixture
def ce(train: Train) -> Path:
    return Path(train(*SHORT, run="ce")["zoo"])


@pytest.mark.parametrize(
    "changed",
    [
        "optimizer.lr=0.3",
        "optimizer.weight_decay=0.3",
        "schedule.epochs=2",
        "schedule=step",
        "data.batch_size=4",
        "data.decoder=pyav",
        "sampling=dense",
        "transforms=multiscale_flip",
        "backbone.net.width=16",
        "batch_norm.freeze=stats",
        "trainer.precision=bf16-mixed",
        "trainer.accumulate_grad_batches=2",
        "statistics.mean=[0.5]",
    ],
)
def test_what_must_agree(ce: Path, found: Callable[..., Any], changed: str) -> None:
    with pytest.raises(UserError, match="holds none made with these settings") as caught:
        found(*MML, changed)
    said = str(caught.value)
    assert "\n" not in said and str(ce) in said and "1 epochs, 3 steps" in said
    train_it, take_it = re.findall(r"python train\.py (.*?)(?= -- or take|$)", said)
    assert changed in train_it.replace("'", "") and "stage=ce" in train_it
    assert changed in take_it.replace("'", "") and f"init.runs=[{ce}]" in take_it.replace("'", "")


def test_the_videos_must_be_the_same(ce: Path, found: Callable[..., Any], demo: Path, tmp_path: Path) -> None:
    root = shutil.copytree(demo / "data", tmp_path / "copied")
    reader = "data.reader._target_=mml_lightning.data.records.readers.read_ssv2"  # that of the demo fixes its videos
    other = ("~data.reader.train", "~data.reader.val", "~data.reader.test", reader, f"data.root={root}")
    assert found(*MML, *other)["rgb"] == ce / "rgb.pt", "wherever they lie"
    with next((root / "videos").iterdir()).open("ab") as video:
        video.write(b"more")
    with pytest.raises(UserError, match="its videos, labels or readers were different"):
        found(*MML, *other)


def test_what_need_not_agree(ce: Path, found: Callable[..., Any]) -> None:
    same = ("views=uniform2", "data.workers=1", "step.memory_format=channels_last", "tags=[x]", "flow.preset=fast")
    same += ("trainer.devices=1", "trainer.deterministic=true", "trainer.limit_val_batches=1", "test=true")
    assert found(*MML, *same) == {"rgb": ce / "rgb.pt", "flow": ce / "rgb.pt"}
    assert found(*MML, "trainer=smoke", "trainer.accelerator=cpu")["rgb"] == ce / "rgb.pt", "a trial of the next stage"


def test_the_settings_of_the_first_weights_count_too(
    ce: Path, train: Train, found: Callable[..., Any], tmp_path: Path
) -> None:
    """ML from a CE network of another length is not what `init=ml` means, though its own settings are."""
    longer = train("schedule.epochs=2", "test=false", "stage.copies=2", run="longer")
    chosen = f"init.runs=[{longer['zoo']}]"
    ml = ("stage=ml", *SHORT)
    other = train(*ml, "init=ce", chosen, run="other")
    assert other["peers"]["rgb"]["origin"] == str(Path(longer["zoo"]) / "rgb.pt")
    with pytest.raises(UserError, match=r"its rgb started from other weights"):
        found("stage=mml", "modality=[rgb,flow]", "init=ml", *SHORT)
    assert found("stage=mml", "modality=[rgb,flow]", "init=ml", *SHORT, chosen)["flow"] == Path(other["zoo"]) / "rgb.pt"


def test_of_several_the_first_that_was_finished(
    ce: Path, train: Train, found: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    told = json.loads((ce / "result.json").read_text())
    again = train(*SHORT, "trainer.deterministic=true", run="again")  # another machine, one recipe
    assert again["zoo"] != str(ce)
    write_json(ce / "result.json", {**told, "finished": "2000-01-01"})  # both may have finished within one second
    caplog.set_level("INFO")
    assert found(*MML)["rgb"] == ce / "rgb.pt" and "the one finished first of 2 that fit" in caplog.text
    write_json(ce / "result.json", {**told, "finished": "2999-01-01"})
    caplog.clear()
    assert found(*MML)["rgb"] == ce / "rgb.pt" and "that of this machine's settings of 2 that fit" in caplog.text
    assert found(*MML, "trainer.deterministic=true")["rgb"] == Path(again["zoo"]) / "rgb.pt"
    (ce / "rgb.pt").write_bytes(b"half of a file")
    caplog.clear()
    assert found(*MML)["rgb"] == Path(again["zoo"]) / "rgb.pt" and "it is skipped" in caplog.text


def test_a_path_by_run_and_seed_means_the_only_network_there(ce: Path, train: Train, found: Callable[..., Any]) -> None:
    path = ce.parent / "rgb.pt"
    assert found("stage=mml", "modality=[rgb,flow]", f"init.all={path}", *SHORT)["rgb"] == ce / "rgb.pt"
    train("schedule.epochs=2", "test=false", run="longer")
    with pytest.raises(UserError, match=r"matches 2 networks, choose one: "):
        found("stage=mml", "modality=[rgb,flow]", f"init.all={path}", *SHORT)


def test_a_resume_with_another_schedule_is_no_run_of_that_schedule(
    ce: Path, train: Train, found: Callable[..., Any], tmp_path: Path
) -> None:
    before = weights_hash(load_peer(ce / "rgb.pt")["state_dict"])
    folder = tmp_path / "single/ce"
    longer = train("schedule.epochs=2", "test=false", f"resume='{folder}'", run="ce")
    assert longer["resumed"][0]["schedule"] == ["schedule.epochs was 1 and is 2 now"]
    assert resume.changed(longer["resumed"]) == ["from step 3 on: schedule.epochs was 1 and is 2 now"]
    with pytest.raises(UserError, match=r"continued with other settings \(from step 3 on: schedule.epochs was 1"):
        found("stage=mml", "modality=[rgb,flow]", "init=ce", "schedule.epochs=2", "test=false")
    aside = folder / "peers_after_3_steps/rgb.pt"
    assert (
        weights_hash(load_peer(aside)["state_dict"])
        == before
        != weights_hash(load_peer(folder / "peers/rgb.pt")["state_dict"])
    ), "the shorter one is kept beside the longer one"
    straight = train("schedule.epochs=2", "test=false", run="straight")
    assert straight["fingerprint"] != longer["fingerprint"]
    assert found("stage=mml", "modality=[rgb,flow]", "init=ce", "schedule.epochs=2", "test=false")["rgb"] == Path(
        straight["zoo"], "rgb.pt"
    )


@pytest.mark.parametrize(
    ("limit", "why"),
    [
        ("trainer.limit_train_batches=1", "trainer.limit_train_batches=1"),
        ("trainer.limit_train_batches=0.5", "trainer.limit_train_batches=0.5"),
        ("trainer.limit_epochs=1", "trainer.limit_epochs=1"),
        ("+trainer.max_steps=4", "trainer.max_steps=4"),
        ("+trainer.max_time={milliseconds: 1}", "trainer.max_time={'milliseconds': 1}"),
    ],
)
def test_limited_runs_stay_out_of_the_zoo(train: Train, tmp_path: Path, limit: str, why: str) -> None:
    told = train("schedule.epochs=2", "test=false", limit)
    assert told["limited"] == [why] and "zoo" not in told and not (tmp_path / "zoo").exists()
    inside = load_peer(tmp_path / "single/run/peers/rgb.pt")["provenance"]
    assert inside["limited"] == [why] and inside["planned_epochs"] == 2
    assert (inside["epochs"], inside["steps"]) == (told["epochs"], told["steps"]) and 0 < told["steps"] < 6


def test_limits_that_leave_all_as_it_is(train: Train) -> None:
    told = train("test=false", "trainer.limit_train_batches=50", "trainer.limit_epochs=9", "+trainer.max_steps=6")
    assert told["limited"] == [] and "zoo" in told
    part = train("test=false", "trainer.limit_val_batches=1", run="part")
    assert part["limited"] == ["trainer.limit_val_batches=1"] and "zoo" in part, "its weights are whole"


def test_what_a_limit_leaves_out_is_not_measured(train: Train, tmp_path: Path) -> None:
    told = train("trainer.limit_val_batches=0", "trainer.limit_test_batches=1")
    assert set(told["metrics"]) == set(told["measured"]) == {"test"} and "zoo" in told, "its weights are whole"
    folder = tmp_path / "single/other"
    told = train("trainer.limit_test_batches=0", run="other")
    assert set(told["metrics"]) == set(told["measured"]) == {"val"}
    assert not (folder / "predictions/test.npz").exists(), "the scores of val are none of test"


def test_a_limited_pipeline_starts_from_its_own_networks(ce: Path, composed: Composed, tmp_path: Path) -> None:
    settings = ("pipeline=reduced_mml", *SHORT, "trainer=smoke", "trainer.accelerator=cpu")
    pipeline(*composed(*settings))
    root = tmp_path / "single/run"
    told = json.loads((root / "2_reduced_mml_rgb+flow_from_ce/result.json").read_text())
    assert told["peers"]["rgb"]["origin"] == str(root / "1_ce_rgb_from_scratch/peers/rgb.pt")
    assert told["peers"]["rgb"]["init"] == "ce" and told["limited"]
    assert "limited" in (root / "table.md").read_text()
    pipeline(*composed(*settings, f"resume='{root}'"))
    states = json.loads((root / "runs.json").read_text())["runs"]
    assert [row["state"] for row in states] == ["reused", "reused"], "by its own directory"
    assert [path.name for path in (tmp_path / "zoo/demo/tiny").iterdir()] == ["ce_rgb_from_scratch"]


def test_eval_asks_for_no_trainer(ce: Path, composed: Composed) -> None:
    same = ("ckpt=ce", "schedule.epochs=1", "split=val")
    told = evaluate(*composed(*same, "trainer.precision=bf16-mixed", program="eval", run="eval"))
    assert told["status"] == "completed" and told["limited"] == []
    with pytest.raises(UserError, match=r"or take .*: python eval\.py ckpt=\S+/rgb\.pt .*sampling\.num_segments=2"):
        evaluate(*composed(*same, "sampling.num_segments=2", program="eval", run="other"))
    with pytest.raises(UserError, match="holds a training run, whose results would be overwritten"):
        evaluate(*composed(*same, program="eval", run="ce"))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("+trainer.fast_dev_run=true", "use trainer=smoke"),
        ("+trainer.overfit_batches=1", r"use trainer\.limit_train_batches"),
        ("+trainer.max_epochs=1", r"use schedule\.epochs"),
        ("+trainer.callbacks=[]", "use callbacks="),
        ("+trainer.logger=false", "use logger="),
        ("+trainer.gradient_clip_val=1", r"use optimizer\.clip_norm"),
        ("+trainer.val_check_interval=1", r"use trainer\.validations"),
        ("+trainer.sync_batchnorm=true", r"use batch_norm\.sync"),
        ("+trainer.max_epoch=1", r"unknown setting trainer.max_epoch; there are accelerator"),
        ("+trainer.max_steps=0", "without a step nothing is trained"),
        ("trainer.limit_train_batches=0", "no training step"),
        ("trainer.limit_train_batches=0.01", "no training step"),
        ("trainer.limit_train_batches=-1", "use a whole number from 1"),
        ("trainer.limit_train_batches=true", "use a whole number from 1"),
        ("trainer.limit_val_batches=1.5", "use a whole number from 0"),
        ("trainer.limit_val_batches=0.01", "leaves none of"),
        ("trainer.limit_test_batches=0.01", "leaves none of"),
        ("trainer.limit_epochs=0", "must be a whole number from 1"),
    ],
)
def test_settings_of_the_trainer_that_contradict_ours(composed: Composed, tmp_path: Path, key: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        stage(*composed(key))
    assert list(tmp_path.iterdir()) == []


def test_paths_are_quoted_where_hydra_needs_it() -> None:
    assert typed_path("zoo/ce_rgb+flow/seed0/rgb.pt") == "zoo/ce_rgb+flow/seed0/rgb.pt"
    assert typed_path("a b/c=d") == "'a b/c=d'" and typed_path("it's") == r"'it\'s'"
