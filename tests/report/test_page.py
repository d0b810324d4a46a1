"""The page of a sweep: what stands behind its table is on it, escaped, and every link leads to a run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mml_lightning.config.settings import Settings
from mml_lightning.report import collect, save, tabulate, write
from mml_lightning.report.details import curves, mean_curve, mean_per_class, per_class
from mml_lightning.report.page import all_differences, class_deltas, page, paired_values
from mml_lightning.report.plots import difference_bars
from mml_lightning.utils.errors import UserError
from tests.report.test_table import make_run

CLASSES = {"pushing <x>": 40.0, "pulling": 50.0, "never seen": None}


def fill(run: Path, gain: float = 0.0, edges: Any = ()) -> Path:
    """The files beside result.json: classes, a log of two epochs, the config."""
    (run / "predictions").mkdir()
    lines = [f"{name},4,{'' if value is None else value + gain}" for name, value in CLASSES.items()]
    (run / "predictions" / "test_per_class.csv").write_text("\n".join(["class,videos,rgb", *lines]) + "\n")
    (run / "logs").mkdir()
    log = [
        "epoch,step,train/rgb/ce,val/rgb/top1",
        "0,1,2.0,",
        "0,3,1.0,",
        f"0,3,,{50 + gain}",
        "1,7,0.5,",
        f"1,7,,{60 + gain}",
    ]
    (run / "logs" / "metrics.csv").write_text("\n".join(log) + "\n")
    (run / ".hydra").mkdir()
    objective = {"name": "x", "edges": list(edges), "supervised_weight": 1.0, "frozen": [], "headed": []}
    (run / ".hydra" / "config.yaml").write_text(yaml.safe_dump({"objective": objective, "odd": "${not.there}"}))
    return run


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A baseline and a method with two seeds each."""
    root = tmp_path / "my sweep"
    for seed in (0, 1):
        fill(make_run(root / f"{seed}_ce", seed=seed))
        mml = make_run(
            root / f"{seed}_mml #1", name="mml_rgb+flow_from_ce", seed=seed, top1={"rgb": 63.0, "flow": 50.0 + seed}
        )
        fill(mml, 2.0 + seed, [{"students": "all", "teachers": "others", "weight": 0.5}])
    return root


def html(sweep: Path, **options: Any) -> str:
    runs = collect(sweep)
    save(tabulate(runs), sweep, runs, **options)
    return (sweep / "table.html").read_text()


def test_it_has_every_part_and_needs_nothing_from_outside(sweep: Path) -> None:
    text = html(sweep)
    assert re.findall(r'<section id="(\w+)"', text) == ["Table", "Bars", "Differences", "Classes", "Training", "Runs"]
    assert not re.search(r"src=|@import|https?:", text)
    assert "pushing &lt;x&gt;" in text and "<x>" not in text
    assert "0.5 kl" in text, "the lesson graph of the method"
    assert text.count('class="lessons"') == 2
    assert all(f'href="#row{place}"' in text and f'id="row{place}"' in text for place in (0, 1))


def test_links_lead_to_the_runs(sweep: Path) -> None:
    text = html(sweep)
    links = set(re.findall(r'href="([^#"]+)"', text))
    assert links == {"0_ce/", "1_ce/", "0_mml%20%231/", "1_mml%20%231/"}


def test_differences_are_paired_over_seeds(sweep: Path) -> None:
    table = tabulate(collect(sweep))
    assert paired_values(table, 1, 0, "rgb/top1") == [3.0, 2.0]
    assert paired_values(table, 1, 0, "flow/top1") == []
    make_run(sweep / "9", name="mml_rgb+flow_from_ce", seed=7, top1={"rgb": 0.0, "flow": 0.0})
    assert paired_values(tabulate(collect(sweep)), 1, 0, "rgb/top1") == [3.0, 2.0], "seed 7 has no partner"
    assert "+2.50 ± 6.35 (2)" in html(sweep) and "no difference found" in html(sweep)


def test_each_quantity_has_a_baseline_of_its_own(sweep: Path) -> None:
    make_run(sweep / "8", name="kd_flow_from_ce", top1={"flow": 40.0})
    table = tabulate(collect(sweep))
    names = [row["name"] for row in table.rows]
    told = [(names[place], names[base], quantity) for place, base, quantity, _ in all_differences(table, None)]
    ce, mml, kd = "ce_rgb_from_scratch", "mml_rgb+flow_from_ce", "kd_flow_from_ce"
    assert told == [(mml, ce, "rgb/top1"), (kd, mml, "flow/top1")]


def test_the_baseline_is_chosen_by_name(sweep: Path) -> None:
    assert "-2.50 ± 6.35 (2)" in html(sweep, baseline="mml_rgb+flow_from_ce")
    with pytest.raises(UserError, match=r"--baseline: no row is called 'typo'; the rows are: ce_rgb_from_scratch; mml"):
        html(sweep, baseline="typo")


def test_classes_are_compared_where_all_seeds_have_them(sweep: Path) -> None:
    table = tabulate(collect(sweep))
    ((place, base, peer, gained),) = class_deltas(table, None)
    assert (place, base, peer) == (1, 0, "rgb")
    assert gained == [("pulling", 2.5), ("pushing <x>", 2.5)]
    ((*_, lost),) = class_deltas(table, "mml_rgb+flow_from_ce")
    assert [value for _, value in lost] == [-2.5, -2.5]
    assert per_class(sweep / "nowhere", "test", "rgb") == {}
    assert mean_per_class([sweep / "0_ce", sweep / "nowhere"], "test", "rgb") == {"pushing <x>": 40.0, "pulling": 50.0}
    assert mean_per_class([], "test", "rgb") == {}


def test_classes_of_one_head_of_several(tmp_path: Path) -> None:
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "test_verb_per_class.csv").write_text("class,videos,rgb\ncut,2,50\n")
    assert per_class(tmp_path, "test", "verb/rgb") == {"cut": 50.0}


def test_curves_are_means_of_an_epoch_and_resumed_logs_follow_each_other(tmp_path: Path) -> None:
    run = fill(tmp_path / "run") if (tmp_path / "run").mkdir() is None else tmp_path
    assert curves(run) == {"train/rgb/ce": [(0, 1.5), (1, 0.5)], "val/rgb/top1": [(0, 50.0), (1, 60.0)]}
    (run / "logs" / "metrics.csv").rename(run / "logs" / "metrics_1.csv")
    (run / "logs" / "metrics.csv").write_text("epoch,step,val/rgb/top1\n1,7,61\n2,9,70\n2,9,nan\n2,9,\n")
    assert curves(run)["val/rgb/top1"] == [(0, 50.0), (1, 61.0), (2, 70.0)]
    assert curves(tmp_path / "nowhere") == {}
    assert mean_curve([[(0, 1.0), (1, 3.0)], [(0, 3.0)], []]) == [(0, 2.0)]
    assert mean_curve([]) == []


def test_runs_without_these_files_have_their_table(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    (tmp_path / "a" / ".hydra").mkdir()
    (tmp_path / "a" / ".hydra" / "config.yaml").write_text("objective: [")
    write(tmp_path)
    text = (tmp_path / "table.html").read_text()
    assert re.findall(r'<section id="(\w+)"', text) == ["Table", "Runs"] and "lessons" not in text
    table = tabulate(collect(tmp_path))
    assert '<section id="Runs"' not in page(table, "x")


def test_bars_of_losses_stand_left_of_the_axis() -> None:
    drawn = difference_bars([("up", 2.0), ("down", -4.0)], 4.0)
    assert 'class="up" x="440.0" y="3" width="55.0"' in drawn
    assert 'class="down" x="330.0" y="21" width="110.0"' in drawn and "+2.0" in drawn and "-4.0" in drawn


def test_tables_of_the_paper_stand_on_the_page_of_their_runs(
    composed: Callable[..., tuple[Settings, list[str]]], tmp_path: Path
) -> None:
    cfg, _ = composed("experiment=table3")
    run = {"key": "mml_rgb_rgb", "views": "", "seed": 0, "state": "done", "run": "x", "note": "", "folder": "a"}
    make_run(tmp_path / "a", metrics={"val": {"rgb": {"top1": 60.5, "top5": 86.0}}})
    told = {"setup": "ssv2", "base": "imagenet", "tables": cfg.plain("tables"), "runs": [run]}
    (tmp_path / "runs.json").write_text(json.dumps(told))
    write(tmp_path)
    text = (tmp_path / "table.html").read_text()
    assert '<section id="Paper"' in text and "60.50 / 86.00 (paper 60.82 / 86.75)" in text
    assert 'title="mml_rgb_rgb/rgb: top1 seed 0: 60.5; top5 seed 0: 86"' in text
    assert "missing: mml_base_base/rgb seed 0" in text
