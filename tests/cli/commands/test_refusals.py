"""What `mml predict` and `mml export` can't do: one line, an exit code, and the disk as it was."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from mml_lightning.cli.main import main
from mml_lightning.zoo.files import export_peer, load_peer


@pytest.fixture
def place(demo: Path, trained: Path, tmp_path: Path) -> Path:
    """A folder with a video, and with everything that is wrong."""
    video = next(path for path in sorted((demo / "data").rglob("videos/*")) if path.suffix == ".mp4")
    (tmp_path / "good.mp4").write_bytes(video.read_bytes())
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "noise.pt").write_bytes(os.urandom(4000))
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    (tmp_path / "taken").write_text("mine")
    entry = load_peer(trained / "peers" / "rgb.pt")
    export_peer(tmp_path / "sensor.pt", {**entry, "modality": {**entry["modality"], "source": "sensor"}})
    first = next(iter(entry["state_dict"]))
    fewer = {name: value for name, value in entry["state_dict"].items() if name != first}
    export_peer(tmp_path / "torn.pt", {**entry, "state_dict": fewer})
    return tmp_path


def command(verb: str, place: Path, source: str, ckpt: Path | str, out: str, *more: str) -> list[str]:
    """Of either command; a source, weights and a result in `place`."""
    common = ["--ckpt", str(place / ckpt), "--set", f"paths.cache={place / 'cache'}", *more]
    if verb == "predict":
        return ["predict", str(place / source), "--json", str(place / out), *common]
    return ["export", "--clips", str(place / source), "--out", str(place / out), "--format", "safetensors", *common]


def disk(place: Path) -> dict[str, bytes]:
    """Every file but those of caches, and every folder."""
    found = {str(path): path.read_bytes() if path.is_file() else b"" for path in place.rglob("*")}
    return {name: content for name, content in found.items() if "/cache" not in name}


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file can grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


RUN = "the run"
CASES: dict[str, tuple[str, str, str, tuple[str, ...], str]] = {
    # source, weights, result, more words, what is said
    "no such network": ("good.mp4", RUN, "out", ("--peer", "audio"), "has no network audio"),
    "a modality that videos lack": ("good.mp4", "sensor.pt", "out", (), "sensor"),
    "weights that are noise": ("good.mp4", "noise.pt", "out", (), "noise.pt"),
    "weights of something else": ("good.mp4", "other.pt", "out", (), "other.pt"),
    "weights of which a part is gone": ("good.mp4", "torn.pt", "out", (), "don't fit"),
    "no weights": ("good.mp4", "absent.pt", "out", (), "absent.pt"),
    "a folder without weights": ("good.mp4", "nothing", "out", (), "holds no peers"),
    "a video as weights": ("good.mp4", "good.mp4", "out", (), "good.mp4"),
    "an empty folder": ("nothing", RUN, "out", ("--peer", "rgb"), "nothing"),
    "no such video": ("absent.mp4", RUN, "out", ("--peer", "rgb"), "absent.mp4"),
    "a place below a file": ("good.mp4", RUN, "taken/out", ("--peer", "rgb"), "taken"),
    "a result that is there": ("good.mp4", RUN, "taken", ("--peer", "rgb"), "taken"),
    "a folder of others as the result": ("good.mp4", RUN, "nothing", ("--peer", "rgb"), "nothing"),
    "a setting that is none": ("good.mp4", RUN, "out", ("--peer", "rgb", "--set", "no.such=1"), "no"),
}


@pytest.mark.parametrize("verb", ["predict", "export"])
@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line_and_leaves_the_disk_as_it_was(
    place: Path, trained: Path, verb: str, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, ckpt, out, more, said = CASES[case]
    before = disk(place)
    assert main(command(verb, place, source, trained if ckpt == RUN else ckpt, out, *more)) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(error) == 1 and error[0].startswith("mml: error: ") and said in error[0], error
    assert disk(place) == before


@pytest.mark.parametrize("verb", ["predict", "export"])
@pytest.mark.parametrize("video", ["zero.mp4", "text.mp4"])
def test_a_file_that_is_no_video_is_named(
    place: Path, trained: Path, verb: str, video: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`mml predict` goes on with the other videos, and its result says what it lacks; an export is not checked."""
    words = command(verb, place, video, trained, "out", "--peer", "rgb")
    if verb == "predict":
        with pytest.raises(SystemExit) as left:
            main(words)
        code = left.value.code
    else:
        code = main(words)
    error = capsys.readouterr().err
    assert code == (1 if verb == "predict" else 2) and video in error and "Traceback" not in error
    assert (place / "out").exists() == (verb == "predict")


@pytest.mark.parametrize(
    "verb, room, form",
    [
        ("predict", 100, "json"),
        ("predict", 1500, "json"),  # the result fits, what tells how it was made does not
        ("export", 1500, "safetensors"),
        pytest.param("export", 1500, "torch", marks=pytest.mark.slow),
        pytest.param("export", 1500, "onnx", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    place: Path, trained: Path, verb: str, room: int, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--format", form] if verb == "export" else []
    words = command(verb, place, "good.mp4", trained, "out", "--peer", "rgb", *more)
    with full_disk(room):
        assert main(words) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(error) == 1 and "can't write" in error[0] and str(place / "out") in error[0]
    left = {path.name: path.read_bytes() for path in place.iterdir() if path.name.startswith((".", "out"))}
    assert left.keys() <= {"out.part", "out"} if verb == "predict" else not left
    assert main(words) == 0 and (place / "out").exists(), "with room the same command does it"
    assert "out" not in left or (place / "out").read_bytes() == left["out"], "what had the name was whole"
