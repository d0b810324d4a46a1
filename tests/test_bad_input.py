"""docs/bad_input.md: every row of its table is made, and the answer compared with the one that stands there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from mml_lightning import build_data, checking, evaluate, run
from mml_lightning.data.check import lines
from mml_lightning.errors import UserError
from tests import tiny
from tests.conftest import ROOT
from tests.data.videos import counted, damaged, write_sound, write_video

Shell = Callable[..., subprocess.CompletedProcess[str]]
PAGE = (ROOT / "docs" / "bad_input.md").read_text(encoding="utf-8")
ROWS = {
    row[0]: row[1:] for row in re.findall(r"^\| ([^|`]+) \| (start|sample|check|command) \| `(.+)` \|$", PAGE, re.M)
}
FLOW = ["modality=[rgb,flow]", "stage=mml"]
CASES: dict[str, Callable[[Lab], str]] = {}


@dataclass
class Lab:
    """A place to damage data in and to hear what is said."""

    root: Path
    clips: Path
    typed: list[str]
    shell: Shell
    train: Callable[..., dict[str, Any]]
    where: str = ""

    def config(self, *overrides: str, program: str = "train") -> tuple[DictConfig, list[str]]:
        from hydra import compose

        words = [*self.typed, f"paths.root={self.root / 'out'}", f"paths.cache={self.root / 'cache'}", *overrides]
        folder = f"paths.output_dir={self.root / 'out' / 'run'}"
        return compose(program, overrides=[*words, folder]), words

    def start(self, *overrides: str) -> str:
        """What a run says that does not start; it must leave nothing behind."""
        self.where = "start"
        with pytest.raises(UserError) as caught:
            run.stage(*self.config(*overrides))
        assert not (self.root / "out" / "run").exists()
        return str(caught.value)

    def sample(self, *overrides: str, index: int = 3, split: str = "train") -> str:
        """The reason that a run gives for a video it can't use."""
        self.where = "sample"
        cfg, _ = self.config(*overrides)
        chosen = build_data.modalities(cfg)
        data = build_data.dataset(cfg)
        made = build_data.clip_datasets(cfg, data, build_data.flow_cache(cfg, chosen), list(chosen.values()))
        failures = made[split][(0, index)]["failures"]
        assert [video for video, _ in failures] == [data.splits[split][index].id], "only the damaged video may fail"
        return failures[0][1]

    def check(self, word: str, *overrides: str) -> str:
        """The one remark of mml check that contains `word`."""
        self.where = "check"
        report, _ = checking.run_check(self.config(*overrides)[0], 2, 1, timed=False)
        found = [line for line in lines(report) if word in line]
        assert len(found) == 1, lines(report)
        return found[0]

    def ssv2(self) -> list[str]:
        return ["data=ssv2", f"data.root={tiny.ssv2(self.root / 'data', self.clips)}"]

    def csv(self, *columns: str) -> list[str]:
        return ["data=csv", f"data.index={tiny.table(self.root / 'data', self.clips, *columns)}"]

    def lists(self, flow: bool = False) -> list[str]:
        root = tiny.frame_lists(self.root / "data")
        words = ["data=frame_lists", f"data.root={root}", "data.sources.frames.test=test.txt"]
        lists = ",".join(f"{split}:{split}_flow.txt" for split in tiny.SPLITS)
        return (
            [*words, f"data.sources.flow={{folder:flow,template:'flow_{{}}_{{:05d}}.jpg',{lists}}}"] if flow else words
        )

    def charades(self) -> list[str]:
        return ["data=charades", f"data.root={tiny.charades(self.root / 'data')}"]

    @property
    def data(self) -> Path:
        return self.root / "data"

    def video(self, number: int) -> Path:
        return self.data / "videos" / f"{number}.mp4"

    def annotation(self, name: str) -> Path:
        return self.data / "annotations" / name


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def lab(small: list[str], hydra: None, shell: Shell, train: Any, tmp_path: Path, clips: Path) -> Lab:
    from mml_lightning.process import quieten_libraries

    quieten_libraries()
    left = ("data.videos", "data.root", "paths.cache")
    typed = [word for word in small if not word.startswith(left)] + ["data.batch_size=4"]
    return Lab(tmp_path, clips, typed, shell, train)


def case(damage: str) -> Callable[[Callable[[Lab], str]], Callable[[Lab], str]]:
    """The function makes the damage of that row and returns what is said."""

    def keep(function: Callable[[Lab], str]) -> Callable[[Lab], str]:
        assert damage not in CASES
        CASES[damage] = function
        return function

    return keep


def test_page_and_cases_are_of_one_mind() -> None:
    assert set(ROWS) == set(CASES)
    assert len(ROWS) >= 25 and len(re.findall(r"^\| .* \|$", PAGE, re.M)) == len(ROWS) + 1  # and the head
    for where, answer in ROWS.values():
        assert len(answer.replace("…", "")) >= 25, (where, answer)


@pytest.mark.parametrize("damage", CASES)
def test_answer(lab: Lab, damage: str) -> None:
    said = CASES[damage](lab)
    where, answer = ROWS[damage]
    assert "\n" not in said and lab.where == where
    expected = ".*".join(re.escape(part) for part in answer.split("…"))
    assert re.fullmatch(expected, said), f"docs/bad_input.md has\n{answer}\nsaid was\n{said}"


# ------------------------------------------------------------ video files


@case("a video file is missing")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    lab.video(3).unlink()
    return lab.start(*words)


@case("a video file has no byte")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    lab.video(3).write_bytes(b"")
    return lab.sample(*words)


@case("a video file is cut off (mp4: its index is at the end)")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    damaged("truncated", lab.video(3), lab.video(3))
    return lab.sample(*words)


@case("a video file is a text, such as a page that says 404")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    damaged("text", lab.video(3), lab.video(3))
    return lab.sample(*words, "data.decoder=pyav")


@case("a video file holds sound only")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    write_sound(lab.video(3))
    return lab.sample(*words, "data.decoder=pyav")


@case("a video has one frame, and the run uses flow")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    write_video(lab.video(3), counted(1, 96, 80))
    return lab.sample(*words, *FLOW)


@case("too many training videos are unreadable (after mml check)")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    for number in (3, 4):
        damaged("zeros", lab.video(number), lab.video(number))
    checking.run_check(lab.config(*words)[0], 2, 1, timed=False)
    return lab.start(*words, "data.max_bad_share=0.2")


@case("a training video is unreadable, and mml check looks")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    damaged("zeros", lab.video(3), lab.video(3))
    return lab.check("unreadable in train", *words, "data.max_bad_share=0.2")


@case("a test video is unreadable, and mml check looks")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    damaged("zeros", lab.video(10), lab.video(10))
    return lab.check("unreadable in test", *words)


@case("the same video stands in two splits")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    lab.video(9).write_bytes(lab.video(3).read_bytes())
    return lab.check("identical", *words)


@case("what mml check wrote is damaged")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    _, folder = checking.run_check(lab.config(*words)[0], 2, 1, timed=False)
    tiny.edit(folder / "findings.csv", "split,id", "split,name")
    return lab.start(*words)


# ------------------------------------------------------------ Something-Something V2


@case("data.root is another folder")
def _(lab: Lab) -> str:
    return lab.start(*lab.ssv2(), f"data.root={lab.data / 'videos'}")


@case("a label is not in labels.json")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    tiny.edit(lab.annotation("train.json"), "Opening [something]", "Lifting [something]")
    return lab.start(*words)


@case("labels.json does not count from 0")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    tiny.edit(lab.annotation("labels.json"), '"0"', '"2"')
    return lab.start(*words)


@case("labels.json is a list")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    tiny.write_json(lab.annotation("labels.json"), ["Opening something", "Closing something"])
    return lab.start(*words)


@case("a JSON file is cut off")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    file = lab.annotation("train.json")
    file.write_text(file.read_text()[:-20])
    return lab.start(*words)


@case("an entry has no template")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    tiny.edit(lab.annotation("train.json"), '"template"', '"label"')
    return lab.start(*words)


@case("the train split is empty")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    lab.annotation("train.json").write_text("[]")
    return lab.start(*words)


@case("the val split is empty")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    lab.annotation("validation.json").write_text("[]")
    return lab.start(*words)


@case("the test split is empty")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    lab.annotation("test-answers.csv").unlink()
    return lab.start(*words)


@case("an id stands twice")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    tiny.edit(lab.annotation("train.json"), '"id": "4"', '"id": "3"')
    return lab.start(*words)


@case("test-answers.csv has commas")
def _(lab: Lab) -> str:
    words = lab.ssv2()
    tiny.edit(lab.annotation("test-answers.csv"), ";", ",")
    return lab.start(*words)


# ------------------------------------------------------------ your own CSV


def in_csv(damage: str, old: str, new: str, *columns: str) -> None:
    @case(damage)
    def _(lab: Lab) -> str:
        words = lab.csv(*columns)
        tiny.edit(lab.data / "videos.csv", old, new)
        return lab.start(*words)


in_csv("the CSV has no column of labels", "label", "colour")
in_csv("a cell of the CSV is empty", "class1,train", ",train")
in_csv("a split of the CSV is unknown", "class1,train", "class1,trian")
in_csv("an id of the CSV stands twice", "v4,", "v3,")
in_csv("a span of the CSV starts after its end", "class1,train,,", "class1,train,2,1", "start", "end")
in_csv("a span of the CSV has a start only", "class1,train,,", "class1,train,2,", "start", "end")


@case("data.index is no file")
def _(lab: Lab) -> str:
    return lab.start("data=csv", f"data.index={lab.root / 'no.csv'}")


@case("the CSV is not UTF-8")
def _(lab: Lab) -> str:
    words = lab.csv()
    file = lab.data / "videos.csv"
    file.write_bytes(file.read_text().replace("class1", "açaí").encode("latin-1"))
    return lab.start(*words)


@case("the CSV has a header only")
def _(lab: Lab) -> str:
    words = lab.csv()
    (lab.data / "videos.csv").write_text("id,path,label,split\n")
    return lab.start(*words)


@case("the CSV has one class")
def _(lab: Lab) -> str:
    words = lab.csv()
    file = lab.data / "videos.csv"
    file.write_text(file.read_text().replace("class1", "class0"))
    return lab.start(*words)


@case("a span starts past the end of its video")
def _(lab: Lab) -> str:
    words = lab.csv("start", "end")
    tiny.edit(lab.data / "videos.csv", "v3,videos/3.mp4,class1,train,,", "v3,videos/3.mp4,class1,train,7,8")
    return lab.sample(*words)


@case("two spellings of one class")
def _(lab: Lab) -> str:
    words = lab.csv()
    tiny.edit(lab.data / "videos.csv", "class1,train", "Class1,train")
    return lab.check("spelling", *words)


# ------------------------------------------------------------ lists of image folders


@case("a line of a list is no path, number and label")
def _(lab: Lab) -> str:
    words = lab.lists()
    tiny.edit(lab.data / "train.txt", "v3 6 1", "v3 6")
    return lab.start(*words)


@case("a list counts more images than the folder has")
def _(lab: Lab) -> str:
    words = lab.lists()
    for split in tiny.SPLITS:
        file = lab.data / f"{split}.txt"
        file.write_text(file.read_text().replace("v3 6", "v3 9"))
    return lab.check("unreadable in train", *words)


@case("the same, with data.verify_counts=true")
def _(lab: Lab) -> str:
    words = lab.lists()
    tiny.edit(lab.data / "train.txt", "v3 6", "v3 9")
    return lab.start(*words, "data.verify_counts=true")


@case("an image is missing")
def _(lab: Lab) -> str:
    words = lab.lists()
    for path in sorted((lab.data / "images" / "v3").iterdir())[1:]:
        path.unlink()
    return lab.sample(*words)


@case("an image is damaged")
def _(lab: Lab) -> str:
    words = lab.lists()
    (lab.data / "images" / "v3" / "img_00001.jpg").write_bytes(b"no image")
    return lab.sample(*words)


@case("the images of a video differ in size")
def _(lab: Lab) -> str:
    words = lab.lists()
    folder = lab.data / "images" / "v3"
    first = (folder / "img_00001.jpg").read_bytes()
    tiny.write_images(folder, "img_{:05d}.jpg", tiny.FRAMES, (32, 24))
    (folder / "img_00001.jpg").write_bytes(first)
    return lab.sample(*words)


@case("the folder of flow is missing")
def _(lab: Lab) -> str:
    words = lab.lists(flow=True)
    (lab.data / "flow").rename(lab.data / "elsewhere")
    return lab.start(*words, *FLOW)


@case("flow is shorter than the frames")
def _(lab: Lab) -> str:
    words = lab.lists(flow=True)
    tiny.edit(lab.data / "train_flow.txt", "v3 5", "v3 3")
    return lab.check("flow of another length", *words)


@case("the lists of rgb and flow name different videos")
def _(lab: Lab) -> str:
    words = lab.lists(flow=True)
    tiny.edit(lab.data / "train_flow.txt", "v3 5 1\n", "")
    return lab.start(*words)


@case("the lists of rgb and flow disagree on a label")
def _(lab: Lab) -> str:
    words = lab.lists(flow=True)
    tiny.edit(lab.data / "train_flow.txt", "v3 5 1", "v3 5 0")
    return lab.start(*words)


@case("a list names a video twice")
def _(lab: Lab) -> str:
    words = lab.lists()
    tiny.edit(lab.data / "train.txt", "v4 6 0", "v3 6 1")
    return lab.start(*words)


@case("a modality looks at what the data do not have")
def _(lab: Lab) -> str:
    return lab.start(*lab.lists(flow=True), "data.sources.frames=null", "modality=[rgb]")


# ------------------------------------------------------------ Charades, others


def in_charades(damage: str, old: str, new: str) -> None:
    @case(damage)
    def _(lab: Lab) -> str:
        words = lab.charades()
        tiny.edit(lab.data / "Charades_v1_train.csv", old, new)
        return lab.start(*words)


in_charades("a Charades list has an unknown class", "c000 0.00 0.20", "c003 0.00 0.20")
in_charades("an action of a Charades list is malformed", "c000 0.00 0.20", "c000 0.00")
in_charades("a Charades list has no column of actions", "id,actions", "id,labels")
in_charades("a Charades video is not on disk", "V0003,", "V9999,")


@case("a frame list of Charades has another header")
def _(lab: Lab) -> str:
    words = lab.charades()
    (lab.data / "frame_lists").mkdir()
    for split in ("train", "val"):
        (lab.data / "frame_lists" / f"{split}.csv").write_text('video frame path labels\nV0000 0 V0000/x-1.jpg "0"\n')
    return lab.start("data=charades_frame_lists", *words[1:])


@case("a line of data=video_lists has no label")
def _(lab: Lab) -> str:
    root = tiny.frame_lists(lab.data)
    for split in ("train", "val"):
        (root / f"{split}.txt").write_text("a/v0.mp4 0\na/v1.mp4\n")
    return lab.start("data=video_lists", f"data.root={root}", "test=false")


@case("a list of data=video_lists is missing")
def _(lab: Lab) -> str:
    root = tiny.frame_lists(lab.data)
    (root / "val.txt").unlink()
    return lab.start("data=video_lists", f"data.root={root}", "test=false")


@case("data=folders finds videos of one class")
def _(lab: Lab) -> str:
    tiny.table(lab.data, lab.clips)
    return lab.start("data=folders", f"data.root={lab.data}")


# ------------------------------------------------------------ data and settings


@case("a batch is larger than the train split")
def _(lab: Lab) -> str:
    return lab.start(*lab.ssv2(), "data.batch_size=9")


@case("the decoder is unknown")
def _(lab: Lab) -> str:
    return lab.start(*lab.ssv2(), "data.decoder=opencv")


@case("weights have other classes than the data (train.py)")
def _(lab: Lab) -> str:
    lab.train("schedule.epochs=1", "trainer=smoke", run="demo")
    return lab.start(*lab.ssv2(), f"init.all={lab.root / 'single' / 'demo' / 'peers' / 'rgb.pt'}")


@case("weights have other classes than the data (eval.py)")
def _(lab: Lab) -> str:
    lab.train("schedule.epochs=1", "trainer=smoke", run="demo")
    with pytest.raises(UserError) as caught:
        lab.where = "start"
        evaluate.evaluate(*lab.config(*lab.ssv2(), f"ckpt={lab.root / 'single' / 'demo'}", program="eval"))
    return str(caught.value)


def by_command(damage: str, *words: str) -> None:
    @case(damage)
    def _(lab: Lab) -> str:
        lab.where = "command"
        done = lab.shell("train", f"paths.root={lab.root / 'out'}", *words, plain=True)
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        assert done.returncode == 2 and len(said) == 1, (done.stdout, done.stderr)
        return said[0].partition("error: ")[2]


by_command("no data.root is given", "data=ssv2")
by_command("a modality that there is no config of", "modality=[rgb,sound]")
