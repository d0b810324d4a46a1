"""`mml bench`: what it prints and writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mml_lightning.benchmarks import timing
from mml_lightning.benchmarks.commands.shape import without_json
from mml_lightning.cli.main import main


def test_flow_prints_the_table_and_writes_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "flow", "--engines", "dis-ultrafast,farneback-default", "--size", "64x48", "--repeats", "1"]
    assert main([*words, "--reference", "dis-ultrafast", "--json", str(tmp_path / "rows.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| engine | ms / pair | vs the reference | translation, px |") and "| 1x |" in lines[2]
    told = json.loads((tmp_path / "rows.json").read_text())
    (table,) = told["tables"]
    assert told["machine"]["threads"] == 1 and table["size"] == [64, 48]
    assert "the engine is the bottleneck: flow=" in table["sentence"] == lines[5]
    rows = table["rows"]
    assert [row["engine"] for row in rows] == ["dis-ultrafast", "farneback-default"]
    assert all(row["milliseconds"] > 0 and row["errors"]["zoom"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engines", "raft"], "use one of"),
        (["--engines", "mv"], "use mv-h264 or mv-mpeg4"),
        (["--repeats", "0"], "--rounds 0 must be 1 or more"),
        (["--engines", "dis", "--reference", "tvl1"], "not among the engines"),
        (["--size", "3x3"], "--size 3x3 must be 16x16 or more"),
        (["--size", "0x0"], "must be 16x16 or more"),
        (["--json", "{folder}"], "not a regular file); name another --json"),
        (["--json", "/proc/rows.json"], "can't write /proc/rows.json"),
        (["--engines", "dis", "--size", "32x32", "--repeats", "1", "--json", "no/such/folder"], "name another --json"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "flow", *(word.replace("{folder}", str(tmp_path)) for word in arguments)]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("place", ["{folder}/growth.png", "{folder}/no/growth.svg", "/proc/growth.svg"])
def test_a_plot_that_can_t_be_drawn_is_told_before_anything_is_measured(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mml_lightning.benchmarks.scaling.measure", lambda *args: pytest.fail("it is measured"))
    assert main(["bench", "growth", "--plot", place.replace("{folder}", str(tmp_path))]) == 2
    assert "--plot" in capsys.readouterr().err.splitlines()[-1] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", ["1e999", "1.5", "nan", "two", ""])
@pytest.mark.parametrize("words", ["records --records", "growth --frames"])
def test_numbers_are_whole(words: str, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["bench", *words.split(), f"2,{number}"])
    assert left.value.code == 2 and f"{number!r} is not a whole number" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("json_words", ["--json 'a file'", "--json='a file'", "--js=file", "--js file"])
def test_the_command_is_told_without_its_file(json_words: str) -> None:
    assert without_json(f"mml bench step {json_words} --steps 2") == "mml bench step --steps 2"


def test_the_device_is_that_of_the_machine_and_one_engine_has_no_rival(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = timing.machine(timing.CPU)
    monkeypatch.setattr(timing, "machine", lambda device: {**told, "device": "H100"})
    assert main(["bench", "flow", "--engines", "dis-ultrafast", "--size", "32x32", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert " on H100, " in printed.splitlines()[-1]
    assert " px\n" in printed and "of these" not in printed


@pytest.mark.parametrize("words", ["bench step", "check", "graph"])
def test_a_setting_that_is_none_is_answered_with_one_that_is(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words.split(), "backbon=tiny"]) == 2
    assert "unknown setting backbon; did you mean backbone" in capsys.readouterr().err.splitlines()[-1]


def test_large_batches_of_one_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--batch", "2", "--engines", "tvl1-fast", "--size", "32x24", "--rounds", "1"]
    assert main(["bench", "flow", *words, "--json", str(tmp_path / "rows.json")]) == 0
    assert "2 pairs at once on cpu; " in capsys.readouterr().out
    (told,) = json.loads((tmp_path / "rows.json").read_text())["tables"]
    assert told["batch"] == 2 and told["rows"][0]["pairs_per_s"] > 0


def test_nothing_is_measured_that_can_not_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mml_lightning.benchmarks.data.compare", lambda *args: pytest.fail("it is measured"))
    assert main(["bench", "data", "--json", "no/such/folder/rows.json"]) == 2


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["flow", "--size", "big"]])
def test_wrong_words_show_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["bench", *arguments])
    assert left.value.code == 2 and "usage: mml bench" in capsys.readouterr().err


def test_stream_tells_both_ways_of_each_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "stream", "--networks", "tiny,tsm_mobilenet_v2", "--rounds", "1", "sampling.num_segments=3"]
    words += ["transforms.output=32", "transforms.short_side=36", "--json", str(tmp_path / "rows.json")]
    assert main(words) == 0
    (table,) = json.loads((tmp_path / "rows.json").read_text())["tables"]
    assert [row["way"] for row in table["rows"]] == [
        f"{name}, {way}"
        for name in ("tiny", "tsm_mobilenet_v2")
        for way in ("a frame at a time", "a clip of 3 per frame")
    ]
    assert all(row["frame_ms"] > 0 and row["logit_difference"] < 1e-4 for row in table["rows"])
    capsys.readouterr()
    for network, message in (("tsn_nothing", "tsn_nothing"), ("tsm_pool_resnet50", "looks at later frames")):
        assert main(["bench", "stream", "--networks", network]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
