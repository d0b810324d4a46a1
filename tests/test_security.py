"""Nothing that comes from elsewhere (configs, run directories, weights, lists, packs) runs code or leads out."""

from __future__ import annotations

import ast
import io
import pickle
import subprocess
import sys
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal import hydra as hydra_internal
from hydra.core.global_hydra import GlobalHydra

from mml_lightning.cli import hydra_app
from mml_lightning.config import compose as config_compose
from mml_lightning.config import data as config_data
from mml_lightning.config import guard, instantiate
from mml_lightning.data.records.readers import read_annotated, read_csv, read_frame_lists
from mml_lightning.engine import check_data
from mml_lightning.evaluation import predictions
from mml_lightning.utils.errors import UserError
from mml_lightning.zoo.files import checkpoint_entries, load_peer
from mml_lightning.zoo.importers import read_checkpoint

ROOT = Path(__file__).parents[1]
SOURCES = [*sorted((ROOT / "mml_lightning").rglob("*.py")), ROOT / "train.py", ROOT / "eval.py"]


IN_MEMORY = {"record_store.py": "pickle.loads"}  # of bytes that the process has made itself and that no file holds


def calls(file: Path) -> list[tuple[str, ast.Call]]:
    tree = ast.parse(file.read_text())
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def keyword(call: ast.Call, name: str) -> object:
    return next((ast.literal_eval(k.value) for k in call.keywords if k.arg == name), None)


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.name)
def test_no_call_unpickles_or_opens_a_shell(file: Path) -> None:
    for name, call in calls(file):
        if name == "torch.load":
            assert keyword(call, "weights_only") is True, ast.unparse(call)
        if name in ("np.load", "numpy.load"):
            assert not keyword(call, "allow_pickle"), ast.unparse(call)  # numpy's default
        if IN_MEMORY.get(file.name) == name:
            continue
        assert name not in ("pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "eval", "exec", "os.system")
        assert keyword(call, "shell") is None if name.startswith("subprocess.") else True, ast.unparse(call)


# ------------------------------------------------------------ configs


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "torch.load",
        "mml_lightning.runs.result.subprocess.run",  # a trusted module has imported it
        "mml_lightning.config.instantiate.instantiate_node",
        "mml_lightning_evil.run",
    ],
)
def test_a_config_calls_trusted_packages_only(target: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    node = {"_target_": target, "_args_": [f"touch {mark}"]}
    with pytest.raises(
        UserError, match=r"configs may only call mml_lightning\.backbones, .*, torch.optim; if you trust"
    ):
        instantiate.instantiate(node)
    nested = {"_target_": "mml_lightning.data.records.readers.read_csv", "name": [{"deep": node}]}
    with pytest.raises(UserError, match="if you trust that package, type trusted="):
        instantiate.instantiate(nested)
    assert not mark.exists()


def test_trust_is_given_by_typing_it(composed: Callable[..., Any], tmp_path: Path) -> None:
    own = "data.reader={_target_:collections.OrderedDict}"
    with pytest.raises(UserError, match=r"_target_=collections\.OrderedDict.* type trusted=\[collections\]"):
        config_data.records(composed(own)[0])
    cfg, _ = composed(own, "trusted=[collections]")
    assert isinstance(instantiate.instantiate(cfg.plain("data.reader"), cfg.trusted), OrderedDict)
    with pytest.raises(UserError, match=r"_target_=mml_lightning\.backbones\.nothing can't be found"):
        config_data.records(composed("data.reader={_target_:mml_lightning.backbones.nothing}")[0])
    # not by a run directory of somebody else
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("- trusted=[evil]\n- +trusted=[evil]\n- seed=3\n")
    for program in (f"resume={tmp_path}", f"ckpt={tmp_path}"):
        prepared = hydra_app.prepare([program], ROOT / "conf")
        assert "seed=3" in prepared and not any("evil" in word for word in prepared)


def test_what_hydra_calls_itself_is_looked_at_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every config of a process goes through the guarded loader, and what is typed needs typed trust as well."""
    monkeypatch.setattr(hydra_internal, "ConfigLoaderImpl", hydra_internal.ConfigLoaderImpl)
    guard.install()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        evil = "+hydra.callbacks.evil={_target_: os.system, command: 'true'}"
        for typed in ([evil], ["hydra.launcher._target_=os.system"], ["+x._target_=os.system"]):
            with pytest.raises(UserError, match=r"_target_=os\.system: configs may only call .* type trusted=\[os\]"):
                compose("train", typed)
        assert compose("train", [evil, "trusted=[os,posix]"]).trusted == ["os", "posix"]
        with pytest.raises(UserError, match=r"name='a/\.\./b' must be a folder name"):
            compose("train", ["name=a/../b"])
        # own configs may use nothing else either, unless it is typed
        (tmp_path / "experiment").mkdir()
        (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\ntrusted: [mine]\n")
        words = [f"hydra.searchpath=[{tmp_path}]", "experiment=mine"]
        with pytest.raises(UserError, match=r"trusted=mine is set in a file, but trust must be typed"):
            compose("train", words)
        assert compose("train", [*words, "trusted=[mine]"]).trusted == ["mine"]


# ------------------------------------------------------------ weights and scores


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def readers(path: Path) -> list[Callable[[], Any]]:
    return [
        lambda: load_peer(path),
        lambda: checkpoint_entries(path),
        lambda: read_checkpoint(path),
        lambda: predictions.load(path),
    ]


def test_weights_with_code_inside_are_refused(tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "evil.pt"
    contents: list[Callable[[], None]] = [
        lambda: torch.save({"state_dict": Evil(mark)}, path),
        lambda: torch.save({"state_dict": Evil(mark)}, path, _use_new_zipfile_serialization=False),
        lambda: path.write_bytes(pickle.dumps(Evil(mark))) and None,
        lambda: np.save(path.open("wb"), np.array([Evil(mark)], dtype=object), allow_pickle=True),
    ]
    for write in contents:
        write()
        for read in readers(path):
            with pytest.raises(UserError) as caught:
                read()
            assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    good, path = io.BytesIO(), tmp_path / "bomb.pt"
    torch.save({"state_dict": {"x": torch.zeros(8_000_000)}}, good)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in source.namelist():
            bomb.writestr(name, source.read(name))
    assert path.stat().st_size < 100_000
    for read in readers(path):
        with pytest.raises(UserError):
            read()


def test_an_image_that_claims_a_huge_size_is_not_unpacked(tmp_path: Path) -> None:
    rows = zlib.compress(b"\0" * (30_001 * 200), 9)  # a part: the claim alone would take 900 MB
    header = (30_000).to_bytes(4, "big") * 2 + b"\x08\0\0\0\0"
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        png += len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
    (tmp_path / "img_00001.png").write_bytes(png)
    program = (
        "import sys, pathlib\n"
        "from mml_lightning.data.video.images import ImageReader\n"
        "from mml_lightning.data.video.media import ImageSequence\n"
        "try:\n    ImageReader(ImageSequence(pathlib.Path(sys.argv[1]), 'img_{:05d}.png', 1))\n"
        "except Exception as error:\n    print(type(error).__name__)\n"
        "status = pathlib.Path('/proc/self/status').read_text()  # ru_maxrss begins with that of who started it\n"
        "print(int(status.split('VmHWM:')[1].split()[0]) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    kind, megabytes = done.stdout.split()
    assert kind == "DecodeError" and int(megabytes) < 700, done.stderr


# ------------------------------------------------------------ lists


def test_lists_do_not_lead_out_of_their_folder(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for path in ("../secret.mp4", "a/../../secret.mp4", "./../secret.mp4"):
        (root / "videos.csv").write_text(f"path,label,split\n{path},a,train\nx.mp4,b,train\n")
        message = rf"videos\.csv, line 2: '{path}' is outside .*data; set data\.root to a folder that holds all"
        with pytest.raises(UserError, match=message):
            read_csv("mine", str(root / "videos.csv"))
        (root / "train.txt").write_text(f"{path} 6 0\nv1 6 1\n")
        with pytest.raises(UserError, match=r"train\.txt, line 1: .* is outside "):
            read_frame_lists(
                "lists", str(root), {"frames": {"folder": "", "template": "{:05d}.jpg", "train": "train.txt"}}
            )
        (root / "list.txt").write_text(f"{path} 0\nv1.mp4 1\n")
        with pytest.raises(UserError, match=r"list\.txt, line 1: .* is outside "):
            lists = {"train": "list.txt"}
            read_annotated("lists", str(root), lists, "{path}", columns=["path", "label"], separator=" ")
    inside = f"path,label,split\na/../v1.mp4,a,train\n{tmp_path}/v2.mp4,b,train\nv..3.mp4,b,train\n"
    (root / "videos.csv").write_text(inside)
    data = read_csv("mine", str(root / "videos.csv"))
    assert {str(r.media["frames"]) for r in [*data.splits["train"], *data.splits["val"]]} == {
        f"{root}/a/../v1.mp4",
        f"{tmp_path}/v2.mp4",
        f"{root}/v..3.mp4",
    }


def test_names_are_text_on_pages(hydra: None, tmp_path: Path) -> None:
    """Class names and ids of a foreign list, on the page of mml check."""
    evil = "<script>alert(1)</script>"
    lines = ["id,path,label,split"]
    for number in range(6):
        (tmp_path / f"{number}.mp4").write_bytes(b"x")
        lines.append(f"{evil}{number},{number}.mp4,{evil if number % 2 else 'b'},{'train' if number < 4 else 'val'}")
    (tmp_path / "videos.csv").write_text("\n".join(lines) + "\n")
    words = ["data=csv", f"data.index={tmp_path / 'videos.csv'}", "test=false", f"paths.root={tmp_path}"]
    cfg = config_compose.compose("train", words)
    _, folder = check_data.run_check(cfg, 2, 1, timed=False)
    page = (folder / "report.html").read_text()
    assert "&lt;script&gt;" in page and "<script>alert" not in page
