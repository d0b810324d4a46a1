"""Tables of the paper as experiments: what they declare, what they share, what they print."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mml_lightning import report
from mml_lightning.config import peers
from mml_lightning.config.compose import changed, compose
from mml_lightning.config.settings import Settings
from mml_lightning.pipelines.plan import layouts_of, plan_runs, seeds_of
from mml_lightning.pipelines.reuse import pace
from mml_lightning.pipelines.run_pipeline import pipeline
from mml_lightning.report.paper import printed
from mml_lightning.report.paper_table import words
from mml_lightning.report.statistics import estimate
from mml_lightning.report.table_spec import layout, views_name
from mml_lightning.utils.errors import UserError

ROOT = Path(__file__).parents[2]
SPEC = ROOT.parent / "shared/spec/paper_tables.yaml"
TABLES = [file.stem for file in sorted((ROOT / "conf/experiment").glob("table[0-9]*.yaml"))]
Composed = Callable[..., tuple[Settings, list[str]]]
QUICK = ("schedule.epochs=1", "trainer.accelerator=cpu")


def test_all_numbers_of_the_paper_are_here() -> None:
    counts = {number: len(cells) for number, cells in printed().items()}
    assert counts == {1: 6, 2: 8, 3: 9, 4: 9, 5: 10, 6: 10, 7: 14, 8: 13, 9: 23, 10: 24, 11: 143, 12: 78, 13: 30}
    assert sum(counts.values()) == 377
    assert printed()[7]["row 7", "First model"].values == {"top1": 61.30, "top5": 86.99}
    groups = [{row: cell for (row, _), cell in printed()[13].items() if row.startswith(g)} for g in ("RGB", "Flow")]
    for cells in groups:  # positions of 858 ensembles, counted from 0
        assert sum(cell.values["positions"] for cell in cells.values()) == 858 * 857 // 2


@pytest.mark.skipif(not SPEC.is_file(), reason="the list of the paper's numbers is not beside this checkout")
def test_numbers_are_those_of_the_list() -> None:
    listed = yaml.safe_load(SPEC.read_text())["entries"]
    assert len(listed) == 377
    names = {"top1": "top1", "top5": "top5", "map": "mAP", "positions": "sum_of_positions"}
    for entry in listed:
        cell = printed()[entry["table"]][entry["row"], entry["column"]]
        assert cell.values == {ours: entry[key] for ours, key in names.items() if entry.get(key) is not None}
        assert cell.doubtful == bool(entry.get("uncertain"))


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_a_place_for_every_number_of_the_paper(hydra: None, name: str) -> None:
    (table,) = layouts_of(compose("train", overrides=[f"experiment={name}", "paths.output_dir=out"]))
    cells = printed()[table.paper["table"]]
    places = {place.paper for line in table.places for place in line if place.networks}
    wanted = {key for key in cells if "our" in key[0]} if table.paper["table"] == 9 else set(cells)
    if table.paper["table"] == 9:
        wanted = {key for key in wanted if key[1].startswith("validation")}  # labels of test are not public
    if table.paper["table"] == 13:
        places = {place.paper for group in table.ranks.values() for place in group.values()}
    assert places == wanted
    assert name == f"table{table.paper['table']}"


def test_a_catalogue_of_different_runs_serves_all_tables(composed: Composed) -> None:
    cfg, typed = composed("experiment=paper")
    runs = plan_runs(cfg, typed)
    trained = [run for run in runs if not run.views]
    assert {run.key for run in trained} == set(cfg.catalogue), "a run that no table refers to"
    assert (len(trained), sum(run.networks for run in trained)) == (43, 71)
    assert len(runs) - len(trained) == 3 * 8 + 4, "measurements of tables 10 and 9"
    assert len({run.name for run in trained}) == len(trained)
    names = {run.key: run.name for run in trained}
    assert names["mml_rgb_flow"] == "mml_rgb+flow_from_ce+ce_flow"
    assert names["ml_rgb_rgb_base"] == "ml_rgb_from_ce+scratch"
    assert names["ml_rgb_again"] == "ml_rgb_from_ce_again"
    assert names["mml_rgb_rgb2"] == "mml_rgb+flow_from_ce+ce-rgb_1"
    assert names["ce_rgb_dense"] == "ce_rgb_from_scratch_dense"
    places = {run.key: number for number, run in enumerate(trained)}
    assert places["mml_from_b"] > places["mml_from_a"] > places["mml_rgb_rgb"] > places["ce_rgb"]


def test_a_run_of_a_table_is_the_run_of_its_command(composed: Composed) -> None:
    """So that networks of tables, pipelines and single runs are shared."""
    runs = {run.key: run for run in plan_runs(*composed("experiment=table3"))}
    alone, _ = composed("stage=mml", "modality=[rgb,flow]", "init.rgb=ce")
    ours, theirs = runs["mml_rgb_base"].cfg.plain(), alone.plain()
    ours.pop("paths"), theirs.pop("paths")
    assert ours == theirs
    again = compose("train", overrides=[*runs["mml_rgb_base"].typed, "paths.output_dir=out"])
    assert again.plain("init") == alone.plain("init") and again.name == alone.name


@pytest.mark.parametrize("setup, base", [("ssv2", "imagenet"), ("charades", "kinetics")])
def test_tables_of_other_setups_start_from_their_base(hydra: None, tmp_path: Path, setup: str, base: str) -> None:
    weights = tmp_path / "k400.pt"
    weights.touch()
    typed = [
        f"setup={setup}",
        "data.root=videos",
        f"init.file={weights}",
        "experiment=table6",
        f"paths.root={tmp_path}",
    ]
    cfg = compose("train", overrides=[*typed, "paths.output_dir=out"])
    runs = {run.key: run for run in plan_runs(cfg, typed)}
    assert runs["mml_base_base"].name == f"mml_rgb+flow_from_{base}"
    assert runs["mars_rgb"].cfg.init.of("rgb") == base and runs["mars_rgb"].cfg.init.of("flow") == "own"
    assert {run.cfg.setup.name for run in runs.values()} == {setup}


def tiny(composed: Composed, *overrides: str, run: str = "run") -> tuple[Settings, list[str]]:
    """A table of two networks of one run."""
    cfg, typed = composed("experiment=table1", *QUICK, *overrides, run=run)
    declared = {
        "title": "two of {base}",
        "columns": ["First", "Second"],
        "rows": {"RGB from {base}": ["ce_rgb/rgb", "ce_rgb/rgb_1"]},
        "claims": [{"say": "one is better", "better": "ce_rgb/rgb", "than": "ce_rgb/rgb_1"}],
    }
    return changed(cfg, {"tables": {"tiny": declared}}), typed


def test_a_table_is_trained_filled_and_not_trained_again(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline(*tiny(composed, "seeds=2"))
    root = tmp_path / "single/run"
    text = (root / "tiny.md").read_text()
    assert "two of scratch (setup demo)" in text and "over seeds 0, 1" in text and "paper" not in text.split("\n")[2]
    with (root / "tiny.csv").open() as handle:
        rows = {(line["column"], line["metric"]): line for line in csv.DictReader(handle)}
    told = [json.loads(file.read_text()) for file in sorted(root.glob("seed*/1_ce_rgb_from_scratch/result.json"))]
    values = [result["metrics"]["test"]["rgb_1"]["top1"] for result in told]
    assert len(values) == 2
    line = rows["Second", "top1"]
    assert [float(x) for x in line["values"].split(";")] == values and line["seeds"] == "0;1"
    assert float(line["mean"]) == pytest.approx(sum(values) / 2)
    assert (root / "runs.md").read_text().startswith("2 of 2 done (0 reused)")
    assert (pace(composed("stage=ce", *QUICK)[0]) or 0.0) > 0, "what a network costs, for the plans of later runs"

    def fail(*_: Any) -> None:
        raise AssertionError("nothing is left to train")

    monkeypatch.setattr("mml_lightning.engine.train.stage", fail)
    pipeline(*tiny(composed, "seeds=[1]", run="second"))
    assert "1 of 1 done (1 reused)" in (tmp_path / "single/second/runs.md").read_text()
    assert "One seed has no interval" in (tmp_path / "single/second/tiny.md").read_text()


def test_the_papers_number_stands_beside_ours_on_its_setup_only(composed: Composed, tmp_path: Path) -> None:
    cfg, _ = composed("experiment=table3")
    run = {"key": "mml_rgb_rgb", "views": "", "seed": 0, "state": "done", "run": "x", "note": "", "folder": "a"}
    (tmp_path / "a").mkdir()
    metrics = {"val": {"rgb": {"top1": 60.5, "top5": 86.0}}}
    (tmp_path / "a/result.json").write_text(json.dumps({"metrics": metrics}))
    for setup, expected in (("ssv2", "60.50 / 86.00 (paper 60.82 / 86.75)"), ("demo", "60.50 / 86.00")):
        told = {"setup": setup, "base": "imagenet", "tables": cfg.plain("tables"), "runs": [run]}
        (tmp_path / "runs.json").write_text(json.dumps(told))
        (table,) = report.write_filled(tmp_path)
        text = report.filled_markdown(table)
        line = next(line for line in text.splitlines() if line.startswith("| RGB from RGB "))
        assert line.split("|")[4].strip() == expected
        assert "missing: mml_base_base/rgb seed 0 is not part of this" in text


@pytest.mark.parametrize(
    "values, expect, said",
    [
        ([2.0, 2.5, 1.5], "better", "holds: +2.00 [+0.76, +3.24]"),
        ([-2.0, -2.5, -1.5], "better", "reversed: -2.00 [-3.24, -0.76]"),
        ([2.0, -2.0, 1.0], "better", "undecided: +0.33 [-4.84, +5.50]"),
        ([2.0, -2.0, 1.0], "nothing", "nothing found: +0.33 [-4.84, +5.50]"),
        ([2.0, 2.5, 1.5], "nothing", "gains: +2.00 [+0.76, +3.24]"),
        ([-4.0, -4.0], "better", "-4.00 for each of 2 seeds: no spread"),
        ([2.0], "better", "a single seed: +2.00"),
    ],
)
def test_verdicts_are_words(values: list[float], expect: str, said: str) -> None:
    assert words(estimate(values), expect) == said


@pytest.mark.parametrize(
    "declared, message",
    [
        ({"columns": ["a"], "rows": {"x": ["ce_rgb/rgb", "ce_rgb/rgb"]}}, "2 cells for 1 columns"),
        ({"columns": ["a"], "rows": {"x": ["ce_rgb"]}}, "names no network"),
        ({"column": ["a"]}, "unknown field column"),
    ],
)
def test_mistakes_in_a_table_are_named(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        layout("mine", declared, "scratch")


def test_seeds_are_a_number_or_a_list(composed: Composed) -> None:
    assert seeds_of(composed("seeds=3")[0]) == [0, 1, 2]
    assert seeds_of(composed("seeds=2", "seed=5")[0]) == [5, 6]
    assert seeds_of(composed("seeds=[4,7]")[0]) == [4, 7]
    assert seeds_of(composed("seed=4")[0]) == [4]
    for wrong in ("seeds=0", "seeds=[1,1]", "seeds=many", "seeds=[]"):
        with pytest.raises(UserError, match="seeds=5"):
            seeds_of(composed(wrong)[0])


def test_the_table_of_the_docs_is_one(hydra: None) -> None:
    text = (ROOT / "docs/tables.md").read_text()
    mine = yaml.safe_load(text.split("```yaml\n# conf/experiment/mine.yaml")[1].split("```")[0].split("\n", 1)[1])
    catalogue = compose("train", ["catalogue=paper"]).plain("catalogue")
    table = layout("mine", mine["tables"]["mine"], "scratch")
    assert set(table.runs()) <= set(catalogue)
    assert [len(place.networks) for place in table.places[3]] == [2, 0]
    assert [views_name(views) for _, views in table.measurements()] == ["uniform2", "uniform2"]


def test_names_of_views() -> None:
    assert views_name({"dense": 2, "uniform": 1, "full_resolution": True}) == "dense2_uniform1_full"
    assert views_name({"dense": 0, "uniform": 1}) == "uniform1"


def test_second_stages_of_rgb_are_of_equal_length_and_from_one_network(composed: Composed) -> None:
    cfg, typed = composed("experiment=rgb_peer", "seeds=2")
    runs = plan_runs(cfg, typed)
    of_seed = {run.key: run for run in runs if run.seed == 1}
    assert len(runs) == 2 * len(of_seed) and sum(run.networks for run in of_seed.values()) == 14
    first, flow = (next(p for p in of_seed[k].makes if p.stem == k[3:]) for k in ("ce_rgb", "ce_flow"))
    second = [run for key, run in of_seed.items() if key not in ("ce_rgb", "ce_flow")]
    assert len(second) == 7 and len({run.name for run in second}) == 7
    for run in second:
        starts = {spec.name: spec.origin.key for spec in peers.peer_specs(run.cfg, run.typed)}
        assert starts["rgb"] == first and any(made.stem == "rgb" for made in run.makes)
        assert run.cfg.schedule == of_seed["ce_rgb"].cfg.schedule and run.cfg.data == of_seed["ce_rgb"].cfg.data
        if "flow" in starts:
            assert starts["flow"] == (flow if run.cfg.stage.name in ("mars", "d3d", "kd") else first)
