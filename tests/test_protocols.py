"""The named options of sampling, transforms and views: what each makes, and that every number keeps its views."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mml_lightning.config import data as config_data
from mml_lightning.config.settings import Settings
from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.engine import plan
from mml_lightning.engine.evaluate import evaluate
from mml_lightning.runs import fingerprint
from mml_lightning.transforms import invert_x
from mml_lightning.utils.errors import UserError

ROOT = Path(__file__).parents[1]
Composed = Callable[..., tuple[Settings, list[str]]]

# views: clips, crops, side of the crop with 224 of 256 pixels, pooling
VIEWS = {
    "center": (1, 1, 224, "logits"),
    "uniform1_zero": (1, 1, 224, "logits"),
    "uniform2": (2, 1, 224, "logits"),
    "uniform2_dense1_full": (3, 1, 256, "logits"),
    "ssv2_tsm_accurate": (2, 3, 256, "logits"),
    "dense10x3": (10, 3, 256, "logits"),
    "ten_crop": (1, 10, 224, "logits"),
    "kinetics30": (10, 3, 256, "probs"),
    "charades30": (10, 3, 256, "max"),
    "segments10": (10, 1, 224, "logits"),
}
CLIPS_OF_100 = {  # first and last clip of a video of 100 frames, counted from 1, 8 segments
    "center": [[7, 19, 32, 44, 57, 69, 82, 94]] * 2,
    "uniform1_zero": [[1, 13, 26, 38, 51, 63, 76, 88]] * 2,
    "uniform2": [[7, 19, 32, 44, 57, 69, 82, 94], [1, 13, 26, 38, 51, 63, 76, 88]],
    "uniform2_dense1_full": [list(range(36, 65, 4)), [1, 13, 26, 38, 51, 63, 76, 88]],
    "ssv2_tsm_accurate": [[7, 19, 32, 44, 57, 69, 82, 94], [1, 13, 26, 38, 51, 63, 76, 88]],
    "dense10x3": [list(range(1, 58, 8)), list(range(44, 101, 8))],
    "ten_crop": [[7, 19, 32, 44, 57, 69, 82, 94]] * 2,
    "kinetics30": [list(range(1, 58, 8)), list(range(44, 101, 8))],
    "charades30": [list(range(1, 58, 8)), list(range(44, 101, 8))],
    "segments10": [list(range(1, 58, 8)), list(range(44, 101, 8))],
}


def names(group: str) -> list[str]:
    return sorted(file.stem for file in (ROOT / "conf" / group).glob("*.yaml"))


def datasets(cfg: Settings, *splits: str) -> dict[str, ClipDataset]:
    """Samples of a run on the demo; only the splits named, as eval.py asks for them."""
    data = config_data.dataset(cfg)
    if splits:
        data = dataclasses.replace(data, splits={split: data.splits[split] for split in splits})
    chosen = config_data.modalities(cfg)
    return config_data.clip_datasets(cfg, data, config_data.flow_cache(cfg, chosen), list(chosen.values()))


def starts(dataset: ClipDataset, count: int = 100) -> Any:
    found = dataset.starts({"rgb": count}, {"rgb": 1}, np.random.default_rng(0))["rgb"]
    return (np.asarray(found) + 1).tolist()


def crops(dataset: ClipDataset, width: int, height: int) -> Any:

    return dataset.geometries(width, height, random.Random(0))


@pytest.mark.parametrize("name", names("views"))
def test_views_are_what_their_name_says(composed: Composed, name: str) -> None:
    cfg, _ = composed(f"views={name}", "sampling.num_segments=8", "transforms.output=224", "transforms.short_side=256")
    test = datasets(cfg, "test")["test"]
    clips, places, side, pooling = VIEWS[name]
    found, boxes = starts(test), crops(test, 455, 256)
    assert (cfg.views.name, len(found), len(boxes), cfg.views.pooling) == (name, clips, places, pooling)
    assert [found[0], found[-1]] == CLIPS_OF_100[name]
    assert {box.output for box in boxes} == {(side, side)} and len(set(boxes)) == places
    assert sum(box.flip for box in boxes) == (5 if name == "ten_crop" else 0)
    assert f"{clips} clip{'s' * (clips > 1)} x {places} crop" in plan._views(cfg)


def test_thirty_views_of_slowfast_to_the_frame(composed: Composed) -> None:
    size = ("sampling.num_segments=8", "transforms.output=224", "transforms.short_side=256")
    cfg, _ = composed(
        "sampling=strided", "views=charades30", "sampling.policy=code", "transforms=inverse_uniform", *size
    )
    test = datasets(cfg, "test")["test"]
    assert [clip[0] - 1 for clip in starts(test)] == [0, 5, 10, 14, 19, 24, 29, 33, 38, 43]
    assert [(box.x, box.y) for box in crops(test, 455, 256)] == [(0, 0), (100, 0), (199, 0)]
    assert not any(box.antialias for box in crops(test, 320, 240))


@pytest.mark.parametrize("mode", ["uniform", "dense", "random", "strided"])
@pytest.mark.parametrize("policy", ["fixed", "paper", "code"])
def test_the_plan_says_where_frames_depend_on_the_company(composed: Composed, mode: str, policy: str) -> None:
    words = (f"sampling={mode}", f"sampling.policy={policy}")
    told = f"sampling.policy={policy}: the frames of rgb and flow depend on each other"
    depends = policy != "fixed" and mode != "strided"
    assert (told in plan._sample(composed(*words, "modality=[rgb,flow]")[0])) is depends
    assert "company" not in plan._sample(composed(*words, "modality=[flow]")[0])
    assert "company" not in plan._sample(composed(*words, "modality=[rgb,flow]", "sampling.shared=false")[0])


@pytest.mark.parametrize("name", names("sampling"))
def test_validation_is_one_clip_and_the_central_crop(composed: Composed, name: str) -> None:
    cfg, _ = composed(f"sampling={name}", "sampling.num_segments=8", "sampling.stride=5", "views=charades30")
    made = datasets(cfg)
    strided, segments = name == "strided", name == "segments"
    if segments:  # ten of them, evenly spread up to the last that fits, which ends with item 100
        assert [clip[0] for clip in starts(made["val"])] == [1, 8, 15, 22, 29, 36, 43, 50, 57, 65]
        assert {step for clip in starts(made["val"]) for step in np.diff(clip)} == {5}
    else:
        assert starts(made["val"]) == [list(range(33, 69, 5)) if strided else [7, 19, 32, 44, 57, 69, 82, 94]]
    assert {step for clip in starts(made["test"]) for step in np.diff(clip)} == {5}  # views follow sampling.stride
    (box,) = crops(made["val"], 96, 36)
    assert (box.x, box.y, box.output, box.flip) == (32, 2, (32, 32), False)
    rows = starts(made["train"])
    assert len(rows) == (5 if segments else 1)
    for row in rows:
        assert len(row) == 8 and (not (strided or segments) or set(np.diff(row)) == {5})


@pytest.mark.parametrize("name", names("transforms"))
def test_every_transform_makes_samples(composed: Composed, name: str) -> None:
    made = datasets(composed(f"transforms={name}")[0])
    sample = made["train"][0, 0]["clips"]["rgb"]
    assert sample.shape == (1, 4, 3, 32, 32) and sample.dtype == torch.uint8
    assert made["val"][0, 0]["clips"]["rgb"].shape == sample.shape


def test_jitter_is_a_share_of_the_short_side(composed: Composed) -> None:

    for name, high in (("inverse_uniform", 320), ("inverse_uniform_wide", 340), ("uniform_jitter", 320)):
        cfg, _ = composed(f"transforms={name}", "transforms.output=224", "transforms.short_side=256")
        train = datasets(cfg)["train"]
        assert train.geometries.geometry.short_sides == (256, high)  # type: ignore[attr-defined]
        (box,) = train.geometries(640, 480, random.Random(1))
        assert box.output == (224, 224) and 256 <= min(box.resize or (0, 0)) <= high


def test_crops_of_tsm_are_for_one_kind_of_modality(composed: Composed) -> None:
    cfg, _ = composed("transforms=tsm", "stage=mml", "modality=[rgb,rgbdiff]")
    with pytest.raises(UserError, match=r"crops rgb and rgbdiff differently.*train them separately"):
        datasets(cfg)
    assert starts(datasets(cfg, "test")["test"])  # measuring them together is fine
    assert datasets(composed("transforms=tsm", "modality=rgbdiff")[0])["train"].mirrored == {}


def test_mirrored_test_crops_negate_the_x_of_flow_and_keep_the_label(composed: Composed) -> None:
    cfg, _ = composed("views=ten_crop", "modality=[rgb,flow]")
    cache = config_data.flow_cache(cfg, config_data.modalities(cfg))
    test = datasets(cfg, "test")["test"]
    assert cache is not None
    cache.make(test.records[0])
    labels = range(len(test.heads["label"].classes))
    sample = dataclasses.replace(test, mirrored={"label": {k: len(labels) - 1 - k for k in labels}})[0, 0]
    assert sample["target"]["label"] == test.records[0].target["label"]
    rgb, flow = (sample["clips"][name] for name in ("rgb", "flow"))
    assert rgb.shape[:2] == flow.shape[:2] == (10, 4)
    assert torch.equal(rgb[1::2], rgb[0::2].flip(-1))
    assert torch.equal(flow[1::2], invert_x(flow[0::2].flip(-1))) and not torch.equal(flow[1::2], flow[0::2].flip(-1))


def test_mirrored_views_of_classes_with_sides_are_warned_of(
    composed: Composed, caplog: pytest.LogCaptureFixture
) -> None:
    for override, said in (("views.crops=5", 0), ("views.crops=10", 1)):
        cfg, _ = composed("views=ten_crop", override)
        assert config_data.records(cfg).mirrored["label"]
        datasets(cfg, "test")
        assert caplog.text.count("use views.crops=5") == said
    caplog.clear()
    datasets(composed("views=ten_crop")[0], "train", "val")  # training itself never takes these views
    assert not caplog.text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("transforms.mode=zoom", "transforms.mode is 'zoom': use one of multiscale"),
        ("transforms.policy=mine", "unknown policy 'mine'"),
        ("+transforms.per_modality.rgb={output: 8}", "per_modality.rgb has ['output']: it may set"),
        ("views.crop_rule=mine", "crop_rule is 'mine': use one of fixed, tsm, slowfast"),
        ("views.policy=mine", "unknown policy 'mine'"),
        ("views.stride=0", "stride is 0"),
        ("views.strided=-1", "strided=-1: ask for at least one clip"),
    ],
)
def test_mistakes_are_one_line(composed: Composed, override: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        datasets(composed(override)[0])
    assert "\n" not in str(caught.value)


def test_jitter_smaller_than_the_crop_is_refused(composed: Composed) -> None:
    with pytest.raises(UserError, match="from output=32 up"):
        datasets(composed("transforms=inverse_uniform", "transforms.jitter=[0.5,1]")[0])


def test_every_option_stands_on_the_page() -> None:
    page = (ROOT / "docs" / "protocols.md").read_text()
    listed = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    for group in ("sampling", "transforms", "views"):
        assert set(names(group)) <= listed, group
    assert listed - {"fixed", "paper", "code"} == {
        name for g in ("sampling", "transforms", "views") for name in names(g)
    }
    assert set(VIEWS) == set(CLIPS_OF_100) == set(names("views"))


# Every number keeps its views


def known_views(cfg: Settings) -> dict[str, Any]:
    """All of them; `segments` only where there are any: numbers from before there was such a key still match."""
    return {key: value for key, value in cfg.plain("views").items() if key != "segments" or value}


def test_identity_holds_the_views_in_full(composed: Composed) -> None:
    cfg, typed = composed("views=charades30", "sampling.policy=code", "sampling.stride=3")
    kept = fingerprint.identity(cfg, typed)["evaluation"]
    assert kept["views"] == known_views(cfg)
    assert (kept["views"]["name"], kept["views"]["policy"], kept["views"]["stride"]) == ("charades30", "code", 3)
    assert kept["frames"] == {"num_segments": 4, "output": 32, "short_side": 36, "antialias": True}
    for changed in ("views.strided=9", "sampling.num_segments=5", "transforms.short_side=40", "sampling.policy=code"):
        other = fingerprint.evaluation(composed("views=charades30", changed)[0])
        assert other != fingerprint.evaluation(composed("views=charades30")[0]), changed


def test_results_hold_the_views_that_made_them(
    train: Callable[..., dict[str, Any]], composed: Composed, tmp_path: Path
) -> None:
    cfg, _ = composed("views=uniform1_zero")
    train("schedule.epochs=1", "trainer=smoke", "views=uniform1_zero")
    run = tmp_path / "single" / "run"
    stored = json.loads((run / "result.json").read_text())
    assert stored["views"] == "uniform1_zero" and stored["evaluation"]["views"] == known_views(cfg)
    measured, typed = composed(f"ckpt={run}", "views=ten_crop", program="eval", run="eval")
    evaluate(measured, typed)
    again = json.loads((tmp_path / "single" / "eval" / "result.json").read_text())
    assert again["evaluation"]["views"] == known_views(measured) != stored["evaluation"]["views"]
    assert again["metrics"]["test"]["rgb"]
