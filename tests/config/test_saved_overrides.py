"""What of a saved command line is used, what is refused, and what typing it changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from mml_lightning.config import made_by
from mml_lightning.config.saved_overrides import Source, admitted, quoted
from mml_lightning.utils.errors import UserError


@pytest.fixture
def source(tmp_path: Path) -> Source:
    run = tmp_path / "root/single/run"
    run.mkdir(parents=True)
    return Source(run / ".hydra/overrides.yaml", run)


@pytest.mark.parametrize(
    "word",
    [
        *("stage=mml", "modality=[rgb,flow]", "init=ce", "init.flow=/zoo/flow.pt", "init.all='/my zoo/a=b.pt'"),
        *(
            "data=csv",
            "data.index='/my videos/list.csv'",
            "data.root=null",
            "seeds=5",
            "seeds=[0,1]",
            "experiment=table3",
        ),
        *(
            "+trainer.benchmark=true",
            "++trainer.benchmark=true",
            "~logger",
            "+new=1",
            "trainer.limit_train_batches=0.5",
        ),
        *("name=my_run", "tags=[a,b]", "tags=['a b']", "logger=wandb", "logger.project=mine", "views={clips: 2}"),
        *("data.label_separator='|'", "optimizer.lr=1e-3", "init.copies='own:{modality}'", "experiment=mine/first"),
        *("data.videos={train: 4, val: 2}", "data.label=", "transforms.output=32", "init.rgb=ce:rgb_1", "x.y=$HOME"),
    ],
)
def test_what_people_type_comes_back_as_it_was(word: str, source: Source) -> None:
    assert admitted([word], source) == [word]


def test_places_of_the_run_itself(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a run has written it may write again; anywhere else only if that is typed."""
    root, other = tmp_path / "root", tmp_path / "other"
    (other / "demo").mkdir(parents=True)
    fine = [f"paths.root={root}", f"paths.zoo={root}/zoo2", f"paths.cache='{root}/a cache'", f"data.root={root}/data"]
    assert admitted(fine, source) == fine
    monkeypatch.chdir(tmp_path)
    assert admitted(["paths.root=root"], source) == ["paths.root=root"]
    for word in (f"paths.root={other}", "paths.root=/", f"paths.zoo={other}", f"paths.cache={other}", "paths.root=~/x"):
        with pytest.raises(UserError, match=r"overrides\.yaml: paths\..* points outside the place of the run"):
            admitted([word.replace("~/x", "'~/x'")], source)
    with pytest.raises(UserError, match=r"data\.root=.*demo is an empty or missing folder"):
        admitted([f"data.root={other}/demo"], source)
    (other / "demo/videos").mkdir()
    (other / "flow/demo/key").mkdir(parents=True)
    (other / "flow/demo/key/v1-0.npy").touch()
    assert len(admitted([f"data.root={other}/demo", f"paths.cache={other}"], source)) == 2, "data and caches that exist"
    assert admitted([f"paths.root={other}"], source, [f"paths.root={other}"]) == [], "typed beside it, which wins"
    with pytest.raises(UserError):
        admitted([f"paths.root={root}"], Source("a catalogue"))


def test_what_is_for_one_start_is_left_out(source: Source) -> None:
    words = ["resume='x'", "+resume=x", "ckpt=y", "trusted=[evil]", "++trusted=[evil]", "~trusted", "seed=3"]
    assert admitted(words, source) == ["seed=3"]


def test_what_is_refused_may_be_typed(source: Source) -> None:
    word = "data.reader._target_=mine.read"
    with pytest.raises(UserError) as caught:
        admitted(["seed=3", word], source)
    told = str(caught.value)
    assert told.startswith(str(source.file)) and word in told and told.endswith("type it yourself")
    assert "\n" not in told
    assert admitted(["seed=3", word], source, ["data.reader._target_=yours.read"]) == ["seed=3"]


@pytest.mark.parametrize("path", ["/a b/c", "it's", 'a"b', "a\\", "a\\'", "ä=1,2", "[x]", "{y}", "~/x", "a:b"])
def test_quoted_words_come_back(path: str) -> None:
    parsed = OverridesParser.create().parse_override(quoted("resume", path))
    assert parsed.key_or_group == "resume" and parsed.value() == path


def test_a_path_that_looks_something_up_is_refused() -> None:
    with pytest.raises(UserError, match=r"rename it without"):
        quoted("resume", "/x/${oc.env:HOME}")


@pytest.mark.parametrize(
    "word",
    [
        *("paths.root=12345", "paths.zoo=null", "paths.cache=true", "paths={root: 1.5}", "~paths", "~paths.zoo"),
        *("logger.mlflow.tracking_uri=null", "~logger.tensorboard", "~logger.tensorboard.save_dir"),
        *("logger.entity=12345", "data.root=7", "+x={_target_: {}}", "trusted.0=os", "+trusted.0=os"),
    ],
)
def test_numbers_and_deletions_are_looked_at_as_words_are(word: str, source: Source) -> None:
    with pytest.raises(UserError, match="files are not trusted with that"):
        admitted([word], source)


def test_an_evaluation_takes_no_callback_or_logger_of_the_training(tmp_path: Path) -> None:
    """They were typed, and nothing but training calls them: a resume is refused until they are typed again."""
    typed = ["+callbacks.early._target_=pytorch_lightning.callbacks.EarlyStopping", "+callbacks.early.monitor=val/loss"]
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/overrides.yaml").write_text(yaml.safe_dump(["seed=1", *typed, "+logger.mine.save_dir=/x"]))
    assert made_by.overrides_beside(tmp_path, []) == ["seed=1"]
    with pytest.raises(UserError, match="files are not trusted with that"):
        made_by.saved_overrides(tmp_path, [])
