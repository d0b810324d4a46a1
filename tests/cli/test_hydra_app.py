"""The command line before Hydra sees it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mml_lightning.cli.hydra_app import prepare
from mml_lightning.config import resolvers
from mml_lightning.config.overrides import swept_keys
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.exit_codes import JobOutcome

CONF = Path(__file__).parents[2] / "conf"


def run_directory(folder: Path, *overrides: str) -> Path:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {json.dumps(item)}\n" for item in overrides))
    return folder


def test_what_is_right_passes_unchanged() -> None:
    given = ["stage=mml", "modality=[rgb,flow]", "init=ce", "init.rgb=/x/y.pt", "+new=1", "~logger"]
    assert prepare(given, CONF) == given
    assert prepare(["modality=[rgb],[rgb,flow]", "-m"], CONF) == ["-m", "modality=[rgb],[rgb,flow]"]
    assert prepare(["-m", "seed=0,1", "resume=auto"], CONF) == ["-m", "seed=0,1", "resume=auto"]
    assert prepare(["modality=rgb,flow", "resume=null"], CONF) == ["modality=rgb,flow", "resume=null"]


def test_init_may_be_a_file() -> None:
    assert prepare(["init=zoo/rgb.pt"], CONF) == ["init.all=zoo/rgb.pt"]
    assert prepare(["init='x=1.ckpt'"], CONF) == ["init.all='x=1.ckpt'"]


@pytest.mark.parametrize(
    "given, message",
    [
        (["modality=[rgb,radar]"], r"'radar' is unknown; use one of \['audio', 'audio_mel', 'audio_small', 'flow', "),
        (["modality=radar"], "'radar' is unknown"),
        (["+modality=radar"], "'radar' is unknown"),
        (["modality=[rgb],[flow,flow]"], "names flow twice.*stage=ml modality=.flow."),
        (["modality=[]"], "leaves nothing to train"),
        (["resume=/no/such/run"], "is not a run directory"),
        (["-m", "resume=/no/such/run"], "leave out -m"),
    ],
)
def test_mistakes(given: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare(given, CONF)


def test_resume_brings_back_command_line_and_directory(tmp_path: Path) -> None:
    run = run_directory(tmp_path / "a run", "stage=ml", "seed=3", "resume='old'", "experiment=table")
    given = prepare([f"resume={run}", "schedule.epochs=9"], CONF)
    assert given == [
        "stage=ml",
        "seed=3",
        "experiment=table",
        "schedule.epochs=9",
        f"resume='{run}'",
        f"hydra.run.dir='{run}'",
        "hydra.mode=RUN",
    ]
    assert prepare(given, CONF)[-3:] == given[-3:], "a second process of the run gets these arguments again"


def test_a_refused_resume_leaves_the_settings_of_the_run(tmp_path: Path) -> None:
    run = run_directory(tmp_path / "run", "seed=3")
    for given in ([f"resume={run}", "seed=4"], ["resume=auto", f"hydra.run.dir={run}", "seed=4"]):
        outcome = JobOutcome()
        prepare(given, CONF, outcome)
        run_directory(tmp_path / "other", "seed=4")
        (run / ".hydra/overrides.yaml").write_bytes((tmp_path / "other/.hydra/overrides.yaml").read_bytes())  # by Hydra
        outcome.restore_stashed(run)
        assert "seed=3" in prepare([f"resume={run}"], CONF)
        shutil.rmtree(tmp_path / "other")


def test_ckpt_brings_back_how_the_weights_were_made(tmp_path: Path) -> None:
    run = run_directory(tmp_path / "run", "data=csv", "resume='x'")
    (run / "peers").mkdir()
    (run / "peers" / "rgb.pt").touch()
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    (zoo / "rgb.pt").touch()
    (zoo / "result.json").write_text(json.dumps({"overrides": ["data=csv"]}))
    for ckpt in (run, run / "peers" / "rgb.pt", zoo, zoo / "rgb.pt"):
        assert prepare([f"ckpt={ckpt}", "seed=1"], CONF) == ["data=csv", "hydra.mode=RUN", f"ckpt={ckpt}", "seed=1"]
    assert prepare([f"ckpt={run}", "views=a,b", "-m"], CONF) == ["-m", "data=csv", f"ckpt={run}", "views=a,b"]
    assert prepare(["ckpt=ce"], CONF) == ["ckpt=ce"]
    with pytest.raises(UserError, match="is not a run directory"):
        prepare([f"ckpt={tmp_path}"], CONF)


def test_sweep_is_named_after_what_it_varies() -> None:
    assert swept_keys(["-m", "stage=mml", "modality=[rgb,flow]", "init.rgb=ce,ml", "seed=range(3)"]) == "init.rgb+seed"
    assert swept_keys(["modality=[rgb],[rgb,flow]", "tags='a,b'", "+x/y=1,2"]) == "modality+x_y"
    assert swept_keys(["stage=mml"]) == ""


def test_runs_that_start_together_have_stamps_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stamps = set()
    for _ in range(20):
        monkeypatch.delenv("MML_STAMP", raising=False)
        stamps.add(resolvers.stamp_run())
    assert len(stamps) == 20
    assert resolvers.stamp_run() in stamps, "a child process inherits it"


def test_labels() -> None:
    inits = {"rgb": "ce:rgb_1", "flow": "/zoo/a=b.pt", "audio": "ce"}
    assert resolvers.init_label(inits, ["rgb", "flow"]) == "ce-rgb_1+a_b"
    assert resolvers.init_label({"rgb": "ce", "flow": "ce"}, ["rgb", "flow"]) == "ce"
    assert resolvers.file_stem(None) == "none" and resolvers.file_stem("a/my videos.csv") == "my_videos"


def test_modalities_of_own_configs_are_known(tmp_path: Path) -> None:
    (tmp_path / "modality").mkdir()
    (tmp_path / "modality" / "sensor.yaml").touch()
    for words in (
        [f"hydra.searchpath=[file://{tmp_path}]"],
        [f"hydra.searchpath=[pkg://elsewhere, {tmp_path}]"],
        ["--config-dir", str(tmp_path)],
        [f"--config-dir={tmp_path}"],
    ):
        assert prepare([*words, "modality=[rgb,sensor]"], CONF)[-1] == "modality=[rgb,sensor]"
        with pytest.raises(UserError, match="names sensor twice"):
            prepare([*words, "modality=[sensor,sensor]"], CONF)
    with pytest.raises(UserError, match=r"'radar' is unknown; use one of \['audio', .*'sensor'\]"):
        prepare([f"hydra.searchpath=[{tmp_path}]", "modality=[radar]"], CONF)
