"""A CSV of one's own, and the settings of a run on it or on other data."""

from __future__ import annotations

import pytest

from mml_lightning.engine import evaluate
from mml_lightning.utils.errors import UserError
from tests import tiny
from tests.bad_input.lab import Lab, case

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


in_csv("two spellings of one class", "class1,train", "Class1,train")
in_csv("a line of the CSV has a cell too many", "class1,train", "class1, and more,train")
in_csv("a quotation mark of the CSV is not closed", "class1,train", '"class1,train')
in_csv(
    "two stray quotation marks of the CSV hold lines",
    "class1,train\nv4,videos/4.mp4,class0",
    '"class1,train\nv4,videos/4.mp4,class0"',
)
in_csv("a quotation mark stands in a cell of the CSV", "class1,train", 'a 5" class,train')
in_csv("two columns of the CSV have one name", "label,split", "label,split,Label", "note")
in_csv("two columns of the CSV fit the label", "label,split", "class,split", "action")
in_csv("the CSV has a y beside an x and no label", "label,split", "y,split", "x")
in_csv("the CSV has a start and no end", "class1,train,", "class1,train,1", "start")
in_csv("a column of the CSV looks like a time", "class1,train,", "class1,train,1", "onset")


@case("parts of one video overlap in two splits")
def _(lab: Lab) -> str:
    words = lab.csv("start", "end")
    tiny.edit(lab.data / "videos.csv", "v3,videos/3.mp4,class1,train,,", "v3,videos/3.mp4,class1,train,0,0.3")
    tiny.edit(lab.data / "videos.csv", "v9,videos/9.mp4,class1,val,,", "v9,videos/3.mp4,class1,val,0.2,0.5")
    return lab.check("identical", *words)


@case("parts of one video lie in two splits")
def _(lab: Lab) -> str:
    words = lab.csv("start", "end")
    tiny.edit(lab.data / "videos.csv", "v3,videos/3.mp4,class1,train,,", "v3,videos/3.mp4,class1,train,0,0.2")
    tiny.edit(lab.data / "videos.csv", "v9,videos/9.mp4,class1,val,,", "v9,videos/3.mp4,class1,val,0.2,0.5")
    return lab.check("parts of one video", *words)


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
