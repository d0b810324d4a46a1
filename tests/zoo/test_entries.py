"""Entries of the zoo: none replaces another, whoever writes at the same time; what an old or damaged one is worth."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from mml_lightning.utils.result_file import write_json
from mml_lightning.zoo import entries
from mml_lightning.zoo.files import export_peer, load_peer, weights_hash


def network(value: float, **provenance: Any) -> dict[str, Any]:
    told = {"peer": "rgb", "fingerprint": "f", **provenance}
    return {"arch": {}, "modality": {"name": "rgb"}, "classes": {}, "provenance": told} | {
        "state_dict": {"w": torch.full((3,), value), "n": torch.tensor(2)}
    }


def publish(home: Path, value: float, name: str = "f", views: str = "center", finished: str = "2026-01-01") -> Path:
    made = network(value, fingerprint=name)
    told = {
        "peers": {"rgb": {"weights": weights_hash(made["state_dict"])}, "teacher": {"frozen": True}},
        **{"evaluation": {"views": views}, "settings": {"a": value}, "fingerprint": name, "finished": finished},
    }

    def write(place: Path) -> None:
        export_peer(place / "rgb.pt", made)
        write_json(place / "result.json", told)

    return entries.publish(home, name, told, write)


def value_in(place: Path) -> float:
    return float(load_peer(place / "rgb.pt")["state_dict"]["w"][0])


def test_nothing_is_replaced(tmp_path: Path) -> None:
    home = tmp_path / "ce/seed0"
    first = publish(home, 1.0)
    before = (first / "rgb.pt").stat().st_mtime_ns
    assert publish(home, 1.0) == first and (first / "rgb.pt").stat().st_mtime_ns == before, "equal bits: as it was"
    other = publish(home, 2.0)
    assert (first.name, other.name) == ("f", "f-2"), "one identity, other bits: both are kept"
    measured = publish(home, 1.0, views="uniform2")
    assert measured.name == "f-3", "measured otherwise"
    assert [value_in(place) for place in (first, other, measured)] == [1.0, 2.0, 1.0]
    assert publish(home, 3.0, name="g").name == "g"
    assert {path.name for path in home.iterdir()} == {"f", "f-2", "f-3", "g"}, "nothing half-written is left"


def test_a_damaged_entry_stays_and_the_network_lies_beside_it(tmp_path: Path) -> None:
    first = publish(tmp_path, 1.0)
    (first / "rgb.pt").write_bytes(b"half of a file")
    assert publish(tmp_path, 1.0).name == "f-2"
    assert [entries.whole(entry, "rgb") for entry in entries.below(tmp_path, "rgb")] == [False, True]


def test_many_at_a_time_lose_nothing(tmp_path: Path) -> None:
    values = [float(number % 5) for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        places = list(pool.map(lambda value: publish(tmp_path, value), values))
    assert [value_in(place) for place in places] == values
    assert len({*places}) == len({*tmp_path.iterdir()}) == 5


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def write(place: Path) -> None:
        (place / "rgb.pt").write_bytes(b"begun")
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        entries.publish(tmp_path, "f", {}, write)
    assert list(tmp_path.iterdir()) == []


def test_entries_are_listed_as_they_were_finished_and_old_ones_by_their_file(tmp_path: Path) -> None:
    publish(tmp_path, 1.0, name="later", finished="2026-02-02")
    publish(tmp_path, 1.0, name="sooner", finished="2026-01-01")
    export_peer(tmp_path / "rgb.pt", network(3.0, fingerprint="old", epochs=7))  # the layout of earlier versions
    write_json(tmp_path / "result.json", {"fingerprint": "of another run", "steps": 4})
    (tmp_path / ".f.123.tmp").mkdir()
    found = entries.below(tmp_path, "rgb")
    assert [(entry.fingerprint, entry.old) for entry in found] == [("old", True), ("sooner", False), ("later", False)]
    assert found[0].length() == "7 epochs", "the file tells of itself, not what replaced its result.json"
    assert entries.below(tmp_path, "flow") == [] and entries.below(tmp_path / "none", "rgb") == []


@pytest.fixture
def ce(train: Callable[..., Any]) -> dict[str, Any]:
    result: dict[str, Any] = train("schedule.epochs=1", "test=false", run="ce")
    return result


MML = ("stage=mml", "modality=[rgb,flow]", "init=ce", "test=false")


def test_an_old_zoo_is_found_by_its_hash(
    train: Callable[..., Any], ce: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """As earlier versions have left it: in seed0/ itself, without settings."""
    place = Path(ce["zoo"])
    home = place.parent
    (place / "rgb.pt").rename(home / "rgb.pt")
    told = json.loads((place / "result.json").read_text())
    write_json(home / "result.json", {key: told[key] for key in told if key not in ("settings", "run_dir", "limited")})
    shutil.rmtree(place)
    caplog.set_level("INFO")
    mml = train(*MML, "schedule.epochs=1", run="mml")
    assert mml["peers"]["rgb"]["origin"] == str(home / "rgb.pt") and "by an earlier version" in caplog.text
    with pytest.raises(Exception, match="made by an earlier version and its hash differs"):
        train(*MML, "schedule.epochs=2", run="longer")
    again = train("schedule.epochs=1", "test=false", run="again")
    assert Path(again["zoo"]) == place, "a new entry lies beside the old one"
    assert (home / "rgb.pt").is_file()
