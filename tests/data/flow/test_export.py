"""Flow as images: what is written is what the readers read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mml_lightning.data.flow import export as flow_export
from mml_lightning.data.flow.cache import FlowCache, FlowSettings
from mml_lightning.data.flow.export import LAYOUTS, Form, encode, export, reading
from mml_lightning.data.records.readers import read_frame_lists
from mml_lightning.data.records.readers.charades_media import MediaFolder
from mml_lightning.data.records.records import Dataset, Head, Record
from mml_lightning.data.video.images import ImageReader
from mml_lightning.data.video.media import ImageSequence
from mml_lightning.utils import files
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import folder_atomically, temporary_name
from tests.data.videos import record

HEADS = {"label": Head(("a", "b"))}


@pytest.fixture
def cache(tmp_path: Path) -> FlowCache:
    return FlowCache(tmp_path / "cache", FlowSettings(preset="ultrafast"))


@pytest.fixture
def splits(videos: dict[str, Path]) -> dict[str, list[Record]]:
    return {
        "train": [record(videos["moving"], 1, id="two words/007"), record(videos["vp9"], 0, id="b{0}")],
        "val": [record(videos["h264"], 1, id="c")],
    }


def read_back(target: Path, form: Form, lists: list[Path]) -> dict[str, Record]:
    named = {path.stem.removesuffix("_flow"): path.name for path in lists}
    data = read_frame_lists("back", str(target), {"flow": {"folder": "flow", "template": form.template, **named}})
    return {row.id: row for rows in data.splits.values() for row in rows}


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("layout", ["tsn", "suffix", "packed"])
def test_frame_lists_read_back_what_was_cached(
    splits: dict[str, list[Record]], cache: FlowCache, tmp_path: Path, layout: str, ending: str
) -> None:
    form = Form(layout, ending)
    lists = export(cache, Dataset("d", splits, HEADS), splits, tmp_path / "out", form, 2)
    assert [path.name for path in lists] == ["train_flow.txt", "val_flow.txt"]
    assert lists[0].read_text() == "two words/007 6 1\nb{0} 23 0\n"
    found = read_back(tmp_path / "out", form, lists)
    for row in (row for rows in splits.values() for row in rows):
        back = found[row.id.rpartition("/")[2]]
        images = back.media["flow"]
        assert isinstance(images, ImageSequence) and back.target == row.target
        flow = cache.load(row).astype(int)
        read = ImageReader(images).frames(range(images.count)).astype(int)
        assert read.shape == flow.shape
        error = np.abs(read - flow)
        assert error.max() == 0 if ending == "png" else error.mean() < 1.5 and error.max() <= 24


def test_charades_reads_its_layout(splits: dict[str, list[Record]], cache: FlowCache, tmp_path: Path) -> None:
    form = Form("charades", "png")
    assert export(cache, Dataset("d", splits, HEADS), {"val": splits["val"]}, tmp_path / "out", form, 1) == []
    assert (tmp_path / "out" / "flow" / "c" / "c-000001x.png").is_file()
    images = MediaFolder(tmp_path / "out" / "flow", "{id}/{id}-{number:06d}{axis}.png", "flow", 24).locate("c")
    assert isinstance(images, ImageSequence) and images.count == 23
    assert np.array_equal(ImageReader(images).frames([22])[0], cache.load(splits["val"][0])[22])
    assert reading(form, [], tmp_path / "out").startswith("data=charades data.flow.folder=")


def test_names_of_the_layouts() -> None:
    names = {layout: Form(layout).names("ab{c", 0) for layout in LAYOUTS}
    assert names == {
        "tsn": ["flow_x_00001.jpg", "flow_y_00001.jpg"],
        "suffix": ["00001_x.jpg", "00001_y.jpg"],
        "charades": ["ab{c-000001x.jpg", "ab{c-000001y.jpg"],
        "packed": ["000001.jpg"],
    }


def test_quality_is_that_of_jpeg() -> None:
    pair = np.random.default_rng(0).integers(0, 256, (40, 50, 2), dtype=np.uint8)
    sizes = [len(encode(pair, Form("packed", "jpg", quality))[0]) for quality in (20, 95)]
    assert sizes[0] < sizes[1] / 2


def test_a_second_call_continues_and_other_settings_are_refused(
    splits: dict[str, list[Record]], cache: FlowCache, tmp_path: Path
) -> None:
    data, out = Dataset("d", splits, HEADS), tmp_path / "out"
    export(cache, data, splits, out, Form(), 1)
    kept = out / "flow" / "c" / "flow_x_00001.jpg"
    stamp = kept.stat().st_mtime_ns
    half = temporary_name(out / "flow" / "b{0}")  # as a kill leaves it
    (out / "flow" / "b{0}").rename(half)
    (half / "flow_y_00023.jpg").unlink()
    (half / "stray").write_text("")
    steps: list[int] = []
    export(cache, data, splits, out, Form(), 1, lambda: steps.append(1))
    assert len(steps) == 3 and kept.stat().st_mtime_ns == stamp and not half.exists()
    assert len(list((out / "flow" / "b{0}").iterdir())) == 46
    with pytest.raises(UserError, match="holds flow made with other settings"):
        export(cache, data, splits, out, Form(quality=90), 1)
    with pytest.raises(UserError, match="holds flow made with other settings"):
        export(FlowCache(tmp_path / "other", FlowSettings(preset="fast")), data, splits, out, Form(), 1)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("change", ["fewer", "more", "none"])
def test_a_folder_without_the_images_of_all_pairs_is_made_again(
    splits: dict[str, list[Record]], cache: FlowCache, tmp_path: Path, change: str
) -> None:
    data, out = Dataset("d", splits, HEADS), tmp_path / "out"
    export(cache, data, splits, out, Form(), 1)
    whole, folder = content(out), out / "flow" / "c"
    if change == "fewer":
        (folder / "flow_y_00007.jpg").unlink()
    elif change == "more":
        (folder / "flow_x_00099.jpg").touch()
    else:
        for path in folder.iterdir():
            path.unlink()
    export(cache, data, splits, out, Form(), 1)
    assert content(out) == whole


def test_what_somebody_else_has_put_there_is_not_lost(
    splits: dict[str, list[Record]], cache: FlowCache, tmp_path: Path
) -> None:
    data, out = Dataset("d", splits, HEADS), tmp_path / "out"
    export(cache, data, splits, out, Form(), 1)
    (out / "flow" / "c" / "notes.txt").write_text("mine")
    export(cache, data, splits, out, Form(), 1)
    (out / "flow" / "c" / "flow_y_00007.jpg").unlink()
    with pytest.raises(UserError, match=r"holds notes\.txt beside images; move it"):
        export(cache, data, splits, out, Form(), 1)
    assert (out / "flow" / "c" / "notes.txt").read_text() == "mine"


def test_two_at_a_time_make_what_one_makes(splits: dict[str, list[Record]], cache: FlowCache, tmp_path: Path) -> None:
    """Every moment at which another process may finish the same folder: between the start and the end of its images."""
    data, alone, out = Dataset("d", splits, HEADS), tmp_path / "alone", tmp_path / "out"
    export(cache, data, splits, alone, Form(), 1)
    with folder_atomically(out / "flow" / "c") as mine:
        (mine / "half").write_text("")
        export(cache, data, splits, out, Form(), 2)
        assert content(alone).items() <= content(out).items()
    assert content(alone) == content(out), "the first has its content kept, the second leaves nothing"


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ("a", "a/b", "'a/b' would be inside that of id 'a'"),
        ("a/b/c", "a", "'a/b/c' would be inside that of id 'a'"),
        ("caf\u00e9", "cafe\u0301", "look the same"),
        ("x/caf\u00e9", "x/cafe\u0301", "look the same"),
    ],
)
def test_ids_whose_folders_are_not_apart(
    splits: dict[str, list[Record]], cache: FlowCache, tmp_path: Path, one: str, other: str, message: str
) -> None:
    chosen = {"train": [replace(splits["train"][0], id=one)], "val": [replace(splits["val"][0], id=other)]}
    with pytest.raises(UserError, match=message):
        export(cache, Dataset("d", chosen, HEADS), chosen, tmp_path / "out", Form(), 1)
    assert not (tmp_path / "out" / "flow").exists()


@pytest.mark.parametrize("blind", [True, False])
def test_ids_that_differ_in_case(
    splits: dict[str, list[Record]], cache: FlowCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blind: bool
) -> None:
    assert files.same_in_other_case(tmp_path) == (tmp_path / "X").exists() == (tmp_path / "x").exists()
    monkeypatch.setattr(flow_export, "same_in_other_case", lambda folder: blind)
    chosen = {"train": [replace(splits["train"][0], id="Clip")], "val": [replace(splits["val"][0], id="clip")]}
    if blind:
        with pytest.raises(UserError, match="ids 'Clip' and 'clip' differ only in case, which this disk ignores"):
            export(cache, Dataset("d", chosen, HEADS), chosen, tmp_path / "out", Form(), 1)
    else:
        export(cache, Dataset("d", chosen, HEADS), chosen, tmp_path / "out", Form(), 1)
        assert {path.name for path in (tmp_path / "out" / "flow").iterdir()} == {"Clip", "clip"}


def test_multi_label_data_have_images_and_no_lists(
    splits: dict[str, list[Record]], cache: FlowCache, tmp_path: Path
) -> None:
    data = Dataset("d", splits, {"label": Head(("a", "b"), multi_label=True)})
    assert export(cache, data, {"val": splits["val"]}, tmp_path / "out", Form(), 1) == []
    assert len(list((tmp_path / "out" / "flow" / "c").iterdir())) == 46


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "../up"}, "is not a valid folder name"),
        ({"id": "/abs"}, "is not a valid folder name"),
        ({"id": " c"}, "is not a valid folder name"),
        ({"span": (0.0, 1.0)}, "a part of the video"),
        ({"id": "b{0}"}, "different videos in two splits"),
    ],
)
def test_records_that_can_t_be_exported(
    splits: dict[str, list[Record]], cache: FlowCache, tmp_path: Path, change: dict, message: str
) -> None:
    splits["val"] = [replace(splits["val"][0], **change)]
    with pytest.raises(UserError, match=message):
        export(cache, Dataset("d", splits, HEADS), splits, tmp_path / "out", Form(), 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [({"layout": "u"}, "--layout u"), ({"ending": "bmp"}, "--images bmp"), ({"quality": 0}, "--quality 0")],
)
def test_forms_name_the_mistake(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Form(**values)
