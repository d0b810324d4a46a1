"""`mml predict`: the scores of eval.py, whatever names the videos, and nothing half done."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mml_lightning.cli.main import main
from mml_lightning.engine import predict_files
from mml_lightning.engine.evaluate import evaluate
from mml_lightning.engine.journal import Batch, Journal, part_file
from mml_lightning.engine.predict import load_predictor
from mml_lightning.evaluation import predictions
from mml_lightning.utils.errors import UserError


@pytest.fixture(scope="module")
def videos(demo: Path, trained: Path) -> list[Path]:
    """Of the test split, in its order."""
    told = {path.stem: path for path in (demo / "data").rglob("videos/*")}
    with np.load(trained / "predictions" / "test.npz") as file:
        return [told[name] for name in file["ids"]]


@pytest.fixture
def expected(trained: Path) -> dict[str, np.ndarray]:
    with np.load(trained / "predictions" / "test.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.fixture
def table(videos: list[Path], tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text("path,id\n" + "".join(f"{video},{video.stem}\n" for video in videos))
    return path


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_the_scores_are_those_of_the_run_to_the_bit(
    trained: Path, table: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    for workers in (0, 2):
        out = tmp_path / f"{workers}.npz"
        flow = f"paths.cache={tmp_path / 'flow'}"  # computed anew
        call = ["predict", str(table), "--ckpt", str(trained), "--npz", str(out), "--set", f"data.workers={workers}"]
        assert main([*call, "--set", flow]) == 0
        dump = predictions.load(out)
        assert dump.ids == tuple(expected["ids"]) and dump.classes == tuple(expected["classes"])
        assert set(dump.logits) == {"rgb", "flow", "fused"}
        for output, values in dump.logits.items():
            assert np.array_equal(values.numpy(), expected[f"logits/{output}"]), output


def test_other_views_are_those_of_eval(
    trained: Path, table: Path, composed: Callable[..., Any], tmp_path: Path
) -> None:
    evaluate(*composed(f"ckpt={trained}", "views=uniform2", "fusion=average", program="eval", run="eval"))
    out = tmp_path / "o.npz"
    assert main(["predict", str(table), "--ckpt", str(trained), "--views", "uniform2", "--npz", str(out)]) == 0
    with np.load(tmp_path / "single/eval/predictions/test.npz") as file, np.load(out) as made:
        for key in ("logits/rgb", "logits/flow", "logits/fused"):
            assert made[key].shape[1] == 2 and np.array_equal(made[key], file[key])


def test_one_clip_at_a_time_does_not_depend_on_its_company(
    trained: Path, videos: list[Path], expected: dict[str, np.ndarray]
) -> None:
    predictor = load_predictor(trained, overrides=["data.eval_batch_size=1"])
    together = predictor.predict(videos[:5])
    for one in (predictor.predict(videos[3]), predictor.predict([videos[8], videos[3]])[1]):
        for peer, logits in one.logits.items():
            assert np.array_equal(logits.numpy(), together[3].logits[peer].numpy())
            assert np.allclose(logits.numpy(), expected[f"logits/{peer}"][3], atol=1e-5)


def test_python_has_the_same(
    trained: Path, videos: list[Path], expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    predictor = load_predictor(trained, peers=["rgb"])
    found = predictor.predict([*videos, videos[0]])
    assert np.array_equal(np.stack([one.logits["rgb"].numpy() for one in found[:-1]]), expected["logits/rgb"])
    one = predictor.predict(str(videos[0]))
    assert [name for name, _ in one.top(3)] == [one.classes[k] for k in one.probs.argsort(descending=True)[:3].tolist()]
    assert one.probs.sum().item() == pytest.approx(1) and one.top(99)[-1][1] == pytest.approx(one.probs.min().item())
    assert found[-1].video == found[0].video
    with pytest.raises(UserError, match="no output flow; use one of rgb"):
        one.top(1, "flow")
    broken = tmp_path / "broken.mp4"
    broken.touch()
    with pytest.raises(UserError, match="the file is empty"):
        predictor.predict(broken)
    several = predictor.predict([broken, videos[0]])
    assert several[0].error is not None and several[1].error is None
    with pytest.raises(UserError, match="has no scores"):
        several[0].top()


def test_weights_alone_tell_sampling_and_crops(trained: Path, videos: list[Path], tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere" / "rgb.pt"
    alone.parent.mkdir()
    shutil.copyfile(trained / "peers" / "rgb.pt", alone)
    predictor = load_predictor(alone, overrides=["trainer.accelerator=cpu"])
    assert (predictor.cfg.sampling.num_segments, predictor.cfg.transforms.output) == (4, 32)
    here = load_predictor(trained, peers=["rgb"]).predict(videos[0])
    assert np.allclose(predictor.predict(videos[0]).logits["rgb"], here.logits["rgb"], atol=1e-5)
    typed = load_predictor(alone, overrides=["sampling.num_segments=2"])
    assert (typed.cfg.sampling.num_segments, typed.cfg.transforms.output) == (2, 32)


def test_files_without_scores_are_named_and_the_exit_code_says_so(
    trained: Path, videos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "clips", tmp_path / "out.csv"
    folder.mkdir()
    shutil.copyfile(videos[0], folder / f"good{videos[0].suffix}")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video")
    call = ["predict", str(folder), "--ckpt", str(trained), "--csv", str(out), "--topk", "3"]
    for again in range(2):
        with pytest.raises(SystemExit) as stopped:
            main(call)
        assert stopped.value.code == 1
        shown = capsys.readouterr()
        assert "empty.mp4: the file is empty" in shown.err and "text.mp4" in shown.err
        assert ("already exists" in shown.out) == bool(again)
    found = rows(out)
    assert [row["output"] for row in found if "good" in row["video"]] == ["flow", "rgb", "fused", "ensemble"]
    assert all(row["class_3"] and not row["error"] for row in found if "good" in row["video"])
    assert [bool(row["error"]) for row in found if "good" not in row["video"]] == [True, True]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "out.csv", "out.csv.made.json"]


def test_a_second_start_goes_on_where_the_first_one_stopped(
    trained: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["predict", str(table), "--ckpt", str(trained), "--set", "data.eval_batch_size=4", "--json"]
    assert main([*call, str(tmp_path / "whole.json")]) == 0
    append, out = Journal.append, tmp_path / "out.json"

    def interrupted(journal: Journal, batch: Batch) -> None:
        if journal.batches:
            raise KeyboardInterrupt
        append(journal, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", interrupted)
        assert main([*call, str(out)]) == 130
    assert f"4 of 11 are in {part_file(out)}: the same command continues" in capsys.readouterr().err
    assert not out.exists() and part_file(out).exists()
    measured: list[int] = []
    batches = predict_files.batches

    def counted(*args: Any) -> Any:
        for batch in batches(*args):
            measured.append(batch.videos)
            yield batch

    monkeypatch.setattr(predict_files, "batches", counted)
    assert main([*call, str(out), "--topk", "2"]) == 2
    assert "made with other topk (5, now 2)" in capsys.readouterr().err
    assert main([*call, str(out)]) == 0
    assert measured == [4, 3] and out.read_text() == (tmp_path / "whole.json").read_text()
    told = json.loads(out.read_text().splitlines()[0])
    assert set(told["heads"]["label"]) == {"rgb", "flow", "fused", "ensemble"}


def test_windows_have_a_row_each_and_a_timeline(
    trained: Path, videos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    call = ["predict", str(videos[0]), "--ckpt", str(trained), "--peer", "rgb", "--window", "0.5", "--stride", "0.25"]
    assert main([*call, "--csv", str(out)]) == 0
    found, shown = rows(out), capsys.readouterr().out
    assert [float(row["start"]) for row in found[:3]] == [0, 0.25, 0.5]
    assert all(float(row["end"]) - float(row["start"]) == pytest.approx(0.5) for row in found)
    assert len({row["score_1"] for row in found}) > 1  # other frames
    assert f"{videos[0]}:\n  0:00.0 to 0:0" in shown
    table = tmp_path / "part.csv"
    table.write_text(f"path,id,start,end\n{videos[0]},one,0.25,0.75\n")
    part = load_predictor(trained, ["rgb"], overrides=["data.span_margin=0"])
    assert main(["predict", str(table), "--ckpt", str(trained), "--peer", "rgb", "--npz", str(tmp_path / "p.npz"),
                 "--set", "data.span_margin=0"]) == 0  # fmt: skip
    assert part.cfg.data.span_margin == 0
    top = predictions.load(tmp_path / "p.npz").pooled["rgb"][0].exp().max().item()
    assert float(found[1]["score_1"]) == pytest.approx(top, abs=1e-5)


def test_checkpoints_and_aliases_name_networks_too(
    trained: Path, videos: list[Path], small: list[str], demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_predictor(trained, ["rgb"]).predict(videos[0]).logits["rgb"]
    (checkpoint,) = (trained / "checkpoints").glob("last.ckpt")
    assert np.array_equal(load_predictor(checkpoint, ["rgb"]).predict(videos[0]).logits["rgb"], expected)
    result = json.loads((trained / "result.json").read_text())
    entry = Path(result["peers"]["rgb"]["zoo"]).parent
    assert np.array_equal(load_predictor(entry, ["rgb"]).predict(videos[0]).logits["rgb"], expected)
    words = [*small, f"paths.root={demo}", "schedule.epochs=1", "fusion=average", "+aliases.mine.run=" + result["name"]]
    words += ["+aliases.mine.peer=rgb", "+aliases.mine.make=['stage=mml','modality=[rgb,flow]']"]
    found = load_predictor("mine", ["rgb"], overrides=words)
    assert np.array_equal(found.predict(videos[0]).logits["rgb"], expected)


def test_a_list_on_standard_input_and_lines_of_a_terminal(
    trained: Path, videos: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{videos[1]}\n\n{videos[2]}\n"))
    assert main(["predict", "-", "--ckpt", str(trained / "peers/rgb.pt"), "--topk", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [str(videos[1]), str(videos[2])]


@pytest.mark.parametrize(
    "words, message",
    [
        (["{video}", "--ckpt", "{tmp}"], "holds no peers"),
        (["{video}", "--ckpt", "{video}"], "is no file, no directory|can't be read as weights|no such weight file"),
        (["{video}", "--ckpt", "{run}", "--peer", "rgb,audio"], "has no network audio; it has flow, rgb"),
        (["{video}", "--ckpt", "{run}", "--views", "nothing"], "Could not find 'views/nothing'"),
        (["{video}", "--ckpt", "{run}", "--topk", "0"], "--topk 0 must be 1 or more"),
        (["{video}", "--ckpt", "{run}", "--stride", "1"], "--stride goes with --window"),
        (["{video}", "--ckpt", "{run}", "--window", "0"], "must be a positive number"),
        (["{video}", "--ckpt", "{run}", "--set", "data.nothing=1"], "data.nothing"),
        (["{video}", "--ckpt", "{run}", "--set", "workers"], "KEY=VALUE"),
        (["{video}", "--ckpt", "nothing"], "not a file, directory or alias"),
        (["{tmp}", "--ckpt", "{run}"], "no video in this folder"),
        (["{tmp}/gone.mp4", "--ckpt", "{run}"], "no such file"),
        (["{video}", "--ckpt", "{run}", "--csv", "{video}"], "not the record of what made it"),
        (["{video}", "--ckpt", "{run}", "--csv", "{video}/x.csv"], "can't write"),
    ],
)
def test_mistakes_are_one_line(
    trained: Path,
    videos: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    import re

    filled = [word.format(video=videos[0], tmp=tmp_path, run=trained) for word in words]
    size = videos[0].stat().st_size
    assert main(["predict", *filled]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mml: error")]
    assert re.search(message, line), line
    assert list(tmp_path.iterdir()) == [] and videos[0].stat().st_size == size
