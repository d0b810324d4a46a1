"""The fused output stands beside the peers in everything that a run leaves."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mml_lightning import report
from mml_lightning.cli.main import main
from mml_lightning.config import data as config_data
from mml_lightning.config import fusion
from mml_lightning.config.settings import Settings
from mml_lightning.engine.evaluate import evaluate
from mml_lightning.engine.predict import Predictor, heads_of, load_entries
from mml_lightning.runs.fingerprint import evaluation
from mml_lightning.utils.errors import UserError

Composed = Callable[..., tuple[Settings, list[str]]]
Train = Callable[..., dict[str, Any]]


def scores(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "predictions" / "test.npz") as file:
        return {key: file[key] for key in file.files}


def test_average_is_measured_like_a_peer(train: Train, composed: Composed, tmp_path: Path) -> None:
    words = ["stage=mml", "modality=[rgb,flow]", "init=scratch", "schedule.epochs=1", "views=uniform2"]
    result = train(*words, "fusion=average")
    run = tmp_path / "single" / "run"
    found = scores(run)
    expected = (found["logits/rgb"] + found["logits/flow"]) / 2
    np.testing.assert_allclose(found["logits/fused"], expected, rtol=1e-6)
    top1 = 100 * (expected.mean(1).argmax(1) == found["target"]).mean()
    for split in ("val", "test"):
        assert list(result["metrics"][split]) == ["ensemble", "flow", "fused", "rgb"]
        assert result["metrics"][split]["fused"].keys() == result["metrics"][split]["rgb"].keys()
    assert result["metrics"]["test"]["fused"]["top1"] == pytest.approx(top1, abs=1e-3)
    with (run / "predictions/test_per_class.csv").open() as file:
        assert "fused" in next(csv.reader(file))
    assert "fused" in report.markdown(report.write(tmp_path / "single"))
    assert sorted(path.name for path in (run / "peers").iterdir()) == ["flow.pt", "rgb.pt"]
    assert main(["ensemble", str(run), "--out", str(tmp_path / "ensembles")]) == 0
    assert "fused" not in (tmp_path / "ensembles/ensembles.csv").read_text(), "its peers are in there already"

    measured = evaluate(*composed(f"ckpt={run}", "views=uniform2", "fusion=average", program="eval", run="eval"))
    assert measured["metrics"] == {"test": result["metrics"]["test"]}
    cfg, typed = composed(f"ckpt={run}", "views=uniform2", "fusion=average", program="eval")
    entries = load_entries(cfg, typed, lambda: config_data.dataset(cfg, ["test"]))
    dump = Predictor.of(cfg, entries, heads_of(entries)).score(config_data.dataset(cfg, ["test"]))["label"].dump()
    assert dump is not None and np.array_equal(dump.logits["fused"].numpy(), found["logits/fused"])

    plain = evaluate(*composed(f"ckpt={run}", "views=uniform2", program="eval", run="plain"))["metrics"]["test"]
    assert plain == {name: value for name, value in result["metrics"]["test"].items() if name != "fused"}


def test_what_a_peer_has_not_seen_does_not_count(
    train: Train, composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mml_lightning.data.loading.images import Flow
    from mml_lightning.data.video.decode import NoSource

    real = Flow.open

    def open_some(self: Flow, name: str, record: Any, opening: Any) -> Any:
        if record.id[-1] in "02468":
            raise NoSource(f"{record.id}: one frame")
        return real(self, name, record, opening)

    monkeypatch.setattr(Flow, "open", open_some)
    train(
        *("stage=mml", "modality=[rgb,flow]", "init=scratch", "schedule.epochs=1"),
        "data.missing=mask",
        "fusion=average",
    )
    found = scores(tmp_path / "single" / "run")
    absent = np.isnan(found["logits/flow"]).all(axis=(1, 2))
    assert absent.any() and not absent.all()
    assert np.array_equal(found["logits/fused"][absent], found["logits/rgb"][absent])
    assert not np.isnan(found["logits/fused"]).any()


def test_one_network_is_not_fused(composed: Composed, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    cfg, _ = composed("fusion=average")
    assert (
        fusion.fusion(cfg, {"rgb": 8}, {"label": 3}) is None and "only one network, rgb, nothing to fuse" in caplog.text
    )
    assert evaluation(cfg) == evaluation(composed()[0])
    both = ["stage=mml", "modality=[rgb,flow]", "init=scratch"]
    assert evaluation(composed(*both, "fusion=average")[0]) != evaluation(composed(*both)[0])
    with pytest.raises(UserError, match="fusion='middle' is unknown; use one of"):
        fusion.fuses(composed(*both, "fusion.name=middle")[0], ["rgb", "flow"])
    for name in ("ensemble", "fused", "fusion", "gate"):
        with pytest.raises(UserError, match=f"a modality can't be named ensemble, fused, .*: rename {name}"):
            fusion.fuses(cfg, ["rgb", name])
