"""Runs that need not be repeated: their networks are in the zoo, made from the same config, data and first weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mml_lightning.config import backbones
from mml_lightning.config import data as config_data
from mml_lightning.config import peers as config_peers
from mml_lightning.config.peers import PeerSpec
from mml_lightning.config.settings import Settings
from mml_lightning.data.records.records import Dataset
from mml_lightning.pipelines.plan import PlannedRun, exported
from mml_lightning.runs.fingerprint import evaluation, fingerprint, settings
from mml_lightning.runs.lineage import Lineage, first_weights
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.result_file import FILE, read_result
from mml_lightning.zoo.entries import Entry, below, of_folder
from mml_lightning.zoo.files import load_peer

log = logging.getLogger(__name__)

LATEST = 50  # runs that a pace is told from


class Reuse:
    """Looks runs up; the records of a dataset are read once however many runs share it."""

    def __init__(self) -> None:
        self._datasets: dict[str, Dataset] = {}

    def dataset(self, cfg: Settings) -> Dataset:
        """The data of a run.

        Raises:
            UserError: whatever the reader or the validation finds.
        """
        sources = sorted({modality.source for modality in config_data.modalities(cfg).values()})
        key = json.dumps([cfg.plain("data"), sources, bool(cfg.test), str(cfg.paths.root)], default=str)
        if key not in self._datasets:
            self._datasets[key] = config_data.dataset(cfg)
        return self._datasets[key]

    def measured(self, cfg: Settings) -> dict[str, Any] | None:
        """The result of an earlier measurement of the very weights, with these views, on these data."""
        result, weights = read_result(Path(cfg.paths.output_dir)), Path(str(cfg.ckpt))
        if result is None or result.get("status") != "completed" or not weights.is_file():
            return None
        told = {fingerprint_in(weights)}
        data = config_data.dataset(cfg, [cfg.split]).fingerprint()
        same = result.get("evaluation") == evaluation(cfg) and result.get("data_fingerprint") == data
        return result if same and set((result.get("weights") or {}).values()) == told else None

    def finished(self, cfg: Settings, overrides: Sequence[str]) -> dict[str, Any] | None:
        """The result of an earlier run of exactly this stage, measured as asked for, with its networks in the zoo; or
        of this very run, if its directory holds it whole."""
        if cfg.measures_only:
            return self.measured(cfg)
        try:
            specs = self.settled(cfg, overrides)
            if any(spec.origin.path is not None and not spec.origin.path.is_file() for spec in specs):
                return None
            origins = {spec.name: {"init": spec.origin.init, "provenance": first_weights(cfg, spec)} for spec in specs}
        except UserError:  # of first weights that are yet to make, or damaged: the run itself tells
            return None
        wanted, asked = (make(cfg, self.dataset(cfg), origins) for make in (fingerprint, settings))
        places = exported(cfg, specs)
        own = Path(cfg.paths.output_dir)
        found = below(places[0].parent, places[0].stem) if places else []
        if places and (own / "peers" / f"{places[0].stem}.pt").is_file():
            found.append(of_folder(own, places[0].stem))
        for entry in found:
            if entry.told.get("status") != "completed" or entry.told.get("evaluation") != evaluation(cfg):
                continue
            if entry.settings not in (None, asked):
                continue
            files = {path.stem: network_of(entry, path) for path in places}
            # an entry of an earlier version may hold networks of two runs: each tells its own
            if all(file is not None and fingerprint_in(file) == wanted for file in files.values()):
                peers = {
                    n: {**p, "zoo": str(files[n])} if n in files else p
                    for n, p in (entry.told.get("peers") or {}).items()
                }
                return {**entry.told, "peers": peers, "zoo": str(entry.folder)}
        return None

    def settled(self, cfg: Settings, overrides: Sequence[str]) -> list[PeerSpec]:
        """The peers of a run with the files that they start from.

        Raises:
            UserError: there are none, or an alias asks for others than there are.
        """
        specs = config_peers.peer_specs(cfg, overrides)
        config_peers.require_origins(specs)
        return Lineage(cfg, overrides, lambda: self.dataset(cfg), quiet=True).settle(specs)

    def settle_early(self, planned: PlannedRun, specs: Sequence[PeerSpec]) -> None:
        """Find what some peers of a run start from, before any run has begun.

        Raises:
            UserError: it was made with other settings than those asked for.
        """
        Lineage(planned.cfg, planned.typed, lambda: self.dataset(planned.cfg), quiet=True).settle(specs)

    def pin(self, planned: PlannedRun) -> None:
        """Tell a run that is about to start which entries its aliases mean; of what is missing it tells itself."""
        try:
            specs = self.settled(planned.cfg, planned.typed)
        except UserError:
            return
        for spec in specs:
            if spec.origin.place is not None and spec.origin.path is not None:
                folder = spec.origin.path.parent
                planned.take(folder.parent if folder.name == "peers" else folder)


def network_of(entry: Entry, path: Path) -> Path | None:
    """The file of a network of the run that has left an entry; of another backbone it lies in an entry of its own, and
    is known by its weights.

    Args:
        path: as :func:`exported` names it.
    """
    if entry.file(path.stem).is_file():
        return entry.file(path.stem)
    wanted = _weights(entry, path.stem)
    same = (one for one in below(path.parent, path.stem) if wanted and _weights(one, path.stem) == wanted)
    return next((one.file(path.stem) for one in same), None)


def _weights(entry: Entry, peer: str) -> str | None:
    """The hash of a network of the run that has left an entry, as it tells."""
    return ((entry.told.get("peers") or {}).get(peer) or {}).get("weights")


def fingerprint_in(file: Path) -> str | None:
    """Which run made a zoo file; None for a damaged one, which is made again."""
    try:
        told: str | None = load_peer(file)["provenance"].get("fingerprint")
    except UserError as error:
        log.warning("%s: it is run again", error)
        return None
    return told


def pace(cfg: Settings) -> float | None:
    """Seconds that one network took on average in the runs of the zoo with the data and backbone of `cfg`."""
    seconds, networks = 0.0, 0
    zoo = Path(cfg.paths.zoo) / cfg.data.name
    below_each = [zoo / name for name in dict.fromkeys(backbones.names(cfg).values())]
    files = [file for runs in below_each for place in ("*/seed*", "*/seed*/*") for file in runs.glob(f"{place}/{FILE}")]
    for file in sorted(files, key=lambda file: file.stat().st_mtime)[-LATEST:]:
        result = read_result(file.parent) or {}
        learned = sum(not peer.get("frozen") for peer in (result.get("peers") or {}).values())
        if result.get("status") == "completed" and learned and result.get("wall_s"):
            seconds, networks = seconds + float(result["wall_s"]), networks + learned
    return seconds / networks if networks else None
