"""Runs that differ in nothing but the seed form one group: one row of a table, one side of a comparison."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mml_lightning.config.key_roles import COSMETIC_OVERRIDES, WATCHING
from mml_lightning.report.collect import Run, mapping

# What a row is called by, in the order of the columns.
FIELDS = ("stage", "setup", "data", "backbone", "modality", "init", "views", "decoder", "data_fingerprint", "limited")
_STAGES = ("ce", "ml", "mml", "reduced_mml", "ensemble_ml", "mars", "mers", "d3d", "kd", "mmkd", "adamml")

# Overrides that the name, a field above or a column of every table already tells, as do `init.<modality>` and
# `backbone.<modality>`.
_TOLD = {"name", "stage", "setup", "data", "backbone", "modality", "views", "init", "init.all", "ckpt", "split"}
_LIMITS = re.compile(
    r"trainer(=smoke$|\.(limit_(epochs|train_batches|val_batches|test_batches)|overfit_batches|fast_dev_run"
    r"|max_(epochs|steps|time))=(?!null$|1\.0$|-1$|false$|0\.0$))",
    re.IGNORECASE,
)


@dataclass
class Group:
    """The runs of one row. `name` is unique within a collection."""

    name: str
    fields: dict[str, str]
    overrides: dict[str, str]  # those that neither the fields tell nor are cosmetic
    completed: dict[int | str, Run] = field(default_factory=dict)  # by seed; by path where a run tells no seed
    repeated: list[Run] = field(default_factory=list)  # older completed runs of a seed that ran again
    others: list[Run] = field(default_factory=list)  # failed, running or without result

    def unfinished(self, *statuses: str) -> set[int | str]:
        """Seeds with a run of such a status and no completed one."""
        return {_seed(run) for run in self.others if run["status"] in statuses} - set(self.completed)

    @property
    def seeds(self) -> list[int | str]:
        """Completed seeds in ascending order."""
        return sorted(self.completed, key=lambda seed: (isinstance(seed, str), natural(str(seed))))


def group(runs: Iterable[Run]) -> list[Group]:
    """Groups in table order. A seed that completed twice counts once, by its newest run.

    A run that did not complete joins the completed runs of its own command line, seed apart; if there are none it
    makes a row of its own. An unreadable result that tells nothing belongs to no group.
    """
    groups: dict[tuple[Any, ...], Group] = {}
    rest: list[Run] = []
    for run in sorted(runs, key=lambda run: run["path"]):
        if run["status"] == "completed":
            _add(_home(run, groups), run)
        else:
            rest.append(run)
    completed = list(groups.values())
    for run in rest:
        candidates = [g for g in completed if _same_command(run, g)]
        if candidates:
            candidates[0].others.append(run)
        elif run.get("overrides") is not None or run.get("name"):
            _home(run, groups).others.append(run)
    ordered = sorted(groups.values(), key=_order)
    _make_names_unique(ordered)
    return ordered


def natural(text: str) -> tuple[tuple[int, float, str], ...]:
    """Sort key by which "x10" follows "x9"."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return tuple((0, float(part), "") if i % 2 else (1, 0.0, part) for i, part in enumerate(parts))


def parse_overrides(items: Iterable[str] | None) -> dict[str, str]:
    """Hydra overrides as key -> value without the seed and the cosmetic ones; the last of a key wins, `~key` is "~"."""
    found: dict[str, str] = {}
    for item in items or ():
        key, _, text = str(item).partition("=")
        deleted = key.startswith("~")
        key = key.lstrip("+~")
        if key == "callbacks":  # of a list of options those that steer a run
            text = ",".join(name for name in re.findall(r"[\w-]+", text) if name not in WATCHING)
            if not text and not deleted:
                continue
        if not COSMETIC_OVERRIDES.match(key):
            found[key] = "~" if deleted else _seedless(text.strip("'\""))
    return found


def _seed(run: Run) -> int | str:
    seed = run.get("seed")
    if isinstance(seed, int):
        return seed
    for item in run.get("overrides") or ():
        match = re.fullmatch(r"\+*seed=(\d+)", str(item))
        if match:
            return int(match[1])
    return str(run["path"])


def _seedless(text: str) -> str:
    """A path that names its seed must not set the seeds of one row apart."""
    return re.sub(r"seed[=_-]?\d+", "seed*", text)


def _fields(run: Run) -> dict[str, str]:
    """Field -> text; "" where the run does not tell."""
    told = parse_overrides(run.get("overrides"))
    fields = {key: _text(run.get(key)) or _text(told.get(key, "").strip("[]").split(",")) for key in FIELDS}
    inits = {name: _seedless(_text(mapping(peer).get("init"))) for name, peer in mapping(run.get("peers")).items()}
    same = len(set(inits.values())) == 1
    fields["init"] = next(iter(inits.values())) if same else ", ".join(f"{k}={v}" for k, v in inits.items())
    decoder = run.get("decoder")
    if isinstance(decoder, dict):
        fields["decoder"] = " ".join(_text(decoder.get(key)) for key in ("name", "version")).strip()
    fields["data_fingerprint"] = fields["data_fingerprint"][:12]
    fields["limited"] = ", ".join(_limited(run, told))
    return fields


def _limited(run: Run, told: Mapping[str, str]) -> list[str]:
    """What has cut a run short; runs of earlier versions have typed it only."""
    found = run.get("limited")
    if isinstance(found, list):
        return [str(item) for item in found]
    typed = {key: value for key, value in told.items() if _LIMITS.match(f"{key}={value}")}
    return [f"{key}={value}" for key, value in sorted(typed.items())]


def _text(item: Any) -> str:
    if item is None:
        return ""
    return "+".join(map(str, item)) if isinstance(item, list) else str(item)


def _home(run: Run, groups: dict[tuple[Any, ...], Group]) -> Group:
    fields = _fields(run)
    modalities = fields["modality"].split("+")
    told = _TOLD | {f"{key}.{modality}" for key in ("init", "backbone") for modality in modalities}
    overrides = {k: v for k, v in parse_overrides(run.get("overrides")).items() if k not in told}
    # Run directories are <stamp or number>_<name>.
    name = _seedless(str(run.get("name") or re.sub(r"^[\d_-]+_", "", Path(run["path"]).name)))
    key = (name, tuple(fields.items()), tuple(sorted(overrides.items())))
    if key not in groups:
        groups[key] = Group(name, fields, overrides)
    return groups[key]


def _add(home: Group, run: Run) -> None:
    seed = _seed(run)
    rival = home.completed.get(seed)
    if rival is None:
        home.completed[seed] = run
        return
    older, newer = sorted((rival, run), key=lambda r: (str(r.get("finished") or ""), r["path"]))
    home.completed[seed] = newer
    # A pipeline shows the result of a step that it reused: that is one run seen twice.
    if not (older.get("reused") or newer.get("reused")) or older.get("started") != newer.get("started"):
        home.repeated.append(older)


def _same_command(run: Run, home: Group) -> bool:
    """Whether `run` is a seed of this group, as far as it tells. What was built late (init) it may not tell."""
    known = _fields(run)
    if any(known[key] and known[key] != home.fields[key] for key in ("stage", "setup", "data", "backbone", "modality")):
        return False
    if run.get("overrides") is not None:
        command = parse_overrides(run["overrides"])
        return any(parse_overrides(member.get("overrides")) == command for member in home.completed.values())
    return bool(run.get("name")) and _seedless(str(run["name"])) == home.name


def _order(home: Group) -> tuple[Any, ...]:
    stage = home.fields["stage"]
    rank = _STAGES.index(stage) if stage in _STAGES else len(_STAGES)
    others = [natural(home.fields[key]) for key in FIELDS if key not in ("setup", "stage")]
    extras = sorted((key, natural(text)) for key, text in home.overrides.items())
    return (home.fields["setup"], rank, stage, others, extras, home.name)


def _make_names_unique(groups: list[Group]) -> None:
    """Append to equal names what sets them apart: "mml_rgb+flow_from_ce [objective.weight=2]"."""
    by_name: dict[str, list[Group]] = {}
    for home in groups:
        by_name.setdefault(home.name, []).append(home)
    for namesakes in (found for found in by_name.values() if len(found) > 1):
        told = [{**home.fields, **home.overrides} for home in namesakes]
        apart = [key for key in dict.fromkeys(k for t in told for k in t) if len({t.get(key) for t in told}) > 1]
        for home, mine in zip(namesakes, told, strict=True):
            details = ", ".join(f"{key}={mine[key]}" for key in apart if mine.get(key))
            home.name = f"{home.name} [{details}]" if details else home.name
