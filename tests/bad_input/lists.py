"""Lists of image folders, of videos, and those of Charades."""

from __future__ import annotations

import os

from tests import tiny
from tests.bad_input.lab import FLOW, Lab, case

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
    return lab.check("flow length does not match the frames", *words)


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


@case("the same images stand in two splits")
def _(lab: Lab) -> str:
    words = lab.lists()
    tiny.edit(lab.data / "val.txt", "v9 6 1", "v3 6 1")
    return lab.check("identical", *words)


@case("flow is shorter than the frames in most videos")
def _(lab: Lab) -> str:
    words = lab.lists(flow=True)
    for split in tiny.SPLITS:
        file = lab.data / f"{split}_flow.txt"
        file.write_text(file.read_text().replace(" 5 ", " 3 "))
    return lab.start(*words, *FLOW)


in_charades("an action of a Charades list ends before it starts", "c000 0.00 0.20", "c000 2.00 0.00")
in_charades("a Charades list is cut off inside a line", "V0007,c001 0.00 0.20\n", "V0007")


@case("the class list of Charades lacks a class")
def _(lab: Lab) -> str:
    words = lab.charades()
    tiny.edit(lab.data / "Charades_v1_classes.txt", "c001 Opening\n", "")
    return lab.start(*words)


@case("an action of a Charades list ends after its video")
def _(lab: Lab) -> str:
    words = lab.charades()
    tiny.edit(lab.data / "Charades_v1_train.csv", "c000 0.00 0.20", "c000 0.00 9.00")
    return lab.check("actions end", *words)


@case("a Charades video has fewer frames than its length in the list")
def _(lab: Lab) -> str:
    words = lab.charades()
    file = lab.data / "Charades_v1_train.csv"
    file.write_text(file.read_text().replace("id,actions", "id,actions,length").replace("0.20\n", "0.20,0.25\n"))
    tiny.edit(file, "0.20,0.25", "0.20,2.00")
    return lab.check("shorter than", *words)


def in_folders(damage: str, *files: str, link: tuple[str, str] | None = None) -> None:
    """A folder of videos `files`, one of them with a link."""

    @case(damage)
    def _(lab: Lab) -> str:
        for file in files:
            path = lab.data / os.fsdecode(file.encode("latin-1"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        if link:
            (lab.data / link[0]).symlink_to(lab.data / link[1])
        return lab.start("data=folders", f"data.root={lab.data}")


in_folders("data=folders finds splits and others", "train/a/1.mp4", "train/b/1.mp4", "holdout/a/2.mp4")
in_folders("data=folders finds no training videos", "Test/a/1.mp4", "Test/b/1.mp4")
in_folders("data=folders finds splits of unknown names", "train_set/a/1.mp4", "test_set/a/1.mp4")
in_folders("a link of data=folders leads back", "a/1.mp4", "b/2.mp4", link=("a/all", "."))
in_folders("a link of data=folders leads nowhere", "a/1.mp4", "b/2.mp4", link=("c", "gone"))
in_folders("the name of a video is not UTF-8", "a/caf\xe9.mp4", "b/2.mp4")


@case("images count from 0 in some folders only")
def _(lab: Lab) -> str:
    words = lab.lists()
    folder = lab.data / "images" / "v3"
    (folder / "img_00000.jpg").write_bytes((folder / "img_00001.jpg").read_bytes())
    return lab.sample(*words)
