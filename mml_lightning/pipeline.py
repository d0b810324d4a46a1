"""Pipelines: the stages of a method in one command, finished ones skipped."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from mml_lightning import build, tracking
from mml_lightning.process import is_first_rank, set_up_process
from mml_lightning.provenance import fingerprint, zoo_folder
from mml_lightning.results import RunResult, read_result, write_json
from mml_lightning.run import stage
from mml_lightning.zoo import load_peer

log = logging.getLogger(__name__)


def pipeline(cfg: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Run the stages of a pipeline in order; a step whose networks are in the zoo, from the same config, is not repeated."""
    root = Path(cfg.paths.output_dir)
    own = [o for o in overrides if not o.startswith(("pipeline=", "resume="))]
    parent = RunResult(
        root,
        is_first_rank(),
        name=f"pipeline_{cfg.pipeline.name}",
        pipeline=cfg.pipeline.name,
        seed=cfg.seed,
        overrides=list(overrides),
    )
    steps = []
    for number, step in enumerate(cfg.pipeline.steps, start=1):
        typed = [*step.get("default", ()), *own, *(s.format(base=cfg.init.base) for s in step["set"])]
        step_cfg = compose("train", overrides=[*typed, "pipeline=none", "experiment=none"])
        with_dir = copy.deepcopy(step_cfg)
        OmegaConf.update(with_dir, "paths.output_dir", str(root / f"{number}_{step_cfg.name}"))
        steps.append((with_dir, typed))
    parent.write()
    try:
        for number, (step_cfg, typed) in enumerate(steps, start=1):
            log.info("pipeline %s, step %d of %d: %s", cfg.pipeline.name, number, len(steps), step_cfg.name)
            reused = finished_before(step_cfg, typed)
            folder = Path(step_cfg.paths.output_dir)
            if reused is not None:
                log.info("done before, taken from %s", reused["zoo"])
                keep(folder, reused)
                continue
            if is_first_rank():
                (folder / ".hydra").mkdir(parents=True, exist_ok=True)
                OmegaConf.save(step_cfg, folder / ".hydra" / "config.yaml")
                OmegaConf.save(OmegaConf.create(typed), folder / ".hydra" / "overrides.yaml")
            stage(step_cfg, typed)
            tracking.close(step_cfg)
    except BaseException as error:
        parent.finish("failed", f"{type(error).__name__}: {error}")
        raise
    parent.finish("completed")
    return parent.fields


def finished_before(cfg: DictConfig, overrides: Sequence[str]) -> dict[str, Any] | None:
    """The result of an earlier run of exactly this stage whose networks are all in the zoo."""
    folder = zoo_folder(cfg)
    result = read_result(folder)
    if result is None or result.get("status") != "completed":
        return None
    set_up_process(cfg)
    specs = build.peer_specs(cfg, overrides)
    if any(not (folder / f"{spec.name}.pt").is_file() for spec in specs):
        return None
    provenance = {
        s.name: {
            "init": s.origin.init,
            "path": s.origin.path,
            "provenance": load_peer(s.origin.path)["provenance"] if s.origin.path else None,
        }
        for s in specs
    }
    same = result.get("fingerprint") == fingerprint(cfg, build.dataset(cfg), provenance)
    return result if same else None


def keep(folder: Path, result: Mapping[str, Any]) -> None:
    """Show a reused step in the directory of its pipeline."""
    if is_first_rank():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "result.json", {**result, "reused": True})
