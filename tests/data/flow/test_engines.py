"""Every engine of optical flow: one unit, one sign, one order of axes; and settings that name the mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from mml_lightning.data.flow import engines as module
from mml_lightning.data.flow.cache import FlowSettings, dequantise
from mml_lightning.data.flow.engine_names import ALGORITHMS
from mml_lightning.data.flow.engines import make_engine
from mml_lightning.optical_flow import PRESETS, tvl1_clip
from mml_lightning.utils.errors import UserError
from tests.data.flow_of import flow_of
from tests.data.videos import moving

OF_FRAMES = [(name, preset) for name, presets in ALGORITHMS.items() if name != "mv" for preset in presets]


def fields(algorithm: str, preset: str, frames: list[np.ndarray], **more: Any) -> np.ndarray:
    """[P, H, W, 2]"""
    calculate = make_engine(algorithm, preset, **more).fields
    assert calculate is not None
    return np.stack(list(calculate(iter(frames))))


@pytest.mark.parametrize(("algorithm", "preset"), OF_FRAMES)
def test_right_and_down_are_positive_and_x_comes_first(algorithm: str, preset: str) -> None:
    found = fields(algorithm, preset, moving(3, 2, -1))
    assert found.shape == (2, 80, 96, 2) and found.dtype == np.float32
    assert np.median(found[:, 16:-16, 16:-16], axis=(1, 2)) == pytest.approx(np.array([[2.0, -1.0]] * 2), abs=0.2)


@pytest.mark.parametrize(("algorithm", "preset"), [("tvl1", "fast"), ("farneback", "default")])
def test_settings_reach_the_engine(algorithm: str, preset: str) -> None:
    frames = moving(2, 2, -1)
    settings = FlowSettings(algorithm=algorithm, preset=preset)
    found = dequantise(flow_of(iter(frames), settings), settings.bound)
    assert np.abs(found - fields(algorithm, preset, frames)).max() <= settings.bound / 255 * 1.001


def test_tvl1_of_a_long_video_is_that_of_its_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = moving(8, 1, 1)
    monkeypatch.setattr(module, "CHUNK", 3)  # 4 frames, then 3 more, then the last
    together = fields("tvl1", "fast", frames, parameters={"levels": 2})
    assert together.shape[0] == 7
    for i in range(7):
        alone = fields("tvl1", "fast", frames[i : i + 2], parameters={"levels": 2})
        assert np.allclose(together[i], alone[0], rtol=0, atol=1e-5)
    grey = torch.from_numpy(np.stack([frame[..., 0] for frame in frames]))[:, None]  # the frames have no colour
    direct = tvl1_clip(grey, PRESETS["fast"]).permute(0, 2, 3, 1).numpy()
    assert np.abs(fields("tvl1", "fast", frames) - direct).max() < 1e-5


@pytest.mark.parametrize(
    ("algorithm", "preset", "parameters"),
    [
        ("tvl1", "fast", {"warps": 1}),
        ("tvl1_opencv", "half", {"Lambda": 0.5}),
        ("farneback", "default", {"winsize": 9}),
    ],
)
def test_parameters_replace_single_values(algorithm: str, preset: str, parameters: dict[str, Any]) -> None:
    frames = moving(2, 2, -1)
    changed = fields(algorithm, preset, frames, parameters=parameters)
    assert np.abs(changed - fields(algorithm, preset, frames)).max() > 1e-3
    told = make_engine(algorithm, preset, parameters).provenance["parameters"]
    assert {name: told[name] for name in parameters} == parameters
    if algorithm == "tvl1_opencv":
        assert told["ScaleStep"] == 0.5


def test_every_config_is_a_setting() -> None:
    files = sorted((Path(__file__).parents[3] / "conf" / "flow").glob("*.yaml"))
    configs = {file.stem: OmegaConf.load(file) for file in files}
    keys = {}
    for name, config in configs.items():
        values = {**OmegaConf.to_container(config, resolve=False), "decoder": "pyav"}
        keys[name] = FlowSettings(**values).key()
    assert {"dis", "farneback", "mv", "tvl1", "tvl1_accurate", "tvl1_fast", "tvl1_opencv"} <= set(keys)
    assert len(set(keys.values())) == len(keys)
    assert [configs[name].preset for name in ("tvl1", "tvl1_accurate", "tvl1_fast")] == ["paper", "accurate", "fast"]


def test_our_code_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = FlowSettings(algorithm="tvl1", preset="fast")
    key = settings.key()
    assert key.startswith("tvl1-fast-b20-") and FlowSettings(algorithm="tvl1", preset="fast").key() == key
    monkeypatch.setattr(module, "tvl1_code", lambda: "changed")
    assert settings.key() != key


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("raft", "default"), r"flow\.algorithm='raft' is unknown; use one of \['tvl1'"),
        (("dis", "slow"), r"flow\.preset='slow' is unknown to flow\.algorithm=dis; use one of \['medium'"),
        (("tvl1", "fast", {"lambda": 0.1}), r"tvl1 has no 'lambda'; it has \['blend'"),
        (("tvl1", "fast", {"tau": 0.5}), r"flow\.parameters: tau=0\.5 is out of the range"),
        (("tvl1_opencv", "half", {"lambda": 0.1}), r"tvl1_opencv has no 'lambda'; it has \['Epsilon'"),
        (("tvl1_opencv", "half", {"Lambda": "much"}), r"flow\.parameters: OpenCV rejects some of"),
        (("farneback", "default", {"levels_": 1}), "farneback has no 'levels_'"),
        (("dis", "fast", {"x": 1}), "dis has no 'x'"),
        (("mv", "default", {"x": 1}), "mv has no 'x'"),
        (("dis", "fast", {}, "cuda"), "runs on the CPU only"),
        (("tvl1", "fast", {}, "quantum"), "use cpu or cuda"),
    ],
)
def test_mistakes_are_one_line_that_names_the_mend(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make_engine(*arguments)
    assert "\n" not in str(caught.value)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"sees no GPU here; use flow\.device=cpu"):
        make_engine("tvl1", "fast", device="cuda")


def test_opencv_without_contrib(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    monkeypatch.delattr(cv2, "optflow")
    with pytest.raises(UserError, match="pip install opencv-contrib-python-headless"):
        make_engine("tvl1_opencv", "default")
    assert make_engine("dis", "fast").fields is not None


@pytest.mark.parametrize("algorithm", ["tvl1", "tvl1_opencv", "dis", "farneback"])
def test_frames_of_two_sizes_are_an_error(algorithm: str) -> None:
    frames = [np.zeros((40, 48, 3), dtype=np.uint8), np.zeros((48, 40, 3), dtype=np.uint8)]
    with pytest.raises(ValueError, match=rf"^flow\.algorithm={algorithm} failed: "):
        fields(algorithm, ALGORITHMS[algorithm][0], frames)
