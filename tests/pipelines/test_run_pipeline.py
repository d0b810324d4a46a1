"""Pipelines: all stages of a method by one command; what is finished is not repeated."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mml_lightning import report
from mml_lightning.config import peers
from mml_lightning.config.compose import changed
from mml_lightning.config.settings import Settings
from mml_lightning.engine import flow as engine_flow
from mml_lightning.engine import train as engine_train
from mml_lightning.pipelines import plan
from mml_lightning.pipelines.plan import plan_runs
from mml_lightning.pipelines.reuse import Reuse
from mml_lightning.pipelines.run_pipeline import pipeline
from mml_lightning.utils.errors import Preempted, RunsFailed, UserError
from mml_lightning.utils.helpers import HELPERS
from tests.patience import wait_for

Composed = Callable[..., tuple[Settings, list[str]]]
QUICK = ("schedule.epochs=1",)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that were trained, in order."""
    names: list[str] = []
    stage = engine_train.stage

    def spy(cfg: Settings, overrides: list[str], alone: bool = True) -> dict[str, Any]:
        names.append(cfg.name)
        return stage(cfg, overrides, alone)

    monkeypatch.setattr(engine_train, "stage", spy)
    return names


def results(folder: Path) -> dict[str, dict[str, Any]]:
    return {file.parent.name: json.loads(file.read_text()) for file in sorted(folder.glob("*/result.json"))}


def test_mml_trains_three_stages_and_a_second_start_none(
    composed: Composed, trained: list[str], tmp_path: Path
) -> None:
    names = ["ce_rgb_from_scratch", "ml_rgb_from_ce", "mml_rgb+flow_from_ml"]
    parent = pipeline(*composed("pipeline=mml", *QUICK))
    assert trained == names
    assert (parent["name"], parent["status"], parent["pipeline"]) == ("pipeline_mml", "completed", "mml")
    steps = results(tmp_path / "single/run")
    assert list(steps) == [f"{number}_{name}" for number, name in enumerate(names, start=1)]
    assert set(steps["1_ce_rgb_from_scratch"]["peers"]) == {"rgb", "rgb_1"}
    assert "did not complete" not in (tmp_path / "single/run/table.md").read_text()
    assert steps["3_mml_rgb+flow_from_ml"]["peers"]["flow"]["init"] == "ml"
    assert (tmp_path / "single/run/2_ml_rgb_from_ce/.hydra/overrides.yaml").is_file()

    trained.clear()
    pipeline(*composed("pipeline=mml", *QUICK, run="second"))
    assert trained == []
    again = results(tmp_path / "single/second")
    assert all(step["reused"] for step in again.values())
    assert {k: v["metrics"] for k, v in again.items()} == {k: v["metrics"] for k, v in steps.items()}

    pipeline(*composed("pipeline=mml", "schedule.epochs=2", run="longer"))
    assert trained == names, "another schedule makes other networks"
    trained.clear()
    pipeline(*composed("pipeline=mml", *QUICK, "modality=[rgb,flow,rgbdiff]", run="back"))
    assert trained == ["mml_rgb+flow+rgbdiff_from_ml"], "the zoo holds both lengths"


def test_reduced_mml_reuses_the_first_stage_of_a_single_run(
    composed: Composed, trained: list[str], train: Callable[..., Any], tmp_path: Path
) -> None:
    train(*QUICK)
    trained.clear()
    pipeline(*composed("pipeline=reduced_mml", *QUICK, run="pipeline"))
    assert trained == ["reduced_mml_rgb+flow_from_ce"]
    assert Reuse().finished(*composed(*QUICK, run="other")) is not None
    next(tmp_path.glob("zoo/demo/tiny/ce_rgb_from_scratch/seed0/*/rgb.pt")).write_bytes(b"half of a file")
    assert Reuse().finished(*composed(*QUICK, run="other")) is None, "a damaged network is made again"
    again = train(*QUICK, run="again")
    assert again["zoo"].endswith(f"{again['fingerprint']}-2"), "the damaged one stays where it is"
    assert Reuse().finished(*composed(*QUICK, run="other"))["zoo"] == again["zoo"]  # type: ignore[index]


def test_other_views_or_a_missing_file_are_not_done_before(
    composed: Composed, trained: list[str], tmp_path: Path
) -> None:
    pipeline(*composed("pipeline=reduced_mml", *QUICK))
    trained.clear()
    next(tmp_path.glob("zoo/demo/tiny/reduced_mml_rgb+flow_from_ce/seed0/*/flow.pt")).unlink()
    pipeline(*composed("pipeline=reduced_mml", *QUICK, run="second"))
    assert trained == ["reduced_mml_rgb+flow_from_ce"]
    trained.clear()
    pipeline(*composed("pipeline=reduced_mml", *QUICK, "views=uniform2", run="third"))
    assert len(trained) == 2


def test_interrupted_pipeline_continues(
    composed: Composed, trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = engine_train.stage

    def cut(cfg: Settings, overrides: list[str], alone: bool = True) -> dict[str, Any]:
        if cfg.stage.name == "ml":
            raise KeyboardInterrupt
        return stage(cfg, overrides, alone)

    with monkeypatch.context() as patch:
        patch.setattr(engine_train, "stage", cut)
        with pytest.raises(KeyboardInterrupt):
            pipeline(*composed("pipeline=mml", *QUICK))
    told = json.loads((tmp_path / "single/run/result.json").read_text())
    assert (told["status"], told["error"]) == ("failed", "interrupted")
    trained.clear()
    pipeline(*composed("pipeline=mml", *QUICK, f"resume='{tmp_path / 'single/run'}'"))
    assert trained == ["ml_rgb_from_ce", "mml_rgb+flow_from_ml"]


def test_resumed_pipeline_resumes_the_step_that_was_cut(composed: Composed, tmp_path: Path) -> None:
    last = tmp_path / "single/run/1_ce_rgb_from_scratch/checkpoints/last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    resume = f"resume='{tmp_path / 'single/run'}'"
    runs = plan_runs(*composed("pipeline=mml", resume))
    assert [run.cfg.resume for run in runs] == [str(last.parents[1]), None, None]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["modality=[rgb]"], "stage=mml needs two or more modalities"),
        (["schedule.epochs=0"], "schedule.epochs=0"),
        (["data.batch_size=99"], "larger than the train split"),
        (["aliases.ce.run=elsewhere"], "was never trained; make it with"),
    ],
)
def test_impossible_last_step_is_found_first(
    composed: Composed, trained: list[str], tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        pipeline(*composed("pipeline=mml", *overrides))
    assert not trained and not (tmp_path / "single").exists()


def test_a_name_belongs_to_the_pipeline_not_to_its_steps(composed: Composed) -> None:
    runs = plan_runs(*composed("pipeline=mml", "name=mine"))
    assert [run.name for run in runs] == ["ce_rgb_from_scratch", "ml_rgb_from_ce", "mml_rgb+flow_from_ml"]


def test_an_init_of_one_modality_is_refused(composed: Composed) -> None:
    with pytest.raises(UserError, match=r"init\.rgb=imagenet would apply to all of them: use init="):
        plan_runs(*composed("pipeline=reduced_mml", "init.rgb=imagenet"))


def test_a_step_leaves_the_networks_that_learn(composed: Composed) -> None:
    cfg, typed = composed("stage=kd", "modality=[rgb,flow]")
    assert [path.name for path in plan.exported(cfg, peers.peer_specs(cfg, typed))] == ["rgb.pt"]


@pytest.mark.parametrize(
    ("typed", "first", "names"),
    [
        ("init=scratch", "scratch", ["ce_rgb_from_scratch", "reduced_mml_rgb+flow_from_ce"]),
        ("init=imagenet", "imagenet", ["ce_rgb_from_imagenet", "reduced_mml_rgb+flow_from_ce"]),
        ("init.all=some/where/k400.pt", "some/where/k400.pt", ["ce_rgb_from_k400", "reduced_mml_rgb+flow_from_ce"]),
    ],
)
def test_a_typed_init_is_where_the_first_step_starts(
    composed: Composed, typed: str, first: str, names: list[str]
) -> None:
    runs = plan_runs(*composed("pipeline=reduced_mml", typed))
    assert [run.name for run in runs] == names
    assert [run.cfg.init.of("rgb") for run in runs] == [first, "ce"]
    assert runs[1].cfg.aliases["ce"]["run"] == names[0]


def test_a_failed_run_blocks_only_those_that_start_from_it(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = engine_train.stage

    def break_one(cfg: Settings, overrides: list[str], alone: bool = True) -> dict[str, Any]:
        if cfg.name == "ml_rgb_from_ce":
            raise RuntimeError("broken cable")
        return stage(cfg, overrides, alone)

    monkeypatch.setattr(engine_train, "stage", break_one)
    runs = [{"stage": "ce", "modality": ["rgb"], "copies": 2}, {"stage": "ml", "modality": ["rgb"], "init": "ce"}]
    runs += [{"stage": "mml", "modality": ["rgb", "flow"], "init": word} for word in ("ml", "ce")]
    cfg, typed = composed("pipeline=mml", *QUICK)
    cfg = changed(cfg, {"pipeline.runs": runs})
    with pytest.raises(RunsFailed, match=r"1 of 4 runs failed \(ml_rgb_from_ce seed 0\), 1 more .* broken cable"):
        pipeline(cfg, typed)
    root = tmp_path / "single/run"
    states = [line.split("|")[1:3] for line in (root / "runs.md").read_text().splitlines()[4:]]
    assert [state.strip() for state, _ in states] == ["done", "failed", "blocked", "done"]
    assert "Traceback" in next(root.glob("*_ml_rgb_from_ce/train.log")).read_text()
    assert json.loads(next(root.glob("*_ml_rgb_from_ce/result.json")).read_text())["status"] == "failed"
    assert json.loads((root / "result.json").read_text())["status"] == "failed"


def test_seeds_go_with_any_stage_and_side_by_side(
    composed: Composed, tmp_path: Path, train: Callable[..., Any]
) -> None:
    alone = train(*QUICK, "seed=1", f"paths.zoo={tmp_path / 'elsewhere'}", run="alone")
    parent = pipeline(*composed(*QUICK, "seeds=2", "pipeline.jobs=2"))
    assert parent["status"] == "completed"
    root = tmp_path / "single/run"
    found = {folder.parent.name: json.loads((folder / "result.json").read_text()) for folder in root.glob("seed*/1_*")}
    assert set(found) == {"seed0", "seed1"}
    assert found["seed1"]["metrics"] == alone["metrics"], "a process of its own changes nothing"
    assert "seed 1" in next(root.glob("seed1/*/train.log")).read_text()


def test_differences_between_rows_are_written_where_there_are_seeds(tmp_path: Path) -> None:
    values = {"ce": [50.0, 52.0, 51.0], "mml": [55.0, 57.5, 55.5]}
    runs = [
        {"status": "completed", "path": f"{name}{seed}", "name": name, "stage": name, "seed": seed, "overrides": []}
        | {"metrics": {"test": {"rgb": {"top1": value}}}}
        for name, numbers in values.items()
        for seed, value in enumerate(numbers)
    ]
    (pair,) = report.differences(runs)
    assert (pair.a, pair.b, pair.metric) == ("mml", "ce", "test/rgb/top1")
    text = report.write_differences(tmp_path, runs)
    assert "| +5.00 | [+3.76, +6.24] | 0, 1, 2 | A is better |" in text
    assert (tmp_path / "differences.md").read_text() == text
    assert report.write_differences(tmp_path, runs[:4]) == "", "one seed of the second row"


def test_dry_writes_nothing(composed: Composed, trained: list[str], tmp_path: Path) -> None:
    assert pipeline(*composed("pipeline=mml", "pipeline.dry=true")) == {}
    assert not trained and not (tmp_path / "single").exists()


@pytest.mark.parametrize("jobs", ["0", "many", "1.5"])
def test_jobs_are_a_number(composed: Composed, jobs: str) -> None:
    with pytest.raises(UserError, match=r"pipeline\.jobs"):
        pipeline(*composed("pipeline=mml", f"pipeline.jobs={jobs}"))


def flow_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "flow").rglob("*.npy")}


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether flow was computed beside the first stage, which waits for it to begin where it does."""
    found: list[bool] = []
    stage = engine_train.stage

    def waiting(cfg: Settings, overrides: list[str], alone: bool = True) -> dict[str, Any]:
        if cfg.stage.name == "ce":
            found.append(bool(HELPERS._working))
            if found[-1]:
                wait_for(lambda: flow_of(Path(cfg.paths.cache)), "flow of a video")
        return stage(cfg, overrides, alone)

    monkeypatch.setattr(engine_train, "stage", waiting)
    monkeypatch.setattr(engine_flow, "cores", lambda: 2)
    return found


def test_flow_of_a_later_run_is_computed_while_one_trains(
    composed: Composed, beside: list[bool], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    found = []
    for ahead in (True, False):
        own = [f"paths.{key}={tmp_path / str(ahead) / key}" for key in ("cache", "zoo")]
        pipeline(*composed("pipeline=reduced_mml", *QUICK, *own, f"pipeline.ahead={ahead}", run=str(ahead)))
        steps = results(tmp_path / "single" / str(ahead))
        found.append(({k: v["metrics"] for k, v in steps.items()}, flow_of(tmp_path / str(ahead) / "cache")))
        said = [line for line in caplog.messages if line.startswith("ahead ")]
    assert beside == [True, False] and not HELPERS._working
    assert found[0] == found[1] and found[0][1], "the same numbers, and the same files of flow"
    started, ended = said
    assert started == (
        "ahead     dis flow for reduced_mml_rgb+flow_from_ce seed 0 is computed meanwhile, on idle cores"
    )
    assert ended.startswith("ahead     dis flow: ")


@pytest.mark.parametrize("error", [KeyboardInterrupt, Preempted])
def test_what_ends_a_pipeline_ends_what_helps_it(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    pids: list[int] = []

    def interrupted(*args: Any, **kwargs: Any) -> None:
        pids.extend(HELPERS._working)
        raise error

    monkeypatch.setattr(engine_train, "stage", interrupted)
    monkeypatch.setattr(engine_flow, "cores", lambda: 2)
    with pytest.raises(error):
        pipeline(*composed("pipeline=reduced_mml", f"paths.cache={tmp_path / 'cache'}"))
    assert len(pids) == 1 and not HELPERS._working
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert not list((tmp_path / "cache").rglob(".*.tmp"))


def test_data_of_a_later_run_that_are_wrong_are_told_by_it(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Preparing is no way to fail."""

    def broken(said: str) -> Callable[..., None]:
        def fail(*args: object, **kwargs: object) -> None:
            raise UserError(said)

        return fail

    monkeypatch.setattr(engine_flow, "begin_ahead", broken("no such data"))
    monkeypatch.setattr(engine_train, "stage", broken("the first run has begun"))
    with pytest.raises(RunsFailed, match="the first run has begun"):
        pipeline(*composed("pipeline=reduced_mml"))
