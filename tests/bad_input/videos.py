"""Damaged video files, and the lists of Something-Something V2."""

from __future__ import annotations

from mml_lightning.engine import check_data
from tests import tiny
from tests.bad_input.lab import FLOW, Lab, case
from tests.data.videos import counted, damaged, write_sound, write_video

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
    check_data.run_check(lab.config(*words)[0], 2, 1, timed=False)
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
    _, folder = check_data.run_check(lab.config(*words)[0], 2, 1, timed=False)
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
