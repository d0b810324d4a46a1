"""Averaged weights against the plain formula, in runs, and after a resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from mml_lightning.engine import train as engine_train
from mml_lightning.training.weight_average import AverageWeights, own_tensors
from mml_lightning.utils.errors import UserError
from mml_lightning.zoo.files import checkpoint_entries, load_entry
from tests.runs.test_resume import Cut, assert_equal_runs
from tests.training import test_cohort as lab


def test_the_averages_are_those_of_the_formula() -> None:
    cohort = lab.make_cohort({"rgb": lab.RGB, "flow": lab.FLOW}, lab.MUTUAL)
    seen: list[dict[str, torch.Tensor]] = []

    class Watch(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            seen.append({name: value.detach().clone() for name, value in own_tensors(pl_module).items()})

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            seen.append({name: value.detach().clone() for name, value in own_tensors(pl_module).items()})

    average = AverageWeights(0.3)
    trainer = pl.Trainer(**lab.QUIET, max_epochs=1, callbacks=[average, Watch()])
    batches = [batch | {"complete": True} for batch in lab.batches(6)]
    trainer.fit(cohort, DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch))  # type: ignore[arg-type]
    expected = seen[0]
    for step, now in enumerate(seen[1:]):
        decay = min(0.3, (1 + step) / (10 + step))
        expected = {
            name: decay * expected[name] + (1 - decay) * value if value.is_floating_point() else value
            for name, value in now.items()
        }
    assert average.updates == 6 and len(expected) > 4
    for name, value in expected.items():
        torch.testing.assert_close(average.averages[name], value, rtol=1e-6, atol=1e-7)


def test_what_is_exported_is_the_average_and_a_cut_run_has_the_same(
    train: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_weights: Any
) -> None:
    words = ("ema.decay=0.9", "trainer.validations=null")
    train(*words, run="whole")
    content = torch.load(tmp_path / "single/whole/checkpoints/last.ckpt", weights_only=True)
    told = torch.load(tmp_path / "single/whole/peers/rgb.pt", weights_only=True)
    averages = content["callbacks"]["AverageWeights"]["averages"]
    assert told["provenance"]["averaged"] == 0.9
    assert_loads_everywhere(tmp_path / "single/whole/checkpoints/last.ckpt", told["state_dict"])
    for key, value in told["state_dict"].items():
        assert torch.equal(value, averages[f"peers.rgb.{key}"])
    assert any(not torch.equal(value, content["state_dict"][name]) for name, value in averages.items())
    plain = engine_train.training_callbacks
    with monkeypatch.context() as patch:
        patch.setattr(
            engine_train, "training_callbacks", lambda *given: [*plain(*given), Cut("on_validation_epoch_end", 2)]
        )
        with pytest.raises(ConnectionResetError):
            train(*words, run="cut")
    train(*words, "resume=auto", run="cut")
    assert_equal_runs(tmp_path / "single/whole", tmp_path / "single/cut", same_weights)


def assert_loads_everywhere(file: Path, expected: dict[str, torch.Tensor]) -> None:
    """By the two readers of networks: that of eval, predict, export and `mml_lightning.load`, and that of `init=`."""
    for entry in (checkpoint_entries(file)["rgb"], load_entry(file, "rgb", "rgb")):
        equal = [torch.equal(value, expected[key]) for key, value in entry["state_dict"].items()]
        assert len(equal) == len(expected) and all(equal)
        assert entry["provenance"]["averaged"] == 0.9


def test_a_checkpoint_gives_the_weights_that_its_run_exports(trained: Path, tmp_path: Path) -> None:
    """Averages or trained ones, and never the ones in place of the others."""
    content = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    plain = {name: value for name, value in content["state_dict"].items() if name.startswith("peers.")}
    averages = {name: value + 1 for name, value in plain.items() if name.startswith("peers.rgb.")}
    prefix = "peers.rgb."

    def written(name: str, ema: dict[str, Any] | None, kept: bool = True) -> Path:
        config = {key: value for key, value in content["hyper_parameters"]["config"].items() if key != "ema"}
        changed = {**content, "hyper_parameters": {**content["hyper_parameters"], "config": config}}
        if ema is not None:
            config["ema"] = ema
        changed["callbacks"] = {"AverageWeights": {"updates": 3, "averages": averages}} if kept else {}
        torch.save(changed, tmp_path / name)
        return tmp_path / name

    def of(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}

    used = {"decay": 0.9, "weights": "averaged"}
    averaged = written("averaged.ckpt", used)
    assert_loads_everywhere(averaged, of(averages))
    others = checkpoint_entries(averaged)["flow"]["state_dict"]
    assert all(torch.equal(value, plain[f"peers.flow.{key}"]) for key, value in others.items()), "it is frozen"
    for name, ema in (("trained", {**used, "weights": "trained"}), ("none", {**used, "decay": None}), ("old", None)):
        file = written(f"{name}.ckpt", ema)
        found = checkpoint_entries(file)["rgb"]
        assert all(torch.equal(value, plain[prefix + key]) for key, value in found["state_dict"].items())
        assert "averaged" not in found["provenance"]
    with pytest.raises(UserError, match=r"bare\.ckpt is of a run that exports averaged weights \(ema\.decay=0\.9\)"):
        checkpoint_entries(written("bare.ckpt", used, kept=False))


@pytest.mark.parametrize("word", ["ema.decay=1", "ema.decay=0", "ema.decay=much", "ema.weights=both"])
def test_wrong_settings_are_told(train: Callable[..., dict[str, Any]], word: str) -> None:
    with pytest.raises(UserError, match=word.partition("=")[0]):
        train(word)
