"""`mml export`: a folder that gives the scores of `mml predict`, whole or not there."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mml_lightning.backbones.temporal_shift import _joined, temporal_shift
from mml_lightning.cli.main import main
from mml_lightning.data.records.records import Record
from mml_lightning.engine.portable import network as networks
from mml_lightning.engine.portable import program
from mml_lightning.engine.predict import load_predictor
from mml_lightning.modalities import Modality, Preparation
from mml_lightning.utils.errors import UserError
from tests.conftest import environment
from tests.patience import LONGEST

ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))
needs_onnx = pytest.mark.skipif(not ONNX, reason="onnx, onnxruntime and onnxscript are not installed (extra: export)")
TINY = {"builder": "tsm_resnet", "depth": "tiny", "width": 8}
DIFFERENCE = {"name": "rgbdiff", "window": 3, "prepare": "difference"}
FLOW = {"name": "flow", "source": "flow", "window": 5, "item_channels": 2, "mean": [0.5], "std": [0.226]}


@pytest.fixture
def videos(demo: Path, trained: Path) -> list[Path]:
    return sorted((demo / "data").rglob("videos/*"))[:6]


def exported(file: Path, videos: list[Path], form: str, out: Path, *more: str) -> int:
    named = [str(video) for video in videos]
    return main(["export", "--ckpt", str(file), "--format", form, "--out", str(out), "--clips", *named, *more])


@pytest.mark.parametrize("form", ["torch", "safetensors", pytest.param("onnx", marks=needs_onnx)])
def test_the_folder_has_the_scores_of_predict(
    trained: Path, videos: list[Path], tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert exported(trained, videos[:3], form, out, "--peer", "rgb") == 0
    files = {"README.md", "classes.json", "infer.py", "preprocess.json", networks.FILES[form]}
    assert {path.name for path in out.iterdir()} == files and list(tmp_path.iterdir()) == [out]
    assert "the same five best classes for 3 of 3" in capsys.readouterr().out
    portable = program.load(out / "infer.py")
    predictor = load_predictor(trained, ["rgb"], overrides=["data.decoder=pyav"])
    for video in videos:
        one, found = predictor.predict(video), portable.predict(video)["label"]
        assert np.allclose(found, one.logits["rgb"].mean(0).numpy(), atol=1e-5)
        assert [name for name, _ in one.top(5)] == [one.classes[k] for k in np.argsort(-found, kind="stable")[:5]]
    told = json.loads((out / "preprocess.json").read_text())
    assert (told["frames"], told["crop"], told["short_side"]) == (4, 32, 36) and told["channels"] == "red, green, blue"
    card = (out / "README.md").read_text()
    assert "test/top1" in card and "fingerprint" in card and "setup: demo" in card
    if form == "onnx":
        check_onnx(out / "model.onnx")


def check_onnx(file: Path) -> None:
    """It names its axis and tells what it takes; the shift is no chain of scattered writes."""
    import onnx

    model = onnx.load(file)
    (clip,), (label,) = model.graph.input, model.graph.output
    assert clip.name == "clip" and label.name == "label"
    assert [d.dim_param or d.dim_value for d in clip.type.tensor_type.shape.dim] == ["batch", 4, 3, 32, 32]
    told = {one.key: json.loads(one.value) for one in model.metadata_props if one.key in ("preprocess", "classes")}
    assert told["preprocess"]["frames"] == 4 and len(told["classes"]["label"]) == 10
    assert not [node for node in model.graph.node if node.op_type.startswith("Scatter")]


def test_a_network_of_flow_takes_flow(
    trained: Path, videos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert exported(trained, videos[:2], "safetensors", out, "--peer", "flow") == 0
    said = capsys.readouterr().out
    assert "it takes flow of dis (medium)" in said and "infer.py flow.npy" in said
    told = json.loads((out / "preprocess.json").read_text())
    assert (told["source"], told["channels"], told["flow"]["algorithm"]) == ("flow", "x, y", "dis")
    assert "`infer.py` does not compute flow" in (out / "README.md").read_text()
    portable, predictor = program.load(out / "infer.py"), load_predictor(trained, ["flow"])
    assert predictor.flow is not None
    for video in videos[:3]:
        file = predictor.flow.path(Record(video.stem, {"frames": video}, {}))
        expected = predictor.predict(video).logits["flow"].mean(0).numpy()
        assert np.allclose(portable.predict(file)["label"], expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"is no \.npy file of optical flow"):
        portable.predict(videos[0])


PLUGIN = """
import torch
from mml_lightning.backbones import Peer, PeerOutput
from mml_lightning.modalities import normalise

class Plain(Peer):
    def forward(self, clip):
        maps = self.net(clip.flatten(0, 1)).unflatten(0, clip.shape[:2])
        pooled = maps.mean(dim=(1, 3, 4))
        return PeerOutput(self.classify(pooled), {"pooled": pooled})

class Trunk(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.feature_dim = 8
        self.conv = torch.nn.Conv2d(channels, 8, 3, stride=2)
    def forward(self, frames):
        return torch.relu(self.conv(frames))

def net(in_channels, num_classes):
    return Plain(Trunk(in_channels), num_classes, dropout=0.1)

def dimmed(clip, modality):
    return normalise(clip, modality) * 0.5
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """A package of somebody else, and the words that trust it."""
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "portable_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(folder))
    yield "--set", "trusted=[portable_plugin]"
    sys.modules.pop("portable_plugin", None)


@pytest.mark.parametrize("form", networks.FORMATS)
def test_a_preparation_of_another_package_is_refused(
    untrained: Callable[..., Path],
    videos: list[Path],
    tmp_path: Path,
    plugin: tuple[str, str],
    form: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = untrained(**TINY, modality={"prepare": {"_target_": "portable_plugin.dimmed", "_partial_": True}})
    assert exported(file, videos[:1], form, tmp_path / "model", *plugin) == 2
    error = capsys.readouterr().err
    assert "the clips of rgb are prepared by a function of another package, which is not exported" in error
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_a_network_of_another_package_is_carried_or_refused(
    untrained: Callable[..., Path],
    videos: list[Path],
    tmp_path: Path,
    plugin: tuple[str, str],
    form: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, out = untrained(builder="portable_plugin.net"), tmp_path / "model"
    code = exported(file, videos[:2], form, out, *plugin)
    if form == "safetensors":
        assert code == 2 and "infer.py can't build portable_plugin.net" in capsys.readouterr().err
        assert not out.exists()
        return
    assert code == 0
    clean = {**environment(), "PYTHONPATH": ""}
    call = [sys.executable, str(out / "infer.py"), str(videos[0])]
    run = subprocess.run(call, capture_output=True, text=True, env=clean, timeout=LONGEST)
    assert run.returncode == 0 and len(run.stdout.splitlines()) == 5, run.stderr


@pytest.mark.parametrize(
    "values",
    [
        {"source": "sensor", "item_channels": 1},
        {"source": "frames", "item_channels": 3, "window": 6, "prepare": "tvl1"},
        {"source": "frames", "item_channels": 3, "prepare": Preparation(lambda clip, modality: clip)},
    ],
)
def test_what_clips_are_made_of_is_known_or_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="use mml predict"):
        networks.check_modality(Modality(**{"name": "mine", "window": 1, **values}))


@pytest.mark.parametrize(
    "arch",
    [
        pytest.param({**TINY}, id="tsm"),
        pytest.param({**TINY, "shift": False}, id="tsn"),
        pytest.param({**TINY, "shift": "online"}, id="online", marks=pytest.mark.slow),
        pytest.param({**TINY, "temporal_pool": True}, id="tsm_pool", marks=pytest.mark.slow),
        pytest.param({**TINY, "modality": DIFFERENCE}, id="rgbdiff"),
        pytest.param({**TINY, "nonlocal_blocks": True, "depth": 50}, id="non_local", marks=pytest.mark.slow),
        pytest.param({**TINY, "modality": FLOW}, id="flow", marks=pytest.mark.slow),
        pytest.param({"builder": "tsm_mobilenet_v2"}, id="mobilenet_v2", marks=pytest.mark.slow),
        pytest.param({"builder": "tsm_efficientnet_lite0"}, id="efficientnet_lite0", marks=pytest.mark.slow),
        pytest.param({"builder": "tsm_efficientnet_lite0", "shift": False}, id="tsn_lite0", marks=pytest.mark.slow),
        pytest.param({"builder": "video_resnet", "depth": "tiny", "frames": 4}, id="i3d"),
        pytest.param({"builder": "video_resnet", "depth": "tiny", "kind": "slow"}, id="slow", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("form", ["torch", pytest.param("onnx", marks=[needs_onnx, pytest.mark.slow])])
def test_every_network_is_equal_on_batches_of_any_size(
    untrained: Callable[..., Path], videos: list[Path], tmp_path: Path, arch: dict[str, Any], form: str
) -> None:
    file, out = untrained(**arch), tmp_path / "model"
    assert exported(file, videos[:2], form, out, "--set", f"paths.cache={tmp_path}") == 0
    predictor = load_predictor(file)
    ((name, peer),) = predictor.networks.items()
    modality = predictor.modalities[name]
    run = networks.load(form, out / networks.FILES[form], networks.PortableNetwork(peer, modality))
    for size in (1, 2, 5):
        clips = torch.randint(0, 256, (size, 4, modality.item_channels * modality.window, 32, 32), dtype=torch.uint8)
        with torch.no_grad():
            expected = peer.eval()(modality(clips)).logits["label"].numpy()
        (made,) = run(clips.numpy())
        assert made.shape == expected.shape and np.abs(made - expected).max() < 1e-4
        assert expected.std() > 1e-3  # or nothing would be compared


@needs_onnx
@pytest.mark.slow
def test_a_fresh_environment_needs_numpy_pyav_and_the_runtime_only(trained: Path, demo: Path, tmp_path: Path) -> None:
    every = [path for path in sorted((demo / "data").rglob("videos/*")) if path.suffix in (".mp4", ".webm")]
    out = tmp_path / "model"
    assert exported(trained, every[:5], "onnx", out, "--peer", "rgb") == 0
    python = fresh_environment(tmp_path / "fresh", ("numpy", "av", "onnxruntime", "flatbuffers"))
    absent = subprocess.run([python, "-c", "import torch"], capture_output=True, text=True, timeout=LONGEST)
    assert "No module named 'torch'" in absent.stderr
    code = "import sys, json; sys.path.insert(0, sys.argv[1]); import infer\n"
    code += "for path in sys.argv[2:]: print(json.dumps(infer.predict(path)['label'].tolist()))"
    call = [python, "-c", code, str(out), *map(str, every)]
    run = subprocess.run(call, capture_output=True, text=True, env=environment(), timeout=LONGEST)
    assert run.returncode == 0, run.stderr
    found = [np.array(json.loads(line)) for line in run.stdout.splitlines()]
    predictor = load_predictor(trained, ["rgb"])
    worst, same = 0.0, 0
    for one, logits in zip(predictor.predict(every), found, strict=True):
        ours = one.logits["rgb"].mean(0).numpy()
        worst = max(worst, float(np.abs(ours - logits).max()))
        same += np.array_equal(np.argsort(-ours, kind="stable")[:5], np.argsort(-logits, kind="stable")[:5])
    assert len(found) == 46 and worst < 1e-3 and same == 46, (worst, same)


@needs_onnx
@pytest.mark.slow
def test_eight_bits_stand_beside_with_their_accuracy(
    trained: Path,
    videos: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "model"
    monkeypatch.setattr(sys, "argv", ["mml", "export", "--int8"])  # which are not the words of infer.py
    assert exported(trained, videos[:2], "onnx", out, "--peer", "rgb", "--int8") == 0
    shown = capsys.readouterr().out
    with np.load(trained / "predictions" / "val.npz") as file:
        top1 = 100 * float((file["logits/rgb"].mean(1).argmax(1) == file["target"]).mean())
    assert "on 11 videos of val" in shown and f", {top1:.2f} without" in shown and "videos of test" in shown
    sizes = [(out / name).stat().st_size for name in ("model_int8.onnx", "model.onnx")]
    assert sizes[0] < sizes[1]
    code = "import json, runpy, sys; found = runpy.run_path(sys.argv[0], run_name='__main__')['found']\n"
    code += "print(json.dumps(found['label'].tolist()))"
    said = []
    for more in ([], ["--int8"]):
        words = [str(out / "infer.py"), str(videos[0]), *more]
        call = [sys.executable, "-c", f"import sys; sys.argv[:] = {words!r}\n{code}"]
        run = subprocess.run(call, capture_output=True, text=True, env=environment(), timeout=LONGEST)
        said.append(np.array(json.loads(run.stdout.splitlines()[-1])))
    whole, small = said
    assert 0 < np.abs(whole - small).max() < 0.1


def fresh_environment(folder: Path, packages: tuple[str, ...]) -> str:
    """A Python that has nothing but links to a few installed packages."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in packages:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.submodule_search_locations
        place = Path(spec.submodule_search_locations[0])
        for part in (place, place.with_name(f"{name}.libs")):
            if part.exists():
                (site / part.name).symlink_to(part)
    return str(folder / "bin" / "python")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--peer", "flow", "--int8"], "--int8 goes with"),
        ([], "choose one with --peer"),
        (["--peer", "audio"], "has no network audio"),
        (["--peer", "rgb", "--int8"], "--int8 goes with --format onnx"),
        (["--peer", "rgb", "--set", "views.crops=3"], "infer.py does not know views.crops=3"),
        (["--peer", "rgb", "--set", "views.policy=code"], "views.policy=code"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    trained: Path,
    videos: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    assert exported(trained, videos[:1], "torch", tmp_path / "model", *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("mml: error") == 1
    assert list(tmp_path.iterdir()) == []


def test_places_of_others_stay_and_ours_are_replaced_when_asked(
    trained: Path, videos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    call = (trained, videos[:1], "safetensors", out, "--peer", "rgb")
    assert exported(*call, "--overwrite") == 2 and "was not made by mml export" in capsys.readouterr().err
    assert (out / "thesis.txt").read_text() == "mine"
    (out / "thesis.txt").unlink()
    out.rmdir()
    assert exported(*call) == 0
    before = (out / "README.md").stat().st_ino
    assert exported(*call) == 2 and "--overwrite" in capsys.readouterr().err
    assert (out / "README.md").stat().st_ino == before
    assert exported(*call, "--overwrite") == 0
    assert (out / "README.md").stat().st_ino != before and list(tmp_path.iterdir()) == [out]


def test_a_copy_that_differs_is_refused_and_leaves_nothing(
    trained: Path,
    videos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forward = networks.PortableNetwork.forward

    def slightly_wrong(self: networks.PortableNetwork, clip: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(one + 2e-4 for one in forward(self, clip))

    monkeypatch.setattr(networks.PortableNetwork, "forward", slightly_wrong)
    assert exported(trained, videos[:1], "torch", tmp_path / "model", "--peer", "rgb") == 2
    assert "differs from ours by 0.0002 in a logit (allowed 0.0001)" in capsys.readouterr().err
    monkeypatch.setattr(networks.PortableNetwork, "forward", forward)
    monkeypatch.setattr(program, "infer", lambda form, source: "raise OSError(28, 'No space left on device')")
    assert exported(trained, videos[:1], "torch", tmp_path / "model", "--peer", "rgb") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_video_is_no_check(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.mp4").touch()
    assert exported(trained, [tmp_path / "empty.mp4"], "torch", tmp_path / "model", "--peer", "rgb") == 2
    assert "the file is empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["empty.mp4"]


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("channels", [3, 8, 17])
def test_the_joined_shift_is_the_shift(channels: int, online: bool) -> None:
    x = torch.randn(6, channels, 2, 3)
    assert torch.equal(_joined(x, 3, channels // 8, online), temporal_shift(x, 3, online=online))


def test_safetensors_are_as_specified(tmp_path: Path) -> None:
    state = {"a.b": torch.randn(2, 3), "n": torch.tensor(7), "none": torch.zeros(0, 4), "h": torch.ones(3).half()}
    path = tmp_path / "x.safetensors"
    networks.write_safetensors(path, state, {"frames": "8"})
    found = networks.read_safetensors(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) and found[key].dtype == state[key].dtype for key in state)
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    assert size % 8 == 0 and json.loads(raw[8 : 8 + size])["__metadata__"] == {"frames": "8"}
    path.write_bytes(raw[: 8 + size // 2])
    with pytest.raises(ValueError, match="no safetensors file"):
        networks.read_safetensors(path)
    assert sys.byteorder == "little"  # as the format stores numbers
