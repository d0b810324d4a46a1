"""`mml bench step`: the baseline computes what ours computes; what is printed and written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from mml_lightning.backbones import tsm_resnet
from mml_lightning.benchmarks import compare_steps
from mml_lightning.benchmarks.baseline import PlainTSM, SliceShift, to_float
from mml_lightning.benchmarks.timing import CPU, Timing, alternate, rates
from mml_lightning.benchmarks.training_step import BareSteps, CohortSteps, PlainSteps, random_batches, run_words
from mml_lightning.cli.compose import compose_config
from mml_lightning.cli.main import main
from mml_lightning.config import data
from mml_lightning.training import advice

SMALL = ["backbone=tiny", "backbone.net.width=8", "transforms.output=32", "sampling.num_segments=4"]


def test_baseline_is_the_same_network_computed_plainly() -> None:
    torch.manual_seed(0)
    ours = tsm_resnet("tiny", width=8, dropout=0.0, num_classes={"label": 3})
    torch.manual_seed(0)
    plain = PlainTSM(tsm_resnet("tiny", width=8, dropout=0.0, num_classes={"label": 3}), n_segments=4)
    assert sum(isinstance(module, SliceShift) for module in plain.modules()) == 4
    clip = torch.randn(2, 4, 3, 32, 32)
    one, other = ours(clip).logits["label"], plain(clip.flatten(1, 2))
    torch.testing.assert_close(other, one)
    grads = [torch.autograd.grad(out.square().sum(), net.parameters()) for out, net in ((one, ours), (other, plain))]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)


def test_floats_of_the_baseline() -> None:
    images = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    made = to_float(images.numpy(), [0.5, 0.4, 0.3], [0.2, 0.2, 0.1])
    assert made.shape == (6, 4, 5)
    torch.testing.assert_close(made[5], (images[1, ..., 2] / 255 - 0.3) / 0.1)
    assert to_float(images[..., 0].numpy(), [0.5], [0.226]).shape == (2, 4, 5)


def test_rounds_alternate_and_the_best_counts() -> None:
    order: list[str] = []
    seconds = iter([0.1, 0.1, 3.0, 1.0, 2.0, 1.5])  # the first round only makes warm
    *_, timings = alternate({name: lambda: next(seconds) for name in "ab"}, 2, order.append)
    assert order == ["a", "b"] * 3
    assert (timings["a"].best, timings["b"].best) == (2.0, 1.0)
    assert Timing([1.0, 1.5]).spread == 0.5 and Timing([1.0]).spread is None
    assert rates(timings, 8)[1] == {"way": "b", "clips_per_s": 8, "vs_first": 2, "spread": 0.5}


def test_steps_before_those_that_count_and_batches_that_come_again(tmp_path: Path) -> None:
    words = ["setup=ssv2", "data.root=nowhere", "data.batch_size=2", "optimizer.lr=0.001", "schedule=constant", *SMALL]
    cfg = compose_config(run_words(words, tmp_path, CPU))
    modalities = data.modalities(cfg)
    one, other = random_batches(cfg, 2, CPU)
    losses = []
    for made in (
        CohortSteps(cfg, modalities, tmp_path, CPU),
        BareSteps(cfg, modalities, tmp_path, CPU),
        PlainSteps(cfg, modalities, CPU),
    ):
        assert made([one, other, one], warm=1) > 0
        losses.append(made.losses)
    assert len(losses[0]) == 3 and losses[0][0] > losses[0][2], "a batch that comes again is known"
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and losses[2] == pytest.approx(losses[0], rel=1e-4)


def test_prints_a_table_and_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    assert main(["bench", "step", *SMALL, "--rounds", "2", "--json", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[:5]] == ["way", "---", "baseline", "float32", "bfloat16"]
    assert lines[6] and lines[5] == lines[7] == "" and len(lines) == 9
    told = json.loads(file.read_text())
    assert told["machine"]["threads"] == 1 and "backbone=tiny" in told["overrides"]
    assert told["command"].startswith("mml bench step backbone=tiny ") and f"made by `{told['command']}` on" in lines[8]
    base, single, half = told["tables"][0]["rows"]
    assert base["loss_difference"] == 0 and single["loss_difference"] < 1e-4 and half["loss_difference"] < 1e-2
    assert half["kept_mb"] < single["kept_mb"] < base["kept_mb"] and half["mfu"] > 0
    assert all(row["peak_mb"] > row["kept_mb"] for row in (base, single, half))


def test_a_bare_loop_computes_what_a_run_does(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    words = ["--ways", "baseline,baseline_kept,bfloat16,bare", "--rounds", "2", "--json", str(file)]
    assert main(["bench", "step", *SMALL, *words]) == 0
    plain, kept, run, bare = json.loads(file.read_text())["tables"][0]["rows"]
    assert kept["loss_difference"] == 0 and bare["loss_difference"] == run["loss_difference"] < 1e-2
    assert bare["mfu"] > 0 and plain["kept_mb"] == kept["kept_mb"]


def test_networks_alone_tell_what_joining_costs(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["stage=mml", "modality=[rgb,flow]", "--alone", "--ways", "float32,twice", "--rounds", "1"]
    assert main(["bench", "step", *SMALL, *words]) == 0
    out = capsys.readouterr().out
    assert "| rgb alone |" in out and "| flow alone |" in out and "a joint step takes" in out
    assert out.splitlines()[0] == "| way | clips/s | vs the first | MFU | kept MB/clip | peak MB |", "no spread of one"


@pytest.mark.parametrize(
    ("rates", "told"),
    [
        ({"float32": 1, "bfloat16": 2}, "trainer.precision=bf16-mixed makes a step 2.00 times"),
        ({"float32": 9, "bfloat16": 0.5}, r"bf16-mixed takes 18 times as long, leave trainer.precision=32-true"),
        ({"float32": 100, "bfloat16": 101}, "what advice says of bfloat16"),  # within the spread
        ({"float32": 101, "bfloat16": 100}, "what advice says of float32"),
        ({"float32": 2, "contiguous": 1}, "what advice says of float32"),
        ({"float32": 1, "contiguous": 2}, "what advice says of contiguous"),
        ({"float32": 50, "bare": 100}, "what advice says of float32"),  # the bare loop is in bfloat16
        (
            {"bfloat16": 80, "bare": 100},
            r"what a run adds to its networks is the bottleneck \(80%",
        ),
        ({"bfloat16": 88, "bare": 100}, "what advice says"),
        ({"baseline": 1}, "add float32 or bfloat16"),
    ],
)
def test_sentence_names_the_switch(rates: dict[str, float], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "bottleneck", lambda seen: f"what advice says of {seen}")
    rows = [{"way": way, "clips_per_s": rate, "spread": 0.05} for way, rate in rates.items()]
    assert re.search(told, compare_steps.bottleneck(rows, lambda way: way))  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ways", "fast"], "--ways fast is unknown; use baseline, baseline_kept, contiguous, float32"),
        (["--ways", "bfloat16,bare", "--alone"], "bare is none: name another one last in --ways"),
        (["--steps", "0"], "--steps 0 must be 1 or more"),
        (["backbone.net.width=x"], "is a setting of the wrong type? typed: setup=ssv2"),
        (["--rounds", "0"], "--rounds 0 must be 1 or more"),
        (["backbone=i3d_tiny"], "leave it out of --ways"),
        (["--device", "cuda"], "torch sees no GPU here"),
        (["backbone=resnet"], "resnet"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["bench", "step", *SMALL[2:], *words]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
