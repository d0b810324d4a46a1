"""Runs that need not be repeated: their networks are in the zoo, made from the same config, data and first weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mml_lightning import build, build_data, nodes
from mml_lightning.build import PeerSpec
from mml_lightning.data.records import Dataset
from mml_lightning.errors import UserError
from mml_lightning.files import file_hash
from mml_lightning.pipelines.planned import exported
from mml_lightning.provenance import evaluation, fingerprint, zoo_folder
from mml_lightning.results import read_result
from mml_lightning.weights import KINETICS, kinetics_file, load_entry
from mml_lightning.zoo import load_peer

log = logging.getLogger(__name__)


class Reuse:
    """Looks runs up; the records of a dataset are read once however many runs share it."""

    def __init__(self) -> None:
        self._datasets: dict[str, Dataset] = {}

    def dataset(self, cfg: DictConfig) -> Dataset:
        """The data of a run.

        Raises:
            UserError: whatever the reader or the validation finds.
        """
        sources = sorted({modality.source for modality in build_data.modalities(cfg).values()})
        key = json.dumps([nodes.plain(cfg.data), sources, bool(cfg.test), str(cfg.paths.root)], default=str)
        if key not in self._datasets:
            self._datasets[key] = build_data.dataset(cfg)
        return self._datasets[key]

    def measured(self, cfg: DictConfig) -> dict[str, Any] | None:
        """The result of an earlier measurement of the very weights, with these views, on these data."""
        result, weights = read_result(Path(cfg.paths.output_dir)), Path(str(cfg.ckpt))
        if result is None or result.get("status") != "completed" or not weights.is_file():
            return None
        told = {fingerprint_in(weights)}
        data = build_data.dataset(cfg, [cfg.split]).fingerprint()
        same = result.get("evaluation") == evaluation(cfg) and result.get("data_fingerprint") == data
        return result if same and set((result.get("weights") or {}).values()) == told else None

    def finished(self, cfg: DictConfig, overrides: Sequence[str]) -> dict[str, Any] | None:
        """The result of an earlier run of exactly this stage, measured as asked for, with its networks in the zoo."""
        if "ckpt" in cfg:
            return self.measured(cfg)
        result = read_result(zoo_folder(cfg))
        if result is None or result.get("status") != "completed":
            return None
        if result.get("evaluation") != evaluation(cfg):
            return None
        specs = build.peer_specs(cfg, overrides)
        if any(spec.origin.path is not None and not spec.origin.path.is_file() for spec in specs):
            return None
        try:
            origins = {spec.name: {"init": spec.origin.init, "provenance": first_weights(cfg, spec)} for spec in specs}
        except UserError:  # of damaged first weights: the run itself tells
            return None
        wanted = fingerprint(cfg, self.dataset(cfg), origins)
        # a run that died between two exports, or is exporting now, leaves files of two runs: each tells its own
        if result.get("fingerprint") != wanted:
            return None
        for file in exported(cfg, specs):
            if not file.is_file() or fingerprint_in(file) != wanted:
                return None
        return result


def fingerprint_in(file: Path) -> str | None:
    """Which run made a zoo file; None for a damaged one, which is made again."""
    try:
        told: str | None = load_peer(file)["provenance"].get("fingerprint")
    except UserError as error:
        log.warning("%s: it is made again", error)
        return None
    return told


def first_weights(cfg: DictConfig, spec: PeerSpec) -> dict[str, Any] | None:
    """As much of the provenance of a peer's first weights as `provenance.start_of` asks for."""
    if spec.origin.init == KINETICS:
        return {"imported": {"sha256": file_hash(kinetics_file(cfg.init.file))}}
    if spec.origin.path is None:
        return None
    provenance: dict[str, Any] = load_entry(spec.origin.path, spec.name, spec.modality.name)["provenance"]
    return provenance


def pace(cfg: DictConfig) -> float | None:
    """Seconds that one network took on average in the runs of the zoo with the data and backbone of `cfg`."""
    seconds, networks = 0.0, 0
    for file in (Path(cfg.paths.zoo) / cfg.data.name / cfg.backbone.name).glob("*/seed*/result.json"):
        result = read_result(file.parent) or {}
        learned = sum(not peer.get("frozen") for peer in (result.get("peers") or {}).values())
        if result.get("status") == "completed" and learned and result.get("wall_s"):
            seconds, networks = seconds + float(result["wall_s"]), networks + learned
    return seconds / networks if networks else None
