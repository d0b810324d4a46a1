"""Tables from run directories as they lie on disk."""

from __future__ import annotations

import csv
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.report import Table, collect, collect_all, paired, save, tabulate, write
from mml_lightning.utils.errors import UserError


def make_run(
    path: Path,
    *,
    name: str = "ce_rgb_from_scratch",
    seed: int = 0,
    top1: dict[str, float] | None = None,
    **changes: Any,
) -> Path:
    """A run directory with the result.json of one run; `top1` is the test accuracy of each peer."""
    top1 = {"rgb": 60.0 + seed} if top1 is None else top1
    modality = [peer for peer in top1 if peer != "ensemble"]
    result = {
        "schema": 1,
        "status": "completed",
        "error": None,
        "name": name,
        "stage": name.split("_")[0],
        "setup": "demo",
        "data": "demo",
        "backbone": "tiny",
        "modality": modality,
        "peers": {peer: {"modality": peer, "init": name.rsplit("_", 1)[1], "origin": None} for peer in modality},
        "seed": seed,
        "overrides": [f"stage={name.split('_')[0]}", f"modality=[{','.join(modality)}]", f"seed={seed}"],
        "views": "center",
        "metrics": {
            "val": {peer: {"top1": accuracy - 1, "loss": 1.25} for peer, accuracy in top1.items()},
            "test": {peer: {"top1": accuracy, "loss": 1.5} for peer, accuracy in top1.items()},
        },
        "git_sha": "a" * 40,
        "data_fingerprint": "f00d",
        "decoder": {"name": "decord", "version": "0.6.0"},
        "finished": f"2026-01-01T00:00:0{seed}",
        **changes,
    }
    path.mkdir(parents=True)
    (path / "result.json").write_text(json.dumps(result))
    return path


def make_silent(path: Path, overrides: list[str]) -> Path:
    """A job that died before it wrote its result."""
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra" / "overrides.yaml").write_text("".join(f"- {item}\n" for item in overrides))
    return path


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two methods, three seeds each; one job of the second failed, one died."""
    root = tmp_path / "sweep"
    for seed, (ce, mml) in enumerate([(58.0, 60.0), (59.0, 61.5), (57.0, 59.5)]):
        make_run(root / f"{seed}_ce_rgb_from_scratch", seed=seed, top1={"rgb": ce})
        peers = {"rgb": mml, "flow": mml - 3, "ensemble": mml + 2}
        make_run(root / f"{seed + 3}_mml_rgb+flow_from_ce", name="mml_rgb+flow_from_ce", seed=seed, top1=peers)
    failed = {"status": "failed", "error": "out of memory\nlong trace", "metrics": {}, "peers": {}}
    make_run(root / "6_mml", name="mml_rgb+flow_from_ce", seed=3, top1={"rgb": 0, "flow": 0}, **failed)
    make_silent(root / "7_mml_rgb+flow_from_ce", ["stage=mml", "modality=[rgb,flow]", "seed=4"])
    return root


def row_of(table: Table, name: str) -> dict[str, Any]:
    (row,) = [row for row in table.rows if row["name"] == name]
    return row


def test_rows_are_configurations_and_cells_their_seeds(sweep: Path) -> None:
    table = tabulate(collect(sweep))
    assert [row["name"] for row in table.rows] == ["ce_rgb_from_scratch", "mml_rgb+flow_from_ce"]
    assert table.measured == ["rgb/top1", "flow/top1", "ensemble/top1"]
    ce = row_of(table, "ce_rgb_from_scratch")
    assert (ce["rgb/top1"], ce["rgb/top1/std"], ce["rgb/top1/n"], ce["seeds"]) == (58.0, 1.0, 3, "0,1,2")
    assert ce["rgb/top1/ci95"] == pytest.approx(4.303 / 3**0.5)
    assert (ce["flow/top1"], ce["flow/top1/n"], ce["failed"]) == (None, 0, 0)
    mml = row_of(table, "mml_rgb+flow_from_ce")
    assert (mml["modality"], mml["init"], mml["split"]) == ("rgb+flow", "ce", "test")
    assert mml["ensemble/top1"] == pytest.approx(mml["rgb/top1"] + 2)


def test_failed_and_silent_jobs_count_in_the_row_of_their_command_and_are_named(sweep: Path) -> None:
    table = tabulate(collect(sweep))
    assert row_of(table, "mml_rgb+flow_from_ce")["failed"] == 2
    assert [(Path(p["path"]).name, p["status"]) for p in table.problems] == [
        ("6_mml", "failed"),
        ("7_mml_rgb+flow_from_ce", "no result"),
    ]
    assert table.problems[0]["error"] == "out of memory"


def test_a_failed_seed_that_completed_later_is_not_failed(sweep: Path) -> None:
    peers = {"rgb": 60.0, "flow": 57.0, "ensemble": 62.0}
    make_run(sweep / "8_again", name="mml_rgb+flow_from_ce", seed=3, top1=peers)
    row = row_of(tabulate(collect(sweep)), "mml_rgb+flow_from_ce")
    assert (row["failed"], row["rgb/top1/n"], row["seeds"]) == (1, 4, "0,1,2,3")


def test_a_sweep_in_which_nothing_completed_still_has_its_row(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_silent(tmp_path / f"{seed}_ml_rgb_from_ce", ["stage=ml", "modality=[rgb]", f"seed={seed}"])
    table = tabulate(collect(tmp_path))
    (row,) = table.rows
    assert (row["name"], row["stage"], row["modality"], row["failed"]) == ("ml_rgb_from_ce", "ml", "rgb", 2)
    assert table.measured == []
    write(tmp_path)
    assert "ml_rgb_from_ce" in (tmp_path / "table.md").read_text()


def test_unreadable_results_are_listed_and_not_fatal(sweep: Path) -> None:
    for name, text in {"bad": "{", "list": "[]", "new": '{"schema": 2}', "odd": '{"schema": 1, "status": "?"}'}.items():
        (sweep / name).mkdir()
        (sweep / name / "result.json").write_text(text)
    (sweep / "binary").mkdir()
    (sweep / "binary" / "result.json").write_bytes(b"\xff\xfe\x00")
    table = tabulate(collect(sweep))
    broken = {Path(p["path"]).name for p in table.problems if p["status"] == "unreadable"}
    assert broken == {"bad", "list", "new", "odd", "binary"}
    assert len(table.rows) == 2


def test_steps_of_a_pipeline_are_rows_and_its_parent_is_not(tmp_path: Path) -> None:
    parent = make_run(tmp_path / "pipe", name="pipeline_mml_x", metrics={})
    (parent / ".hydra").mkdir()
    make_run(parent / "0_ce")
    make_run(parent / "1_mml", name="mml_rgb+flow_from_ce", top1={"rgb": 70.0, "flow": 60.0})
    assert [row["stage"] for row in tabulate(collect(tmp_path)).rows] == ["ce", "mml"]


@pytest.mark.parametrize(("step", "listed"), [("failed", ["1_mml"]), ("completed", ["pipe"])])
def test_a_failed_pipeline_is_told_once(tmp_path: Path, step: str, listed: list[str]) -> None:
    parent = make_run(tmp_path / "pipe", name="pipeline_mml", metrics={}, status="failed", error="x")
    make_run(parent / "0_ce")
    make_run(parent / "1_mml", name="mml_rgb_from_ce", status=step)
    assert [Path(p["path"]).name for p in tabulate(collect(tmp_path)).problems] == listed


def test_a_reused_step_is_the_run_it_was_taken_from(tmp_path: Path) -> None:
    make_run(tmp_path / "a", started="2026-01-01")
    make_run(tmp_path / "b" / "1_ce", started="2026-01-01", reused=True)
    table = tabulate(collect(tmp_path))
    assert (table.rows[0]["rgb/top1/n"], table.notes) == (1, [])


def test_several_heads_of_a_peer_are_quantities_of_their_own(tmp_path: Path) -> None:
    make_run(tmp_path / "a", metrics={"val": {"rgb/verb": {"top1": 40.0}, "rgb/noun": {"top1": 30.0}}})
    table = write(tmp_path)
    assert table.measured == ["rgb/verb/top1", "rgb/noun/top1"]
    assert table.rows[0]["rgb/verb/top1"] == 40.0
    assert "rgb/verb/top1/std" in table.columns and "rgb/verb/top1/std" not in table.described()


def test_the_weights_that_an_alias_starts_from_are_part_of_a_row(tmp_path: Path) -> None:
    for base in ("scratch", "imagenet"):
        make_run(tmp_path / base, name="ml_rgb_from_ce", overrides=["stage=ml", "init=ce", f"init.base={base}"])
    assert [row["init.base"] for row in tabulate(collect(tmp_path)).rows] == ["imagenet", "scratch"]


def test_a_pipeline_without_a_result_of_its_own_is_not_missing(tmp_path: Path) -> None:
    make_silent(tmp_path / "pipe", ["pipeline=mml"])
    make_run(tmp_path / "pipe" / "0_ce")
    assert [run["status"] for run in collect(tmp_path)] == ["completed"]


def test_overrides_that_differ_split_rows_and_cosmetic_ones_do_not(tmp_path: Path) -> None:
    base = ["stage=ce", "modality=[rgb]"]
    for i, extra in enumerate(["", "++objective.weight=2", "logger=wandb", "paths.root=/x", "hydra.verbose=true"]):
        make_run(tmp_path / str(i), seed=i, overrides=[*base, f"seed={i}", *([extra] if extra else [])])
    table = tabulate(collect(tmp_path))
    assert [(row["objective.weight"], row["rgb/top1/n"]) for row in table.rows] == [(None, 4), ("2", 1)]
    assert [row["name"] for row in table.rows] == ["ce_rgb_from_scratch", "ce_rgb_from_scratch [objective.weight=2]"]


def test_runs_that_differ_in_early_stopping_only_are_two_rows(tmp_path: Path) -> None:
    words = ["callbacks=[default,early_stopping]", "callbacks.early_stopping.patience=2"]
    words += ["+callbacks.mine._target_=my_package.Mine"]
    quiet = ["callbacks=[default,lr_monitor]", "callbacks=none", "callbacks.epoch_lines=false", "callbacks=default"]
    for number, more in enumerate([[], words[:1], words[:2], words[2:], *([word] for word in quiet)]):
        make_run(tmp_path / str(number), seed=number, overrides=["stage=ce", "modality=[rgb]", *more])
    rows = tabulate(collect(tmp_path)).rows
    assert sorted(row["rgb/top1/n"] for row in rows) == [1, 1, 1, 1 + len(quiet)]
    assert len({row["name"] for row in rows}) == 4 and any("early_stopping" in row["name"] for row in rows)


def test_init_per_peer_decoder_and_data_are_part_of_a_row(tmp_path: Path) -> None:
    peers = {"rgb": {"init": "ce"}, "flow": {"init": "zoo/seed0/flow.pt"}}
    other = {**peers, "flow": {"init": "zoo/seed1/flow.pt"}}
    common: dict[str, Any] = {"name": "mml_rgb+flow_from_mixed", "top1": {"rgb": 60.0, "flow": 50.0}}
    make_run(tmp_path / "a", peers=peers, **common)
    make_run(tmp_path / "b", peers=other, seed=1, **common)
    make_run(tmp_path / "c", peers=peers, seed=2, decoder={"name": "av", "version": "18"}, **common)
    make_run(tmp_path / "d", peers=peers, seed=3, data_fingerprint="beef", **common)
    table = tabulate(collect(tmp_path))
    assert len({row["name"] for row in table.rows}) == len(table.rows) == 3
    assert sorted(row["rgb/top1/n"] for row in table.rows) == [1, 1, 2]
    assert {row["init"] for row in table.rows} == {"rgb=ce, flow=zoo/seed*/flow.pt"}
    assert {row["decoder"] for row in table.rows} == {"av 18", "decord 0.6.0"}


def test_a_repeated_seed_counts_once_by_its_newest_run(tmp_path: Path) -> None:
    make_run(tmp_path / "z_old", top1={"rgb": 10.0}, finished="2026-01-01T00:00:00")
    make_run(tmp_path / "a_new", top1={"rgb": 20.0}, finished="2026-01-02T00:00:00")
    table = tabulate(collect(tmp_path))
    assert (table.rows[0]["rgb/top1"], table.rows[0]["rgb/top1/n"]) == (20.0, 1)
    assert any("older" in note for note in table.notes)


def test_numbers_that_are_not_finite_leave_the_mean_and_are_noted(tmp_path: Path) -> None:
    make_run(tmp_path / "a", top1={"rgb": 10.0})
    make_run(tmp_path / "b", seed=1, top1={"rgb": float("nan")}, git_sha="b" * 40)
    table = write(tmp_path)
    assert (table.rows[0]["rgb/top1"], table.rows[0]["rgb/top1/n"]) == (10.0, 1)
    assert any("test/rgb/top1" in note for note in table.notes)
    assert any("different code" in note for note in table.notes)


def test_split_choices(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", name="ml_rgb_from_ce", metrics={"val": {"rgb": {"top1": 7.0}}})
    runs = collect(tmp_path)

    def seen(split: str) -> list[tuple[Any, Any]]:
        return [(row["split"], row["rgb/top1"]) for row in tabulate(runs, split).rows]

    assert seen("test") == [("test", 60.0), ("val", 7.0)]
    assert seen("val") == [("val", 59.0), ("val", 7.0)]
    assert seen("both") == [("test", 60.0), ("val", 59.0), ("val", 7.0)]
    with pytest.raises(UserError, match="must be one of test, val, both"):
        tabulate(runs, "train")


def test_metrics_are_chosen_by_name_and_unknown_ones_listed(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    runs = collect(tmp_path)
    assert tabulate(runs, metrics=["loss", "top1"]).measured == ["rgb/loss", "rgb/top1"]
    with pytest.raises(UserError, match=r"top9; there are: loss, top1"):
        tabulate(runs, metrics=["top9"])


def test_multi_label_runs_are_tabulated_by_their_mean_average_precision(tmp_path: Path) -> None:
    make_run(tmp_path / "a", metrics={"val": {"rgb": {"loss": 1.0, "map": 30.0}}})
    assert tabulate(collect(tmp_path)).measured == ["rgb/map"]


def test_nothing_there_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runs"):
        write(tmp_path)
    with pytest.raises(UserError, match="not a directory"):
        write(tmp_path / "missing")


def test_order_of_runs_does_not_matter(sweep: Path) -> None:
    runs = collect(sweep)
    expected = tabulate(runs)
    for seed in range(5):
        assert tabulate(random.Random(seed).sample(runs, len(runs))) == expected


def test_overlapping_directories_count_each_run_once(sweep: Path) -> None:
    inside = next(path for path in sorted(sweep.iterdir()) if path.is_dir())
    assert len(collect_all([sweep, inside])) == len(collect(sweep))


# What is written ------------------------------------------------------------------------------------------------


class Cells(HTMLParser):
    """Texts of the body cells, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")
        self.inside = tag == "td" or (self.inside and tag not in ("th", "script"))

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "td"

    def handle_data(self, data: str) -> None:
        if self.inside and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_csv_and_json_hold_the_same_rows(sweep: Path) -> None:
    table = write(sweep)
    loaded = json.loads((sweep / "table.json").read_text())
    assert loaded["rows"] == table.rows
    with (sweep / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == loaded["columns"]
    texts = [{key: "" if cell is None else str(cell) for key, cell in row.items()} for row in loaded["rows"]]
    assert lines == texts


def test_html_has_every_row_escaped_and_needs_nothing_from_outside(sweep: Path) -> None:
    make_run(sweep / "9", name="ml_<b>&_from_ce", top1={"rgb": 50.0})
    table = write(sweep)
    text = (sweep / "table.html").read_text()
    parser = Cells()
    parser.feed(text.split("<section")[1])
    body = [row for row in parser.rows if row]
    assert [row[0] for row in body] == [row["name"] for row in table.rows]
    assert "<b>&_from" not in text and "58.00 ± 1.00 (3)" in body[0]
    plots = text.split("<section")[1]
    assert plots.count("<svg") == sum(row[q] is not None for row in table.rows for q in table.measured)
    assert plots.count('class="ci"') == 4  # ce rgb and mml rgb, flow, ensemble; one seed draws no whisker
    assert plots.count('class="seed"') == 12 and plots.count('class="mean"') == 5
    assert not re.search(r"src=|@import|https?:", text)


def test_markdown_shows_spread_interval_and_a_dash_for_one_seed(sweep: Path) -> None:
    make_run(sweep / "9", name="ml_rgb_from_ce", top1={"rgb": 50.0})
    write(sweep)
    lines = (sweep / "table.md").read_text().splitlines()
    cells = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")] for line in lines if line[:1] == "|"
    }
    head = cells["name"]
    rgb, interval = head.index("rgb top1"), head.index("rgb top1 CI95")
    assert (cells["ce_rgb_from_scratch"][rgb], cells["ce_rgb_from_scratch"][interval]) == ("58.00 ± 1.00 (3)", "±2.48")
    assert (cells["ml_rgb_from_ce"][rgb], cells["ml_rgb_from_ce"][interval]) == ("50.00 (1)", "–")
    assert any("7_mml_rgb+flow_from_ce" in line and "no result" in line for line in lines)


def test_expected_numbers_stand_beside_ours_only_where_a_run_states_them(sweep: Path) -> None:
    assert "rgb/top1/paper" not in tabulate(collect(sweep)).columns
    make_run(sweep / "9", name="ml_rgb_from_ce", expected={"rgb/top1": 60.54})
    table = write(sweep)
    assert [row["rgb/top1/paper"] for row in table.rows] == [None, 60.54, None]
    assert "60.54" in (sweep / "table.md").read_text() and 'class="paper"' in (sweep / "table.html").read_text()


def test_writing_again_gives_the_same_bytes_and_leaves_no_draft(sweep: Path) -> None:
    write(sweep)
    names = ["table.md", "table.csv", "table.json", "table.html"]
    first = [(sweep / name).read_bytes() for name in names]
    write([sweep], out=sweep)
    assert [(sweep / name).read_bytes() for name in names] == first
    assert sorted(path.name for path in sweep.iterdir() if path.is_file()) == sorted(names)


def test_a_place_that_cannot_be_written_is_a_user_error(sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't write the table"):
        write(sweep, out=tmp_path / "file")
    with pytest.raises(UserError, match="--out"):
        write([sweep, tmp_path])


# Comparisons ----------------------------------------------------------------------------------------------------


def test_paired_differences_are_taken_seed_by_seed(sweep: Path) -> None:
    found = paired(collect(sweep), "mml_rgb+flow_from_ce", "ce_rgb_from_scratch")
    assert (found.seeds, found.a_values, found.b_values) == ([0, 1, 2], [60.0, 61.5, 59.5], [58.0, 59.0, 57.0])
    assert found.difference.mean == pytest.approx(7 / 3)
    assert found.difference.ci95 == pytest.approx(4.303 * (1 / 12) ** 0.5 / 3**0.5)
    assert found.significant and "excludes 0" in str(found)


def test_an_interval_around_zero_is_not_significant(tmp_path: Path) -> None:
    for seed, (a, b) in enumerate([(50.0, 49.0), (50.0, 51.5)]):
        make_run(tmp_path / f"a{seed}", seed=seed, top1={"rgb": a})
        make_run(tmp_path / f"b{seed}", seed=seed, name="ml_rgb_from_ce", top1={"rgb": b})
    found = paired(collect(tmp_path), "ce_rgb_from_scratch", "ml_rgb_from_ce", "val/rgb/top1")
    assert not found.significant
    assert "not significant" in str(found)


def test_one_seed_is_never_significant(tmp_path: Path) -> None:
    make_run(tmp_path / "a", top1={"rgb": 90.0})
    make_run(tmp_path / "b", name="ml_rgb_from_ce", top1={"rgb": 10.0})
    found = paired(collect(tmp_path), lambda row: row.fields["stage"] == "ce", "ml_rgb_from_ce")
    assert not found.significant and "no interval" in str(found)


def test_comparisons_that_make_no_sense_say_why(sweep: Path) -> None:
    make_run(sweep / "9", name="ml_rgb_from_ce", seed=1)
    runs = collect(sweep)
    with pytest.raises(UserError, match=r"the rows are: ce_rgb_from_scratch; ml_rgb_from_ce; mml_rgb\+flow_from_ce"):
        paired(runs, "typo", "ce_rgb_from_scratch")
    with pytest.raises(UserError, match="two different rows"):
        paired(runs, "ml_rgb_from_ce", "ml_rgb_from_ce")
    with pytest.raises(UserError, match=r"A has 1, B has 0,1,2; .*--seeds 1"):
        paired(runs, "ml_rgb_from_ce", "ce_rgb_from_scratch")
    assert paired(runs, "ml_rgb_from_ce", "ce_rgb_from_scratch", seeds=[1]).seeds == [1]
    with pytest.raises(UserError, match=r"seed \[0\] is not completed on both sides"):
        paired(runs, "ml_rgb_from_ce", "ce_rgb_from_scratch", seeds=[0, 1])
    with pytest.raises(UserError, match="it has: val/rgb/top1, val/rgb/loss, test/rgb/top1"):
        paired(runs, "mml_rgb+flow_from_ce", "ce_rgb_from_scratch", "test/flow/top1")
    with pytest.raises(UserError, match="matches 3 rows"):
        paired(runs, lambda row: True, "ce_rgb_from_scratch")


def test_save_returns_what_it_wrote(sweep: Path, tmp_path: Path) -> None:
    paths = save(tabulate(collect(sweep)), tmp_path / "new" / "place")
    assert [path.name for path in paths if path.is_file()] == ["table.md", "table.csv", "table.json", "table.html"]
