"""Pipelines: the stages of a method in one command, finished ones skipped."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from mml_lightning import build, build_data, report, tracking
from mml_lightning.arguments import init_file
from mml_lightning.build import PeerSpec
from mml_lightning.errors import UserError
from mml_lightning.files import file_hash
from mml_lightning.process import is_first_rank
from mml_lightning.provenance import evaluation, fingerprint, zoo_folder
from mml_lightning.results import RunResult, read_result, write_json
from mml_lightning.run import LAST, stage
from mml_lightning.weights import KINETICS, kinetics_file, load_entry
from mml_lightning.zoo import load_peer

log = logging.getLogger(__name__)

INIT_OF_MODALITY = re.compile(r"\+*init\.(?!(all|base|file|new_head|copies)=)")
Step = tuple[DictConfig, list[str]]


def pipeline(cfg: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Run the stages of a pipeline in order; a step whose networks are in the zoo, from the same config, is skipped."""
    root = Path(cfg.paths.output_dir)
    steps = compose_steps(cfg, overrides)
    check_steps(steps)
    log.info("pipeline  %s: %s", cfg.pipeline.name, " -> ".join(step.name for step, _ in steps))
    known = {"name": cfg.name, "setup": cfg.setup.name, "pipeline": cfg.pipeline.name, "seed": cfg.seed}
    with RunResult(root, is_first_rank(), **known, overrides=list(overrides)) as parent:
        for number, (step, typed) in enumerate(steps, start=1):
            log.info("step      %d of %d: %s", number, len(steps), step.name)
            folder = Path(step.paths.output_dir)
            reused = finished_before(step, typed)
            if is_first_rank():
                save_config(folder, step, typed)
            if reused is None:
                stage(step, typed)
                tracking.close(step)
            else:
                log.info("done before, its networks are taken from %s", reused["zoo"])
                if is_first_rank():
                    write_json(folder / "result.json", {**reused, "reused": True})
    if is_first_rank():
        log.info("table     %s\n\n%s", root / "table.md", report.markdown(report.write(root)))
    return parent.fields


def compose_steps(cfg: DictConfig, overrides: Sequence[str]) -> list[Step]:
    """Config and overrides of every step, its directory below that of the pipeline.

    Raises:
        UserError: a typed init of one modality, which would hold in every step.
    """
    root = Path(cfg.paths.output_dir)
    kept = [o for o in overrides if not o.startswith(("pipeline=", "resume=", "name="))]
    fixed = next((o for o in kept if INIT_OF_MODALITY.match(o)), None)
    if fixed:
        raise UserError(
            f"pipeline={cfg.pipeline.name} says where each step starts, {fixed} would hold in all of them: "
            "use init=... for the first step, or run the stages one by one"
        )
    # a pipeline says which step starts from which; what is typed is where the first one starts
    own = [re.sub(r"^init(\.all)?=", "init.base=", override) for override in kept]
    base = next((o.partition("=")[2] for o in reversed(own) if o.startswith("init.base=")), cfg.init.base)
    steps = []
    for number, step in enumerate(cfg.pipeline.steps, start=1):
        typed = [*step.get("default", ()), *own, *(init_file(s.format(base=base)) for s in step["set"])]
        composed = compose("train", overrides=[*typed, "pipeline=none"])
        folder = root / f"{number}_{composed.name}"
        OmegaConf.update(composed, "paths.output_dir", str(folder))
        if cfg.resume and (folder / LAST).is_file():
            OmegaConf.update(composed, "resume", str(folder))
        steps.append((composed, typed))
    return steps


def check_steps(steps: Sequence[Step]) -> None:
    """Find in the first second what would end the last step after days.

    Raises:
        UserError: a step or its lesson graph is impossible, or it starts from weights that neither exist nor come from
            an earlier step.
    """
    coming: set[Path] = set()
    for step, typed in steps:
        build.check_values(step)
        specs = build.peer_specs(step, typed)
        build.require_origins(specs, coming)
        coming |= set(exported(step, specs))
    if len({zoo_folder(step) for step, _ in steps}) < len(steps):
        raise UserError("two steps of the pipeline have the same name; their networks would replace each other")
    first = steps[0][0]
    build_data.check_batch(first, build_data.dataset(first), 1)


def finished_before(cfg: DictConfig, overrides: Sequence[str]) -> dict[str, Any] | None:
    """The result of an earlier run of exactly this stage, measured as asked for, whose networks are all in the zoo."""
    folder = zoo_folder(cfg)
    result = read_result(folder)
    if result is None or result.get("status") != "completed":
        return None
    if result.get("evaluation") != evaluation(cfg):
        return None
    specs = build.peer_specs(cfg, overrides)
    build.require_origins(specs)
    origins = {spec.name: {"init": spec.origin.init, "provenance": first_weights(cfg, spec)} for spec in specs}
    wanted = fingerprint(cfg, build_data.dataset(cfg), origins)
    files = exported(cfg, specs)
    # a run that died between two exports leaves networks of two runs: each tells its own
    if all(file.is_file() and load_peer(file)["provenance"].get("fingerprint") == wanted for file in files):
        return result
    return None


def first_weights(cfg: DictConfig, spec: PeerSpec) -> dict[str, Any] | None:
    """As much of the provenance of a peer's first weights as `provenance.start_of` asks for."""
    if spec.origin.init == KINETICS:
        return {"imported": {"sha256": file_hash(kinetics_file(cfg.init.file))}}
    if spec.origin.path is None:
        return None
    provenance: dict[str, Any] = load_entry(spec.origin.path, spec.name, spec.modality.name)["provenance"]
    return provenance


def exported(cfg: DictConfig, specs: Sequence[PeerSpec]) -> list[Path]:
    """The zoo files that a stage leaves: those of the peers that learn.

    Raises:
        UserError: the lesson graph does not fit the peers.
    """
    frozen = build.objective(cfg, [spec.name for spec in specs]).frozen
    return [zoo_folder(cfg) / f"{spec.name}.pt" for spec in specs if spec.name not in frozen]


def save_config(folder: Path, cfg: DictConfig, overrides: Sequence[str]) -> None:
    """What Hydra leaves for a run of its own."""
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    OmegaConf.save(OmegaConf.create(list(overrides)), folder / ".hydra" / "overrides.yaml")
