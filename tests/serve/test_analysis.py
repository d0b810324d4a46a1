"""What is told of a video: the scores of `mml predict`, windows, what changes without a modality, pictures."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from mml_lightning.backbones.registry import rebuild
from mml_lightning.cli.main import main
from mml_lightning.data.records.records import Record
from mml_lightning.engine.predict import load_predictor
from mml_lightning.engine.prediction import predictions_of
from mml_lightning.serve.analysis import Analyst
from mml_lightning.serve.asked import Asked, Refused
from tests.data.videos import counted, write_video


def upload(clip: Path, tmp_path: Path) -> Path:
    """As the server keeps it: another name, no ending."""
    path = tmp_path / "upload"
    path.write_bytes(clip.read_bytes())
    return path


@pytest.mark.parametrize("more", [[], ["--peer", "rgb"], ["--window", "0.5", "--stride", "0.25"]])
def test_the_scores_are_those_of_mml_predict_to_the_bit(
    analyst: Analyst, trained: Path, clips: list[Path], tmp_path: Path, more: list[str]
) -> None:
    out = tmp_path / "out.json"
    flow = f"paths.cache={tmp_path / 'theirs'}"
    call = ["predict", str(clips[3]), "--ckpt", str(trained), "--set", flow, "--json", str(out), "--topk", "10"]
    assert main([*call, *more]) == 0
    expected = [json.loads(line) for line in out.read_text().splitlines()]
    wanted = Asked(name="a.mp4", topk=10, peers=("rgb",) if "--peer" in more else None)
    if "--window" in more:
        wanted = dataclasses.replace(wanted, window=0.5, stride=0.25)
    answer = json.loads(json.dumps(analyst.analyse(wanted, upload(clips[3], tmp_path))))
    if "--window" in more:
        assert answer["windows"] == [{k: v for k, v in one.items() if k != "video"} for one in expected]
        assert len(answer["windows"]) > 2
    else:
        assert [answer["heads"]] == [one["heads"] for one in expected]
        assert set(answer["heads"]["label"]) == ({"rgb"} if more else {"rgb", "flow", "fused", "ensemble"})
    assert answer["video"] == "a.mp4" and answer["frames"] > 5 and answer["seconds"] > 0
    assert (tmp_path / "cache").is_dir()  # beside the upload, and removed with it


def test_a_test_video_has_the_scores_of_the_run(analyst: Analyst, trained: Path) -> None:
    with np.load(trained / "predictions" / "test.npz") as file:
        ids, logits = file["ids"].tolist(), torch.from_numpy(file["logits/rgb"])
    answer = analyst.analyse(Asked(video=4), None)
    assert answer["video"] == ids[4] and len(answer["labels"]) == 1
    expected = logits[4].double().mean(0).softmax(0).max().item()
    assert answer["heads"]["label"]["rgb"][0]["score"] == pytest.approx(expected, abs=1e-6)  # in other company
    assert analyst.test_videos()[4] == (ids[4], answer["labels"]) and len(analyst.test_videos()) == 11
    with pytest.raises(Refused, match="no test video 11"):
        analyst.analyse(Asked(video=11), None)


def test_without_a_modality_is_what_the_run_says_of_videos_that_lack_it(
    analyst: Analyst, clips: list[Path], tmp_path: Path
) -> None:
    answer = analyst.analyse(Asked(topk=10), upload(clips[0], tmp_path))
    predictor = analyst.predictor
    record = Record("x", {"frames": clips[0]}, {})
    data = predictor.videos("x", [record])
    for lacking, other in (("flow", "rgb"), ("rgb", "flow")):
        cohort = predictor.cohort(data)
        (batch,) = predictor.measured(cohort, predictor.clips(data), workers=0)
        cohort.on_test_epoch_start()
        with torch.inference_mode():
            batch = dict(batch) | {"present": batch["present"] | {lacking: torch.tensor([False])}}
            cohort.test_step(batch, 0)
        (found,) = predictions_of(["x"], cohort.scores)
        told = answer["without"][lacking]["label"]
        assert told["output"] == "fused"
        assert [(one["class"], one["score"]) for one in told["classes"]] == found.top(10, "fused")
        assert told["classes"] == answer["heads"]["label"][other]
        best = answer["heads"]["label"]["fused"][0]["class"]
        assert told["of_best"] == {one["class"]: one["score"] for one in told["classes"]}[best]


def test_a_video_of_one_frame(analyst: Analyst, trained: Path, words: list[str], tmp_path: Path) -> None:
    path = write_video(tmp_path / "one" / "upload.mp4", counted(1))
    with pytest.raises(Refused, match=r"one frame and flow needs two") as refused:
        analyst.analyse(Asked(name="one.mp4"), path)
    assert (
        refused.value.message.startswith("one.mp4 can't be scored: it has one frame")
        and str(tmp_path) not in refused.value.message
    )
    alone = analyst.analyse(Asked(peers=("rgb",), pictures=True), path)
    assert list(alone["heads"]["label"]) == ["rgb"] and alone["without"] == {}
    masked = Analyst(str(trained), None, None, [*words, "data.missing=mask"], 60)
    answer = masked.analyse(Asked(pictures=True, topk=10), path)
    assert answer["heads"]["label"]["flow"] == [] and answer["seen"]["peers"]["flow"]["absent"]
    expected = load_predictor(trained, ["rgb"]).predict(path).top(10)
    assert [(one["class"], one["score"]) for one in answer["heads"]["label"]["fused"]] == expected
    assert list(answer["without"]) == ["flow"]  # without rgb nothing is left


def pixels(address: str) -> np.ndarray:
    kind, data = address.split(",")
    assert kind == "data:image/png;base64"
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)


def test_pictures_are_what_the_networks_see(analyst: Analyst, clips: list[Path], tmp_path: Path) -> None:
    answer = analyst.analyse(Asked(pictures=True), upload(clips[0], tmp_path))
    seen: dict[str, Any] = answer["seen"]
    best = answer["heads"]["label"][answer["main"]["label"]][0]["class"]
    assert (seen["head"], seen["class"], seen["clip"], seen["clips"]) == ("label", best, 1, 1)
    assert set(seen["peers"]) == {"rgb", "flow"}
    for one in seen["peers"].values():
        assert len(one["pictures"]) == len(one["heat"]) == len(one["parts"]) == 4
        assert all(pixels(image).shape == (32, 32, 3) for image in one["pictures"])
        assert all(pixels(image).shape == (32, 32, 4) for image in one["heat"])
        assert sum(one["parts"]) == pytest.approx(1, abs=1e-3) or sum(one["parts"]) == 0
    predictor = analyst.predictor
    data = predictor.videos("x", [Record("x", {"frames": clips[0]}, {})])
    clip = predictor.clips(data)[(0, 0)]["clips"]["rgb"][0]  # [T, 3, H, W]
    for frame, image in zip(clip, seen["peers"]["rgb"]["pictures"], strict=True):
        assert np.array_equal(pixels(image)[..., ::-1], frame.permute(1, 2, 0).numpy())
    other = answer["heads"]["label"]["rgb"][1]["class"]
    chosen = analyst.analyse(Asked(pictures=True, of_class=other), upload(clips[0], tmp_path))["seen"]
    assert chosen["class"] == other and chosen["peers"]["rgb"]["heat"] != seen["peers"]["rgb"]["heat"]
    with pytest.raises(Refused, match="none of the classes"):
        analyst.analyse(Asked(pictures=True, of_class="nothing"), upload(clips[0], tmp_path))


@pytest.mark.parametrize(
    "asked, status, message",
    [
        (Asked(peers=("audio",)), 400, "peer=audio must name some of flow, rgb"),
        (Asked(peers=("rgb", "rgb")), 400, "each once"),
        (Asked(peers=()), 400, "must name some"),
        (Asked(window=0.001), 400, "120 are allowed"),
        (Asked(window=0.5, stride=1e-9), 400, "120 are allowed"),
    ],
)
def test_what_is_not_there_is_refused(
    analyst: Analyst, clips: list[Path], tmp_path: Path, asked: Asked, status: int, message: str
) -> None:
    with pytest.raises(Refused, match=message) as refused:
        analyst.analyse(asked, upload(clips[0], tmp_path))
    assert refused.value.status == status


def test_a_long_video_is_refused_before_it_is_scored(
    analyst: Analyst, clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analyst, "most_seconds", 0.2)
    with pytest.raises(Refused, match=r"lasts \d\.\d s, --max-seconds allows 0.2") as refused:
        analyst.analyse(Asked(), upload(clips[0], tmp_path))
    assert refused.value.status == 413


def test_without_the_data_of_the_run_uploads_remain(trained: Path, clips: list[Path], tmp_path: Path) -> None:
    alone = Analyst(str(trained), ["rgb"], None, [f"data.root={tmp_path / 'nothing'}"], 60)
    assert alone.describe()["test_videos"] == 0 and "--set data.root=" in alone.describe()["no_test_videos"]
    assert not (tmp_path / "nothing").exists()  # a demo is not made for it
    assert alone.analyse(Asked(), upload(clips[0], tmp_path))["heads"]["label"]["rgb"]
    assert alone.test_videos() == []


def test_several_heads_and_labels(trained: Path, clips: list[Path], tmp_path: Path) -> None:
    """A weight file that lies alone, with a head of one label and one of several."""
    torch.manual_seed(0)
    entry = torch.load(trained / "peers" / "rgb.pt", weights_only=True)
    entry["arch"] = entry["arch"] | {"num_classes": {"verb": 3, "noun": 4}}
    entry["state_dict"] = rebuild(entry["arch"]).state_dict()
    entry["classes"] = {"verb": ["cut", "open", "wash"], "noun": ["cup", "door", "knife", "open"]}
    entry["multi_label"] = {"verb": False, "noun": True}
    torch.save(entry, tmp_path / "rgb.pt")
    alone = Analyst(str(tmp_path / "rgb.pt"), None, None, [f"data.root={tmp_path / 'nothing'}"], 60)
    answer = alone.analyse(Asked(pictures=True, window=0.5), upload(clips[0], tmp_path))
    assert {head: len(told["rgb"]) for head, told in answer["heads"].items()} == {"verb": 3, "noun": 4}
    assert sum(one["score"] for one in answer["heads"]["verb"]["rgb"]) == pytest.approx(1)
    assert sum(one["score"] for one in answer["heads"]["noun"]["rgb"]) > 1.1  # probabilities of their own
    assert answer["main"] == {"verb": "rgb", "noun": "rgb"} and answer["without"] == {}
    assert answer["seen"]["head"] == "verb" and set(answer["windows"][0]["heads"]) == {"verb", "noun"}
    chosen = alone.analyse(Asked(pictures=True, of_class="knife"), upload(clips[0], tmp_path))["seen"]
    assert (chosen["head"], chosen["class"]) == ("noun", "knife")
