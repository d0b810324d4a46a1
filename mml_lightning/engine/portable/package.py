"""The folder of an exported network: made beside its place, checked, and only then given its name."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mml_lightning.backbones.peer import Peer
from mml_lightning.data.records.records import Dataset, Record
from mml_lightning.data.video.decode import DecodeError
from mml_lightning.engine.portable import int8, preprocess, program
from mml_lightning.engine.portable import network as networks
from mml_lightning.engine.portable.card import CALLS, Card
from mml_lightning.engine.predict import Predictor
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import folder_atomically, temporary_name
from mml_lightning.utils.foreign import Foreign, read_json
from mml_lightning.zoo.files import weights_hash

BATCHES = (1, 2, 5)
TOLERANCE = 1e-4
"""By which a logit of the exported network may differ from that of ours, on the same clip."""
TOLERANCE_OF_VIDEO = 1e-3
"""By which one of `infer.py` may differ from that of `mml predict`, on the same video file."""
CARD = "README.md"


def export(
    predictor: Predictor,
    entry: Mapping[str, Any],
    form: str,
    out: Path,
    videos: Sequence[Record],
    overwrite: bool,
    data: Dataset | None = None,
) -> dict[str, Any]:
    """Write the folder `out` of the predictor's only network, and return what was measured of it.

    Args:
        entry: of the zoo, for the model card.
        videos: real ones, on which the network and `infer.py` are compared with ours.
        data: of an ONNX network, its training and validation videos, for a second file in 8 bits; None for none.

    Raises:
        UserError: the network or its clips can't be exported, the copy is not equal, a video can't be read, or `out` is
            something else than an export.
    """
    check_place(out, overwrite)
    networks.require(form)
    (name, peer), modality = next(iter(predictor.networks.items())), predictor.distinct[0]
    networks.check_network(entry["arch"], form)
    told = preprocess.described(predictor.cfg, modality, predictor.heads)
    copied = networks.PortableNetwork(peer, modality)
    target = temporary_name(out) if out.exists() else out
    try:
        with folder_atomically(target) as folder:
            texts = {"preprocess": json.dumps(told, indent=1), "classes": _classes(predictor)}
            if form == "safetensors":
                told = {**told, "network": dict(entry["arch"])}
                texts["preprocess"] = json.dumps(told, indent=1)
            path = networks.write(copied, form, folder, preprocess.clip_shape(told), texts)
            (folder / preprocess.FILE).write_text(texts["preprocess"] + "\n", encoding="utf-8")
            (folder / preprocess.CLASSES).write_text(texts["classes"] + "\n", encoding="utf-8")
            (folder / program.FILE).write_text(program.infer(form, modality.source), encoding="utf-8")
            found = _measured(predictor, peer, networks.load(form, path, copied), folder, videos)
            found |= {"format": form, "bytes": path.stat().st_size, "weights": weights_hash(peer.state_dict())}
            if data is not None:
                found["int8"] = int8.quantise(folder, predictor, data)
                small = networks.onnx_session(folder / int8.FILE)
                clip = np.zeros((1, *preprocess.clip_shape(told)), np.uint8)
                found["int8"]["ms"] = _best(lambda: small(clip))
            card = Card(name, entry, told, found, predictor.heads)
            (folder / CARD).write_text(str(card), encoding="utf-8")
        if target != out:
            _replace(target, out)
    except OSError as error:
        raise UserError(f"can't write {out}: {error.strerror or error}; choose another place, or make room") from None
    return found


def check_place(out: Path, overwrite: bool) -> None:
    """Raises:
    UserError: `out` is there, and is no export or is to stay.
    """
    if not out.exists():
        return
    try:
        told = read_json(out / preprocess.FILE) if out.is_dir() else None
    except (OSError, Foreign):
        told = None
    if not isinstance(told, dict) or told.get("made_by") != preprocess.MADE_BY:
        raise UserError(f"{out} exists and was not made by mml export: choose another name")
    if not overwrite:
        raise UserError(f"{out} holds an exported network: choose another name, or --overwrite")


def _classes(predictor: Predictor) -> str:
    return json.dumps(
        {head: list(value.classes) for head, value in predictor.heads.items()}, ensure_ascii=False, indent=1
    )


def _measured(
    predictor: Predictor, peer: Peer, run: networks.Run, folder: Path, videos: Sequence[Record]
) -> dict[str, Any]:
    """How far the copy and `infer.py` are from ours, on real videos.

    Raises:
        UserError: too far, or a video can't be read.
    """
    videos = _as_infer_reads(predictor, videos)
    clips, ours = _ours(predictor, peer, videos)
    rows, worst = np.concatenate(clips), 0.0
    for size in BATCHES:
        batch = rows[np.arange(size) % len(rows)]
        with torch.no_grad():
            expected = peer(predictor.distinct[0](torch.from_numpy(batch))).logits.values()
        for made, other in zip(run(batch), expected, strict=True):
            difference = np.abs(made - other.float().numpy()).max()
            worst = max(worst, float(difference)) if np.isfinite(difference) else float("inf")
    if not worst <= TOLERANCE:
        raise UserError(f"the exported network differs from ours by {worst:.2g} in a logit (allowed {TOLERANCE:g})")
    found = {"worst": worst, "ms": _best(lambda: run(rows[:1]))}
    prepared = predictor.distinct[0](torch.from_numpy(rows[:1]))
    found["eager_ms"] = _best(lambda: peer(prepared))
    portable = program.load(folder / program.FILE)
    gap, pixels, same = 0.0, 0, 0
    for video, clip, logits in zip(videos, clips, ours, strict=True):
        path = _read_by_infer(predictor, video)
        theirs = portable.clips(path)
        pixels = max(pixels, int(np.abs(theirs.astype(int) - clip).max())) if theirs.shape == clip.shape else 255
        said = portable.predict(path)
        gap = max(gap, *(float(np.abs(said[head] - logits[head]).max()) for head in logits))
        same += all(_top(said[head]) == _top(logits[head]) for head in logits)
    if not gap <= TOLERANCE_OF_VIDEO:
        raise UserError(
            f"infer.py differs from mml predict by {gap:.2g} in a logit (allowed {TOLERANCE_OF_VIDEO:g}), by up to "
            f"{pixels} levels of a pixel; other videos may do: --clips"
        )
    return {**found, "worst_of_video": gap, "worst_pixel": pixels, "same_top5": same, "videos": len(videos)}


def _best(work: Callable[[], object]) -> float:
    """Milliseconds of the fastest of some calls on one thread; other processes only make calls slower."""
    threads, times = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for _ in range(CALLS):
                begun = time.perf_counter()
                work()
                times.append(time.perf_counter() - begun)
    finally:
        torch.set_num_threads(threads)
    return 1000 * min(times)


def _as_infer_reads(predictor: Predictor, videos: Sequence[Record]) -> list[Record]:
    """Videos as a whole, decoded by PyAV; of flow, that of the engine, which lies in the cache afterwards.

    Raises:
        UserError: there is no flow of a video.
    """
    if predictor.flow is None:
        return [Record(video.id, {"frames": video.media["frames"]}, {}, decoder="pyav") for video in videos]
    found = [Record(video.id, {"frames": video.media["frames"]}, {}) for video in videos]
    for video in found:
        try:
            predictor.flow.make(video)
        except DecodeError as error:
            raise UserError(f"{error}; give other videos: --clips") from None
    return found


def _read_by_infer(predictor: Predictor, video: Record) -> Path:
    """The file that `infer.py` takes in place of a video."""
    path = video.media["frames"] if predictor.flow is None else predictor.flow.path(video)
    assert isinstance(path, Path), "videos to check with are files"
    return path


def _ours(
    predictor: Predictor, peer: Peer, videos: Sequence[Record]
) -> tuple[list[np.ndarray], list[dict[str, np.ndarray]]]:
    """Of each video its clips, uint8 [views, T, C, H, W], and its logits by head, as `mml predict` has them."""
    data = predictor.videos("export", videos)
    dataset = predictor.clips(data)
    clips, logits = [], []
    for index in range(len(videos)):
        sample = dataset[0, index]
        if "clips" not in sample:
            raise UserError(f"{sample['failures'][0][1]}; give other videos: --clips")
        clip = sample["clips"][predictor.distinct[0].name]
        with torch.no_grad():
            found = peer.eval()(predictor.distinct[0](clip)).logits
        clips.append(clip.numpy())
        logits.append({head: value.float().mean(0).numpy() for head, value in found.items()})
    return clips, logits


def _top(logits: np.ndarray) -> list[int]:
    best: list[int] = np.argsort(-logits, kind="stable")[:5].tolist()
    return best


def _replace(new: Path, old: Path) -> None:
    """Give a folder the name of another, which is removed then."""
    aside = temporary_name(old)
    os.rename(old, aside)
    os.rename(new, old)
    shutil.rmtree(aside, ignore_errors=True)
