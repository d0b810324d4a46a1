"""How much of the Grad-CAM of a run's networks lies on the two moving things of the demo's test videos.

    python -m tests.evaluation.cam_on_demo RUN multirun/data/demo

The pixels of the things are those that differ when a video is rendered without them. Two numbers stand beside the share
of the heat that lies there: their area, which heat that is spread evenly has, and the same share with the things of
the next video, which heat that prefers the middle has.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np

from mml_lightning.config import resolvers
from mml_lightning.data.demo import render
from mml_lightning.data.demo.scenes import Video, plan
from mml_lightning.data.records.records import Record
from mml_lightning.engine.flow import flow_filler
from mml_lightning.engine.predict import Predictor, load_predictor
from mml_lightning.evaluation.explain import grad_cam
from tests.data.videos import write_video

LEAST = 8  # grey levels that a pixel of a thing differs by


def things(video: Video) -> np.ndarray:
    """Where the things of a video are, bool [T, H, W]."""
    whole, poses = render.render(video).astype(int), render.poses

    def hidden(*given: object) -> list[list[render.Pose]]:
        return [[dataclasses.replace(pose, opacity=0.0) for pose in path] for path in poses(*given)]  # type: ignore[arg-type]

    with mock.patch.object(render, "poses", hidden):
        return np.asarray(np.abs(whole - render.render(video)).max(-1) > LEAST)


def shown(predictor: Predictor, name: str, path: Path) -> np.ndarray:
    """The clip of a network, as it is stored."""
    only = dataclasses.replace(
        predictor,
        networks={name: predictor.networks[name]},
        modalities={name: predictor.modalities[name]},
    )
    clips = only.clips(only.videos("demo", [Record("x", {"frames": path}, {})]))
    flow_filler(only.flow, {"test": clips}, 0)()
    return clips[(0, 0)]["clips"][predictor.modalities[name].name][0]  # type: ignore[no-any-return]


def measured(predictor: Predictor, videos: Sequence[Video], folder: Path) -> dict[str, dict[str, float]]:
    """{network: shares in percent}, of the class that each video has; `rgb` must be among the networks.

    Args:
        folder: of the demo.
    """
    masks, heats = [], dict[str, list[np.ndarray]]()
    with tempfile.TemporaryDirectory() as scratch:
        for video in videos:
            drawn = [np.repeat(frame[..., None] * np.uint8(255), 3, -1) for frame in things(video)]
            mask = shown(predictor, "rgb", write_video(Path(scratch) / f"{video.id}.mp4", drawn, video.fps))
            masks.append((mask[:, 0] > 127).numpy())
            for name, network in predictor.networks.items():
                clip = predictor.modalities[name](shown(predictor, name, folder / "videos" / video.name)[None])
                heat = grad_cam(network.eval(), clip, [video.labels[0]], "label").heat(*masks[-1].shape)
                heats.setdefault(name, []).append(heat[0].numpy())
    found = {}
    for name, own in heats.items():
        used = [n for n, heat in enumerate(own) if heat.sum() > 0 and masks[n].any()]
        on = np.array([(own[n] * masks[n]).sum() / own[n].sum() for n in used])
        elsewhere = np.array([(own[n] * masks[(n + 1) % len(masks)]).sum() / own[n].sum() for n in used])
        area = np.array([masks[n].mean() for n in used])
        found[name] = {
            "videos": len(used),
            "on_things": round(100 * float(on.mean()), 1),
            "area_of_things": round(100 * float(area.mean()), 1),
            "on_things_of_the_next": round(100 * float(elsewhere.mean()), 1),
            "videos_above_their_area": round(100 * float((on > area).mean()), 1),
        }
    return found


def main(run: str, folder: str) -> None:
    resolvers.register()
    predictor = load_predictor(run, overrides=["data.cache=none", "data.workers=0", "trainer.accelerator=cpu"])
    videos = [video for video in plan(0, 160, 100, 250) if video.split == "test"]
    print(json.dumps(measured(predictor, videos, Path(folder)), indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
