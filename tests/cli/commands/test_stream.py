"""`mml stream`: lines of a running video; mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mml_lightning.cli.main import main
from mml_lightning.zoo.files import export_peer, load_peer
from tests.data.videos import moving, write_sound, write_video


@pytest.fixture(scope="module")
def online(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    entry = load_peer(trained / "peers" / "rgb.pt")
    path = tmp_path_factory.mktemp("online") / "rgb.pt"
    return export_peer(path, {**entry, "arch": {**entry["arch"], "shift": "online"}})


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    write_video(path, moving(12, 2, 1))
    return path


def test_a_line_per_step_and_how_fast_it_was(online: Path, video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["stream", str(video), "--ckpt", str(online), "--every", "3"]
    assert main(call) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split()[3] for line in lines[:-1]] == ["0", "3", "6", "9"]
    assert all(line.endswith(" ms") for line in lines[:-1])
    assert lines[-1].startswith("4 steps in ") and "p50" in lines[-1] and "p95" in lines[-1]
    assert "a step with every 3rd frame" in err and "mean over the last 4 steps" in err
    assert main([*call, "--json", "--topk", "2", "--max-frames", "2"]) == 0
    *steps, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert [step["frame"] for step in steps] == [0, 3] and [step["seconds"] for step in steps] == [0, 0.25]
    assert all(len(step["top"]["label"]) == 2 and step["latency_ms"] > 0 for step in steps)
    assert steps[0]["top"] == steps[0]["top_of_step"] and last["summary"]["steps"] == 2


def test_bad_input_is_one_line(
    online: Path, trained: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, text, sound = tmp_path / "empty.mp4", tmp_path / "text.mp4", tmp_path / "sound.mp4"
    empty.touch()
    text.write_text("no video\n")
    write_sound(sound)
    usual = ["--ckpt", str(online)]
    for words, code, message in (
        ([str(tmp_path / "none.mp4"), *usual], 2, "no such file"),
        ([str(tmp_path), *usual], 2, "a folder, and a stream is of one video"),
        ([str(empty), *usual], 1, "the file is empty"),
        ([str(text), *usual], 1, "text.mp4"),
        ([str(sound), *usual], 1, "sound.mp4"),
        ([str(video), *usual, "--peer", "flow"], 2, "has no network flow"),
        ([str(video), "--ckpt", str(trained)], 2, "choose one with --peer"),
        ([str(video), "--ckpt", str(trained), "--peer", "rgb"], 2, "train it with backbone.net.shift=online"),
        ([str(video), *usual, "--fps", "0"], 2, "--fps 0 must be above 0"),
        ([str(video), *usual, "--fps", "999"], 2, "use --every 1"),
        ([str(video), *usual, "--max-frames", "0"], 2, "--max-frames 0 must be above 0"),
        (["camera:0", *usual], 2, "give --fps (steps a second) or --every"),
        (["camera:987", *usual, "--fps", "5"], 2, "no such camera"),
    ):
        try:
            assert main(["stream", *words]) == code, words
        except SystemExit as end:
            assert end.code == code, words
        out, err = capsys.readouterr()
        assert not out and message in err.splitlines()[-1], (words, err)
        assert err.splitlines()[-1].startswith("mml: error: ") and "Traceback" not in err
