"""Preparing the demo on disk: make what is missing, verify what is there, and leave a manifest.

::

    <root>/annotations/   labels.json  train.json  validation.json  test.json  test-answers.csv   (SSv2's layout)
                          or, with several motions a video, videos.csv: id, path, labels joined by |, split;
                          with sound, id, path, label, split, parts joined by |
    <root>/videos/        <id>.webm | <id>.mp4
    <root>/manifest.json  parameters and one entry (sha256, frames, size, fps, class, …) per file
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mml_lightning.data.demo import parts, scenes
from mml_lightning.data.demo.parts import PartsVideo
from mml_lightning.data.demo.scenes import CLASSES, Video
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import locked, remove_leftovers, write_atomically
from mml_lightning.utils.foreign import Foreign, parse_json, read_json
from mml_lightning.utils.progress import Progress
from mml_lightning.utils.threads import cores

log = logging.getLogger(__name__)

VERSION = 2  # counts changes of the content: data of another version are refused, not mixed
AS_GOOD = (1,)  # versions of the same pictures and pitches, encoded otherwise: a whole one is used as it is
IN_PROCESS = 60  # fewer files than this are made sooner here than by fresh processes
MOST = 8  # processes: each imports the encoders first, which takes as long as a dozen files

TABLE, SEPARATOR = "videos.csv", "|"  # annotations of several labels a video, or of parts

OWN = ("videos", "annotations", "manifest.json", "manifest.partial.jsonl", ".lock", ".DS_Store")

Entry = dict[str, Any]
AnyVideo = Video | PartsVideo


def prepare_demo(
    root: Path,
    *,
    seed: int = 0,
    train: int = 600,
    val: int = 150,
    test: int = 250,
    motions: int = 1,
    sound: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Make the demo dataset in ``root``, or verify and reuse the one that is there; returns ``root``.

    An interrupted generation is continued; missing or damaged files are made again, byte for byte (with the same
    encoder libraries). Of several processes that call this at once one works and the others wait for it.

    Args:
        root: folder of the dataset, made if need be.
        seed: of everything random in the dataset.
        train, val, test: number of videos per split.
        motions: largest number of labels a video may have: 1, or 2 to 5 for several labels per video.
        sound: the demo with sound instead, whose parts tell the class by motion, by sound or not at all.
        workers: number of processes that render and encode; 0 or 1: this one; None: one per core.
        progress: show a progress bar while there is something to make.

    Raises:
        UserError: ``root`` holds a demo with other parameters, or something that is no demo at all; or `motions` is
            out of range.
    """
    if motions not in range(1, len(CLASSES) // 2 + 1):
        raise UserError(f"data.reader.motions={motions} must be 1 to {len(CLASSES) // 2}, the quantities that can move")
    if sound and motions > 1:
        raise UserError(f"data.reader.sound=true has one label a video: remove data.reader.motions={motions}")
    root = Path(root)
    parameters: dict[str, int] = {"seed": seed, "train": train, "val": val, "test": test}
    parameters |= {"motions": motions} if motions > 1 else {"sound": 1} if sound else {}
    _check_folder(root)
    (root / "videos").mkdir(parents=True, exist_ok=True)
    with locked(root, lambda: log.info("demo: another process is preparing %s; waiting for it", root)):
        videos = plan(**parameters)
        known = _read_entries(root)
        entries = {video.name: known[video.name] for video in videos if _intact(root, known.get(video.name))}
        _check_parameters(root, parameters, whole=len(entries) == len(videos))
        _report_damage(root, known, entries)
        _write_if_new(root / "annotations", _annotations(videos))
        missing = [video for video in videos if video.name not in entries]
        if missing:
            processes = min(cores(), MOST) if workers is None else workers
            entries.update(_make_missing(root, parameters, missing, processes, progress))
        if missing or _journal(root).exists() or not (root / "manifest.json").exists():
            _write_manifest(root, parameters, [entries[video.name] for video in videos])
    return root


def plan(sound: int = 0, **parameters: int) -> Sequence[AnyVideo]:
    """All videos of a dataset, by the parameters of its manifest."""
    return parts.plan(**parameters) if sound else scenes.plan(**parameters)


# ------------------------------------------------------------------------------------------ what is already there


def _journal(root: Path) -> Path:
    """Entries of the files finished so far, one JSON line each; exists only between start and manifest."""
    return root / "manifest.partial.jsonl"


def _check_folder(root: Path) -> None:
    """Make no demo among other files, nor through a link to other places."""
    inside = {path.name for path in root.iterdir()} if root.is_dir() else set()
    linked = next((root / name for name in OWN if (root / name).is_symlink()), None)
    if linked is not None:
        raise UserError(f"{linked} is a symlink, and the demo would go to its target; set data.root=<new folder>")
    others = sorted(inside.difference(OWN))
    if others and "parameters" not in (_load(root / "manifest.json") or {}) and not _journal(root).exists():
        raise UserError(f"{root} holds other files ({others[0]}); choose an empty folder with data.root=<folder>")


def _check_parameters(root: Path, parameters: dict[str, int], whole: bool) -> None:
    """Refuse to mix two datasets in a folder; `whole`: none of its files would be made."""
    wanted = [{"version": version, **parameters} for version in (VERSION, *(AS_GOOD if whole else ()))]
    found: dict[str, Any] | None = None
    manifest = _load(root / "manifest.json")
    if manifest is not None:
        found = {"version": manifest.get("version"), **manifest.get("parameters", {})}
    elif _journal(root).exists():
        found = next(_journal_lines(root), None)
    elif any(path.suffix in (".webm", ".mp4") for path in (root / "videos").iterdir()):
        raise UserError(f"{root} holds videos but no demo manifest; choose an empty folder with data.root=<folder>")
    if found is not None and found not in wanted:
        text = ", ".join(f"{key}={value}" for key, value in found.items())
        asked = ", ".join(f"{key}={value}" for key, value in wanted[0].items())
        raise UserError(
            f"the demo in {root} was made with {text}, not {asked}; delete that folder or set data.root=<new folder>"
        )


def _load(path: Path) -> dict[str, Any] | None:
    """A JSON file's object, or None where it is missing or unreadable."""
    try:
        value = read_json(path)
    except (FileNotFoundError, Foreign):
        return None
    return value if isinstance(value, dict) else None


def _journal_lines(root: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of the journal; the last one may have been cut by the interruption."""
    if _journal(root).exists():
        for line in _journal(root).read_text().splitlines():
            try:
                yield parse_json(line)
            except Foreign:
                continue  # an empty line, or one that was cut


def _read_entries(root: Path) -> dict[str, Entry]:
    """Entries of manifest and journal by file name; the journal is younger."""
    entries = (_load(root / "manifest.json") or {}).get("files", [])
    found = [*(entries if isinstance(entries, list) else ()), *_journal_lines(root)]
    return {str(entry["file"]): entry for entry in found if isinstance(entry, dict) and "file" in entry}


def _intact(root: Path, entry: Entry | None) -> bool:
    """Whether the entry's file is there with the recorded content."""
    if entry is None:
        return False
    try:
        data = (root / "videos" / Path(str(entry["file"])).name).read_bytes()
    except (OSError, ValueError):
        return False
    return len(data) == entry.get("bytes") and hashlib.sha256(data).hexdigest() == entry.get("sha256")


def _report_damage(root: Path, known: dict[str, Entry], intact: dict[str, Entry]) -> None:
    """One line for the files that were finished once and are not as they were."""
    broken = sorted(known.keys() - intact.keys())
    if broken:
        shown = ", ".join(broken[:3]) + (", …" if len(broken) > 3 else "")
        log.warning(
            "demo: %d of %d files in %s are missing or damaged and will be regenerated: %s",
            len(broken),
            len(known),
            root / "videos",
            shown,
        )


# ------------------------------------------------------------------------------------------------ making the rest


def _make_missing(
    root: Path, parameters: dict[str, int], missing: Sequence[AnyVideo], workers: int, progress: bool
) -> dict[str, Entry]:
    """Make files, noting each in the journal as soon as it is whole."""
    remove_leftovers(root / "videos")
    log.info(
        "demo: generating %d videos in %s (about %d s)", len(missing), root, 1 + len(missing) // (30 * max(1, workers))
    )
    made: dict[str, Entry] = {}
    fresh = next(_journal_lines(root), None) is None
    with (
        open(_journal(root), "a") as journal,
        Progress(len(missing), "generating the demo videos", quiet=not progress) as bar,
    ):
        # A line cut by an interruption must not swallow the next one.
        journal.write(json.dumps({"version": VERSION, **parameters}) + "\n" if fresh else "\n")
        journal.flush()
        for entry in _results(root, parameters, missing, workers):
            made[entry["file"]] = entry
            journal.write(json.dumps(entry) + "\n")
            journal.flush()
            bar.advance()
    return made


def _results(root: Path, parameters: dict[str, int], missing: Sequence[AnyVideo], workers: int) -> Iterator[Entry]:
    """Entries of the missing videos as they are finished, by worker processes first, then whatever is left here."""
    left = {video.name: video for video in missing}
    if workers > 1 and len(missing) >= IN_PROCESS:
        for entry in _from_processes(root, parameters, list(left), workers):
            del left[entry["file"]]
            yield entry
        if left:
            log.warning("demo: worker processes stopped early; generating the last %d videos in this one", len(left))
    for video in left.values():
        from mml_lightning.data.demo.worker import make  # it imports encoders, which a demo that is there does not need

        yield make(video, root / "videos")


def _from_processes(root: Path, parameters: dict[str, int], names: list[str], workers: int) -> Iterator[Entry]:
    """Run ``workers`` programs on interleaved shares and pass on what they report; ends when all have ended."""
    package_root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    lines: queue.Queue[str | None] = queue.Queue()
    programs: list[subprocess.Popen[str]] = []
    try:
        for k in range(workers):
            job = {"folder": str(root.resolve() / "videos"), "parameters": parameters, "files": names[k::workers]}
            program = subprocess.Popen(
                [sys.executable, "-P", "-m", "mml_lightning.data.demo"],
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            programs.append(program)
            threading.Thread(target=_pump, args=(program, json.dumps(job), lines), daemon=True).start()
        for _ in range(workers):
            while (line := lines.get()) is not None:
                yield json.loads(line)
    except OSError as error:
        log.warning("demo: cannot start worker processes (%s)", error)
    finally:
        for program in programs:
            program.kill()
            program.wait()


def _pump(program: subprocess.Popen[str], job: str, lines: queue.Queue[str | None]) -> None:
    """Hand a program its job, then move its lines into the queue; None marks its end."""
    assert program.stdin is not None and program.stdout is not None
    try:
        program.stdin.write(job + "\n")
        program.stdin.close()
        for line in program.stdout:
            lines.put(line)
    except OSError:
        pass  # the program died; what it did not report is made elsewhere
    finally:
        lines.put(None)


# ------------------------------------------------------------------------------------------------ what is written


def _annotations(videos: Sequence[AnyVideo]) -> dict[str, str]:
    """File name -> text of the annotations."""
    with_parts = [video for video in videos if isinstance(video, PartsVideo)]
    if with_parts:
        return _parts_table(with_parts)
    silent = [video for video in videos if isinstance(video, Video)]
    return _table(silent) if any(video.clocks > 1 for video in silent) else _as_ssv2(silent)


def _as_ssv2(videos: Sequence[Video]) -> dict[str, str]:
    """File name -> text, as SSv2 publishes its annotations."""
    files: dict[str, str] = {"labels.json": _json({name: str(i) for i, name in enumerate(CLASSES)})}
    for split in ("train", "validation"):
        files[f"{split}.json"] = _json([_annotation(video) for video in videos if video.split == split])
    tests = [video for video in videos if video.split == "test"]
    files["test.json"] = _json([{"id": video.id} for video in tests])
    files["test-answers.csv"] = "".join(f"{video.id};{CLASSES[video.labels[0]]}\n" for video in tests)
    return files


def _table(videos: Sequence[Video]) -> dict[str, str]:
    """File name -> text of the annotations of several labels a video."""
    lines = [
        f"{video.id},videos/{video.name},{SEPARATOR.join(CLASSES[label] for label in video.labels)},{video.split}"
        for video in videos
    ]
    return {TABLE: "\n".join(["id,path,labels,split", *lines]) + "\n"}


def _parts_table(videos: Sequence[PartsVideo]) -> dict[str, str]:
    """File name -> text of the annotations of the demo with sound; `parts` is what an oracle knows."""
    lines = [
        f"{video.id},videos/{video.name},{parts.CLASSES[video.labels[0]]},{video.split},{SEPARATOR.join(video.parts)}"
        for video in videos
    ]
    return {TABLE: "\n".join(["id,path,label,split,parts", *lines]) + "\n"}


def _annotation(video: Video) -> dict[str, Any]:
    """One labelled entry: the template has its slots in brackets, the label has them filled."""
    template = CLASSES[video.labels[0]]
    before, between, after = template.split("something")
    label = (before + video.things[0] + between + video.things[1] + after).lower()
    return {
        "id": video.id,
        "label": label,
        "template": template.replace("something", "[something]"),
        "placeholders": list(video.things),
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"


def _write_if_new(folder: Path, files: dict[str, str]) -> None:
    """Write the files whose content is not there yet."""
    for name, text in files.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            with write_atomically(path) as handle:
                handle.write(text)


def _write_manifest(root: Path, parameters: dict[str, int], entries: list[Entry]) -> None:
    """Close the generation: the manifest replaces the journal."""
    content = {"version": VERSION, "parameters": parameters, "files": entries}
    with write_atomically(root / "manifest.json") as handle:
        handle.write(_json(content))
    _journal(root).unlink(missing_ok=True)
