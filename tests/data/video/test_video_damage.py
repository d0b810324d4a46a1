"""One damaged packet costs one packet; what is lost is named; what decodes is right, by both readers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mml_lightning.config.compose import compose
from mml_lightning.data import check
from mml_lightning.data.check import inspect
from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.records.records import Dataset, Head
from mml_lightning.data.video.decode import DECODERS, CountChanged, DecodeError, open_video
from mml_lightning.data.video.index_store import IndexStore
from mml_lightning.engine.train import stage
from mml_lightning.modalities import Modality
from mml_lightning.transforms import Crop
from tests.data.numbered import Made, everything, from_the_start, number
from tests.data.videos import record

BOTH = pytest.mark.parametrize("decoder", DECODERS)
MADE = {f"{m.name}.{m.ending}": m for m in everything()}
NAMES = ["libx264-closed.mp4", "libx264-closed.mkv", "libx264-frag-closed.mp4", "libx264-closed.ts",
         "libx264-closed.avi", "libx265-default.mp4", "libvpx-plain.webm", "libvpx-vp9-plain.webm",
         "libvpx-vp9-altref.webm", "libsvtav1-plain.mp4", "mpeg4-b2.mp4", "mpeg4-b2.avi", "mpeg2video-b2.mpg",
         "wmv2-plain.wmv", "flv-plain.flv", "mjpeg-intra.mov"]  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    level = av.logging.get_level()
    av.logging.set_level(None)
    yield
    av.logging.set_level(level)


def packets(path: Path) -> list[tuple[int, int]]:
    """(place, bytes) of each in the file."""
    with av.open(str(path)) as container:
        return [(p.pos, p.size) for p in container.demux(container.streams.video[0]) if p.size and p.pos]


def spoiled(content: bytes, places: list[tuple[int, int]], kind: str, seed: int) -> bytes:
    rng, data = random.Random(seed), bytearray(content)
    at, size = places[rng.randrange(3, len(places) - 2)]
    tail = at + min(size // 2, 20)
    if kind == "a packet of zeros":
        data[at : at + size] = bytes(size)
    elif kind == "a packet of noise":
        data[at : at + size] = rng.randbytes(size)
    elif kind == "noise inside of a packet":
        data[tail : at + size] = rng.randbytes(at + size - tail)
    elif kind == "flipped bits":
        for _ in range(3):
            data[at + rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif kind == "the first key frame":
        at, size = places[0]
        data[at + min(size // 2, 40) : at + size] = rng.randbytes(size - min(size // 2, 40))
    elif kind == "cut off":
        del data[places[-8][0] + 3 :]
    elif kind == "bytes that are missing":
        del data[at : at + size]
    else:  # zeros over several packets
        data[at + size // 2 : at + size // 2 + 400] = bytes(len(data[at + size // 2 : at + size // 2 + 400]))
    return bytes(data)


def read_again(read: Callable[[], Any]) -> Any:
    """As runs do: a file that turns out to be another than its packets promise is opened once more."""
    for _ in range(3):
        try:
            return read()
        except CountChanged as error:
            assert "damaged" in str(error)
    raise AssertionError("it changes again and again")


@pytest.mark.parametrize(
    "kind",
    ["a packet of zeros", "a packet of noise", "noise inside of a packet", "flipped bits", "the first key frame",
     "cut off", "bytes that are missing", "zeros over several packets"],
)  # fmt: skip
@pytest.mark.parametrize("name", NAMES)
def test_what_is_given_is_what_decoding_from_the_start_gives(tmp_path: Path, name: str, kind: str) -> None:
    good = MADE[name].write(tmp_path)
    content, places = good.read_bytes(), packets(good)
    for seed in range(2):
        path = tmp_path / f"{seed}-{name}"
        path.write_bytes(spoiled(content, places, kind, seed))
        try:
            truth = from_the_start(path)
        except av.error.FFmpegError:
            truth = []
        for decoder in DECODERS:
            indexes = IndexStore(tmp_path / decoder)
            try:
                with open_video(path, decoder, indexes, decode=True) as video:
                    assert video.count == len(truth)
            except DecodeError:
                continue  # refused by name
            assert_right(path, truth, decoder, indexes)


def assert_right(path: Path, truth: list[int], decoder: str, indexes: IndexStore) -> None:
    for seed in range(3):
        wanted = sorted(np.random.default_rng(seed).choice(len(truth), min(8, len(truth)), replace=False).tolist())

        def read(wanted: list[int] = wanted) -> list[int]:
            with open_video(path, decoder, indexes) as video:
                return [number(frame) for frame in video.frames(wanted)]

        assert read_again(read) == [truth[i] for i in wanted]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """50 frames of H.264; the packet of frame 10 is noise from its beginning."""
    made = replace(MADE["libx264-plain.mp4"], name="broken")
    path = made.write(tmp_path)
    at, size = packets(path)[10]
    content = bytearray(path.read_bytes())
    content[at : at + size] = random.Random(0).randbytes(size)
    path.write_bytes(content)
    return path


LOSS = "49 of 50 pictures decode, 1 damaged packet is skipped"


@BOTH
def test_one_damaged_packet_costs_one_packet(broken: Path, decoder: str) -> None:
    with open_video(broken, decoder) as video:
        assert video.count == 49 and video.notes["damaged"] == LOSS  # type: ignore[attr-defined]
        given = [number(f) for f in video.frames(range(49))]
        assert given == from_the_start(broken)
        assert [*given[:10], *given[15:]] == [*range(10), *range(16, 50)], (
            "what came before, and from the next key frame on"
        )
        assert video.times is not None and video.times[10] == pytest.approx(11 / 25)


def test_check_names_the_loss(broken: Path) -> None:
    found = inspect(broken)
    assert (found.usable, found.decoder, found.frames, found.problem) == (True, "", 49, f"{broken}: {LOSS}")
    row = replace(found, split="train", id="broken")
    data = Dataset("mine", {"train": [record(broken)]}, {"label": Head(("a", "b"))})
    wanted = check.Wanted(frames=8, max_bad_share=0.1, leave_out=True)
    remarks = check.summarise(data, [row], check.find_leaks(data, [row]), wanted).remarks
    assert any(str(r).startswith("note: damaged: 1; runs use the part") and LOSS in str(r) for r in remarks)


@BOTH
def test_a_file_cut_off_says_so(tmp_path: Path, decoder: str) -> None:
    made = MADE["libx264-closed.mkv"]
    path = made.write(tmp_path)
    path.write_bytes(path.read_bytes()[: packets(path)[35][0]])
    with open_video(path, decoder) as video:
        assert video.count in (34, 35) and "pictures early" in video.notes["damaged"]  # type: ignore[attr-defined]
    front = Made("front", "libx264", "mp4", made.options, {"movflags": "faststart"})
    path = front.write(tmp_path)
    path.write_bytes(path.read_bytes()[: packets(path)[35][0]])
    with open_video(path, decoder) as video:
        told = video.notes["damaged"]  # type: ignore[attr-defined]
        assert video.count in (34, 35) and told.startswith(f"{video.count} of 50 pictures decode")


@BOTH
def test_too_much_damage_is_unreadable(tmp_path: Path, decoder: str) -> None:
    path = Made("front", "libx264", "mp4", MADE["libx264-plain.mp4"].options, {"movflags": "faststart"}).write(tmp_path)
    path.write_bytes(path.read_bytes()[: packets(path)[20][0]])
    with (
        pytest.raises(DecodeError, match=r"it is damaged: 20 of 50 pictures decode, the file ends 30 pictures early"),
        open_video(path, decoder),
    ):
        pass
    assert inspect(path).decoder == check.UNREADABLE


@BOTH
def test_damage_that_packets_hide_is_found_where_it_is_read(tmp_path: Path, decoder: str) -> None:
    """A sample that meets it is drawn again from the frames that are there; a check finds it before."""
    good = MADE["libvpx-vp9-plain.webm"].write(tmp_path)
    places, content = packets(good), bytearray(good.read_bytes())
    for seed in range(40):
        spoil = bytearray(content)
        at, size = places[20]
        spoil[at + 20 : at + size] = random.Random(seed).randbytes(size - 20)
        path = tmp_path / f"{seed}.webm"
        path.write_bytes(spoil)
        truth = from_the_start(path)
        if len(truth) < 50:
            break
    with open_video(path, decoder) as video:
        assert video.count == 50, "the packets promise all"
        with pytest.raises(CountChanged, match=f"it is damaged: {len(truth)} of 50 pictures decode"):
            video.frames([22])
    assert_right(path, truth, decoder, IndexStore())
    fresh = tmp_path / "copy.webm"
    fresh.write_bytes(path.read_bytes())
    rgb = Modality("rgb", "frames", 1, 3, (0.0,) * 3, (1.0,) * 3, "normalise", "mirror")

    def at_22(counts: Any, windows: Any, rng: Any) -> dict[str, np.ndarray]:
        return {"rgb": np.array([[22 if counts["rgb"] == 50 else 3]])}

    def whole(width: int, height: int, rng: Any) -> list[Crop]:
        return [Crop(0, 0, width, height, (width, height), (width, height))]

    heads = {"label": Head(("a", "b"))}
    clips = ClipDataset([record(fresh)], [rgb], heads, SourceOpener(decoder), at_22, whole, 0, False)
    sample = clips[0, 0]
    assert sample["failures"] == [] and [kind for _, kind, _ in sample["notes"]][-1] == "damaged"
    assert number(sample["clips"]["rgb"][0, 0].permute(1, 2, 0).numpy()) == 3


def test_a_run_names_what_is_damaged_wherever_it_is_used(
    small: list[str], hydra: None, broken: Path, tmp_path: Path
) -> None:
    rows = ["path,label,split"]
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for k in range(count):
            video = tmp_path / "videos" / f"{split}{k}.mp4"
            video.parent.mkdir(exist_ok=True)
            video.write_bytes(broken.read_bytes() + bytes(k))  # no two alike
            rows.append(f"{video},{'ab'[k % 2]},{split}")
    (tmp_path / "mine.csv").write_text("\n".join(rows))
    kept = [word for word in small if not word.startswith(("data.root", "data.videos", "paths.cache"))]
    typed = [*kept, "data=csv", f"data.index={tmp_path / 'mine.csv'}", "data.batch_size=2", f"paths.root={tmp_path}"]
    typed += ["schedule.epochs=1", f"paths.output_dir={tmp_path / 'run'}"]
    result = stage(compose("train", overrides=typed), typed)
    named = {split: sorted(result["damaged"][split]) for split in ("val", "test")}
    assert named == {split: [str(tmp_path / "videos" / f"{split}{k}") for k in range(2)] for split in named}
    assert LOSS in result["damaged"]["test"][named["test"][0]]
    written = (tmp_path / "run" / "quarantine.csv").read_text()
    assert written.count("used up to the damage") == 4 and result["unreadable"] == {"val": {}, "test": {}}


@BOTH
def test_a_picture_that_changes_its_size_is_scaled_to_the_first(tmp_path: Path, decoder: str) -> None:
    options = {"g": "10", "bf": "0", "crf": "12"}
    sizes = ((96, 64), (192, 128))
    parts = [Made(f"{w}", "libx264", "ts", options, frames=20, width=w, height=h).write(tmp_path) for w, h in sizes]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with open_video(path, decoder) as video:
        assert (video.count, video.size) == (40, (96, 64))
        frames = video.frames([3, 19, 20, 39])
    assert [number(frame) for frame in frames] == [3, 19, 0, 19]


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_a_jump_to_a_damaged_key_frame_shows_what_decoding_from_the_start_shows(ending: str, tmp_path: Path) -> None:
    """A decoder makes up for what is damaged with what it has seen before: after a jump it has seen nothing."""
    path = MADE[f"libx264-closed.{ending}"].write(tmp_path)
    with av.open(str(path)) as container:
        told = [p for p in container.demux(container.streams.video[0]) if p.size]
        place = next(p for p in told if p.is_keyframe and p.pts and p.pts > told[10].pts)  # type: ignore[operator]
        at, size = place.pos or 0, place.size
    data = bytearray(path.read_bytes())
    data[at + size // 2 : at + size - 8] = random.Random(0).randbytes(size - 8 - size // 2)
    path.write_bytes(bytes(data))
    truth, found = from_the_start(path), []
    assert len(truth) == 50
    for index in range(50):

        def read(index: int = index) -> int:
            with open_video(path, "pyav") as video:
                return number(video.frames([index])[0])

        found.append(read_again(read))
    assert found == truth
