"""Which checkpoint a run continues from, and whether it still is the same run."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mml_lightning.config import phases
from mml_lightning.config.key_roles import LENGTH_OF_PHASE, RESUMABLE_KEYS
from mml_lightning.config.limits import is_timer
from mml_lightning.config.revisions import revisions
from mml_lightning.config.settings import Settings
from mml_lightning.data import check
from mml_lightning.data.records.decoder import frames_reader
from mml_lightning.data.records.records import Dataset, rows
from mml_lightning.runs.export import refuse_occupied
from mml_lightning.runs.fingerprint import config_that_decides_weights
from mml_lightning.runs.lineage import flat
from mml_lightning.training import checkpoints
from mml_lightning.training.best_checkpoint import BestCheckpoint
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.liveness import DIED, RUNNING
from mml_lightning.utils.result_file import read_result

log = logging.getLogger(__name__)

AUTO = "auto"
REVISED = "docs/revisions.md"
KINDS = ("forced", "schedule")
SHOWN = 3  # differences that a message names


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on: the checkpoint, its step, the differences that `resume_force` lets pass, and another
    schedule, which needs no force: with either the weights are no longer those of one config. Then the epochs that are
    done, and by what the best of them was kept (None: none was)."""

    path: Path
    step: int
    forced: tuple[str, ...] = ()
    schedule: tuple[str, ...] = ()
    epochs: int = 0
    best: Mapping[str, Any] | None = None

    def fields(self) -> dict[str, Any]:
        told = {"checkpoint": self.path.name, "step": self.step, "forced": list(self.forced)}
        return told | ({"schedule": list(self.schedule)} if self.schedule else {})


def where_to_begin(
    cfg: Settings, overrides: Sequence[str], data: Dataset, peers: Sequence[str]
) -> tuple[Resumed | None, Path]:
    """The checkpoint that the run continues from, if there is one, and its directory.

    Raises:
        UserError: as of :func:`find`, or a run that begins would replace another.
    """
    folder = Path(cfg.paths.output_dir)
    resumed = find_checkpoint(cfg, overrides, data, peers)
    if resumed is None:
        refuse_occupied(folder)
    return resumed, folder


def find_checkpoint(cfg: Settings, overrides: Sequence[str], data: Dataset, peers: Sequence[str]) -> Resumed | None:
    """What `resume=<run directory>`, or `resume=auto` for the run's own, continues from; None for a start from scratch.

    Raises:
        UserError: no checkpoint can be read, or the run is another one than that of the checkpoint.
    """
    if not cfg.resume:
        return None
    folder = Path(cfg.paths.output_dir if cfg.resume == AUTO else cfg.resume)
    found = checkpoints.newest(folder)
    if found is None:
        if cfg.resume != AUTO or read_result(folder) is not None:
            log.info("%s has no checkpoint: training starts from the beginning", folder)
        return None
    path, content = found
    told = read_result(folder) or {}
    if told.get("status") == DIED:
        log.info("%s died: %s; continuing", folder, told["error"])
    elif told.get("status") == RUNNING and told.get("process"):
        log.warning("%s is marked as running on %s; two at once would corrupt it", folder, told["process"].get("host"))
    described = content["hyper_parameters"]
    refuse_other_phases(described, int(content.get("phase", {}).get("number", 0)), cfg)
    differ = differences(described, cfg, overrides, peers) + data_differences(described, folder, cfg, data)
    if differ and not cfg.resume_force:
        more = f", and {len(differ) - SHOWN} more" if len(differ) > SHOWN else ""
        raise UserError(
            f"resume continues the same run, but {'; '.join(differ[:SHOWN])}{more}: remove what differs, start a "
            f"new run from its weights with init={folder}/peers/<peer>.pt, or continue anyway with resume_force=true"
        )
    for line in differ:
        log.warning("resume_force: %s", line)
    changed = (tuple(differ), tuple(schedule_differences(described, cfg)))
    best = content.get("callbacks", {}).get(BestCheckpoint.__qualname__)
    return Resumed(path, content["global_step"], *changed, epochs=checkpoints.epochs_of(content), best=best)


def history(folder: Path, resumed: Resumed | None) -> list[dict[str, Any]]:
    """Every resume of a run so far, this one last; none of a run that starts from the beginning."""
    if resumed is None:
        return []
    return [*((read_result(folder) or {}).get("resumed") or ()), resumed.fields()]


def changed(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings that the resumes of a run have changed: what its weights are made of beside its config."""
    return [f"from step {one['step']} on: {line}" for one in history for key in KINDS for line in one.get(key) or ()]


def schedule_differences(described: Mapping[str, Any], cfg: Settings) -> list[str]:
    """Another schedule than the checkpoint was trained with, in words."""
    then, here = (
        flat({"schedule": values["schedule"], "phases": phases.identity(values)})
        for values in (described["config"], cfg.plain())
    )
    found = sorted(key for key in {*then, *here} if then.get(key) != here.get(key))
    keys = (key for key in found if key.startswith("schedule.") or LENGTH_OF_PHASE.match(key))
    return [f"{key} was {then.get(key)} and is {here.get(key)} now" for key in keys]


def refuse_other_phases(described: Mapping[str, Any], number: int, cfg: Settings) -> None:
    """Args:
        number: of the phase that the checkpoint was written in.

    Raises:
        UserError: a phase that has begun would be another one, or have begun at another time: the checkpoint has the
            optimiser of that one, which nothing can force.
    """
    then, here = (_begun(phases.identity(values), number) for values in (described["config"], cfg.plain()))
    if then != here:
        raise UserError(
            f"resume continues the same run, but its phases until then were {_told(then)} and are {_told(here)} now: "
            "set phases.<n>.epochs to what they were, or start a new run with init=<run directory>/peers/<peer>.pt"
        )


def _begun(declared: Mapping[str, Mapping[str, Any]], number: int) -> list[tuple[Any, ...]]:
    """Name, parts and first epoch of the phases up to one."""
    known = list(declared.values())[: number + 1]
    starts = itertools.accumulate((phase["epochs"] for phase in known[:-1]), initial=1)
    return [(phase["name"], phase.get("train"), start) for phase, start in zip(known, starts, strict=False)]


def _told(begun: Sequence[tuple[Any, ...]]) -> str:
    words = (f"{name} from epoch {start} ({', '.join(train or ['all'])})" for name, train, start in begun)
    return ", ".join(words) or "none"


def differences(
    described: Mapping[str, Any], cfg: Settings, overrides: Sequence[str], wanted: Sequence[str]
) -> list[str]:
    """Settings that the checkpoint would silently overrule, or that don't fit it, in words.

    A setting that came into being since is none, unless it was typed.

    Raises:
        UserError: the networks are others, which nothing can force.
    """
    before, now = described["config"], cfg.plain()
    peers = list(described["peers"])
    if peers != list(wanted):
        raise UserError(
            f"resume continues the same run, but its peers were {', '.join(peers)} and are {', '.join(wanted)} now: "
            "start a new run from its weights with init=<run directory>/peers/<peer>.pt"
        )
    then, here = (flat(config_that_decides_weights(values)) for values in (before, now))
    if not any(modality["source"] == "flow" for modality in now["modality"].values()):
        then, here = ({k: v for k, v in flat.items() if not k.startswith("flow.")} for flat in (then, here))
    timers = tuple(f"callbacks.{key}.duration" for key, node in now.get("callbacks", {}).items() if is_timer(node))
    typed = [override.lstrip("+~").partition("=")[0] for override in overrides]
    found = []
    for key in sorted({*then, *here}):
        new = key not in then and not any(key == word or key.startswith(f"{word}.") for word in typed)
        if new or then.get(key) == here.get(key) or _resumable(key) or key.startswith(timers):
            continue
        found.append(f"{key} was {then.get(key)} and is {here.get(key)} now")
    return found


def _resumable(key: str) -> bool:
    kept = any(key == k or key.startswith(f"{k}.") for k in RESUMABLE_KEYS)
    return kept or LENGTH_OF_PHASE.match(key) is not None


def data_differences(described: Mapping[str, Any], folder: Path, cfg: Settings, data: Dataset) -> list[str]:
    """Other training videos than the run began with, or another reader of them, would be other batches."""
    told = read_result(folder) or {}
    known = described.get("data") or {"fingerprint": told.get("data_fingerprint"), "decoder": told.get("decoder")}
    found = []
    if known["fingerprint"] not in (None, data.fingerprint()):
        left_out = len(data.left_out)
        chosen = sum(row[4] is not None for records in data.splits.values() for row in rows(records))
        why = [f"leaves out {left_out} of them now; data.quarantine=ignore keeps them"] if left_out else []
        why += [f"chose the reader of {chosen}; delete its {check.FILE} to read them as before"] if chosen else []
        found.append(f"its data have changed{' (mml check ' + ' and '.join(why) + ')' if why else ''}")
    reader = frames_reader(data, cfg.data.decoder)
    if known["decoder"] not in (None, reader):
        before, now = (f"{r['name']} {r['version']}" for r in (known["decoder"], reader))
        found.append(f"its videos were read by {before} and are now read by {now}")
    then, here = described.get("revisions", {}), revisions(cfg.plain(), data)
    if changed := sorted(what for what in here if then.get(what) != here[what]):
        found.append(f"an earlier version began it and did otherwise ({', '.join(changed)}: {REVISED})")
    return found
