"""The runs of a pipeline before they start: what is declared, composed into configs, and what each needs and makes."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mml_lightning.config import backbones, objective, peers
from mml_lightning.config import values as config_values
from mml_lightning.config.compose import changed, compose, options_of
from mml_lightning.config.overrides import holding, init_file, modalities_in
from mml_lightning.config.peers import COPY
from mml_lightning.config.saved_overrides import Source, admitted
from mml_lightning.config.settings import Settings
from mml_lightning.pipelines.run_spec import RunSpec, declare
from mml_lightning.report.table_spec import Layout, Network, layout, views_name
from mml_lightning.runs.fingerprint import zoo_folder
from mml_lightning.runs.lineage import taken, typed_path
from mml_lightning.utils.errors import UserError
from mml_lightning.zoo.aliases import Origin
from mml_lightning.zoo.entries import Entry

INIT_OF_MODALITY = re.compile(r"\+*init\.(?!(all|base|file|runs|new_head|copies)=)")
ONE_RUN: dict[str, Any] = {"tables": {}, "catalogue": {}, "seeds": None}  # what makes a run no pipeline
OWN = ("pipeline=", "pipeline.", "resume=", "seeds=", "catalogue=", "hydra.")  # of the pipeline, not of its runs


@dataclass
class PlannedRun:
    """One run of a pipeline.

    Args:
        key: its name in the catalogue (that of the run itself where it was declared without one).
        cfg, typed: config and overrides.
        needs, makes: networks of the zoo, by run, seed and peer (`Origin.key`): which entry each is, is known when its
            run has ended, see :meth:`take`.
        views: what a measurement of one network with other views is called; "" for a run that trains.
        added: the backbone of a run that nobody has declared, see :meth:`Composer.undeclared`.
    """

    key: str
    seed: int
    cfg: Settings = field(repr=False)
    typed: list[str] = field(repr=False)
    needs: frozenset[Path] = frozenset()
    makes: tuple[Path, ...] = ()
    views: str = ""
    added: str = ""

    @property
    def folder(self) -> Path:
        return Path(self.cfg.paths.output_dir)

    @property
    def name(self) -> str:
        return str(self.cfg.name)

    @property
    def title(self) -> str:
        return f"{self.name} ({self.added})" if self.added else self.name

    @property
    def label(self) -> str:
        return f"{self.title} seed {self.seed}"

    def take(self, folder: Path) -> None:
        """Start from, or measure, the very networks that another run of the pipeline has left.

        Args:
            folder: its directory, or its entry in the zoo.
        """
        if not self.views:
            chosen = [one for one in map(str, self.cfg.init.runs) if one != str(folder)] + [str(folder)]
            self.cfg = changed(self.cfg, {"init.runs": chosen})
            self.typed[:] = [o for o in self.typed if not o.startswith("init.runs=")] + [f"init.runs={taken(chosen)}"]
            return
        file = Entry(folder).file(next(iter(self.needs)).stem)
        if not file.is_file():  # that of another backbone
            return
        self.typed[:] = [o for o in self.typed if not o.startswith("ckpt=")] + [f"ckpt={typed_path(str(file))}"]
        output = str(folder / "views" / f"{file.stem}_{self.views}")
        self.cfg = changed(self.cfg, {"ckpt": str(file), "paths.output_dir": output})

    @property
    def networks(self) -> int:
        """How many it trains."""
        return len(self.makes)


def seeds_of(cfg: Settings) -> list[int]:
    """The seeds of a job: `seeds`, or `seed` alone.

    Raises:
        UserError: `seeds` is neither a number from 1 nor a list of different whole numbers.
    """
    seeds = cfg.seeds
    if seeds is None:
        return [cfg.seed]
    if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds > 0:
        return [cfg.seed + number for number in range(seeds)]
    listed = list(seeds) if isinstance(seeds, list) else []
    if listed and len(set(listed)) == len(listed) and all(type(s) is int and s >= 0 for s in listed):
        return listed
    raise UserError(f"seeds={seeds} must be a number of seeds (seeds=5) or a list (seeds=[0,1,2])")


def plan_runs(cfg: Settings, overrides: Sequence[str]) -> list[PlannedRun]:
    """The runs of a job for every seed, each behind those it needs: the pipeline's, or those of the catalogue that the
    tables refer to with all that they start from, or the one stage; then what is measured with other views.

    Raises:
        UserError: a run is impossible or unknown, two of them have the same name, or a typed init of one modality
            would hold in all of them.
    """
    composer = Composer(cfg, overrides)
    tables = layouts_of(cfg)
    if cfg.pipeline.runs:
        first = [composer.planned(declared, "") for declared in _pipeline(cfg).values()]
    elif tables:
        wanted = [run for table in tables for run in table.runs()]
        first = _with_origins(composer, declare(cfg.plain("catalogue")), wanted)
    else:
        first = [composer.planned(None, "")]
    if composer.several:
        composer.refuse_unused(first)
        first += composer.undeclared(first)
        peers.check_file((run.cfg, peers.peer_specs(run.cfg, run.typed)) for run in first)
    _refuse_namesakes(first)
    runs = composer.numbered(_ordered(first))
    return [*runs, *composer.measurements(runs, [item for table in tables for item in table.measurements()])]


def layouts_of(cfg: Settings) -> list[Layout]:
    """The tables of an experiment.

    Raises:
        UserError: a table is declared wrongly.
    """
    return [layout(name, declared, str(cfg.init.base)) for name, declared in cfg.plain("tables").items()]


def require_origins(
    runs: Sequence[PlannedRun], settle: Callable[[PlannedRun, Sequence[peers.PeerSpec]], object]
) -> None:
    """Args:
        settle: finds the entries of the zoo that the aliases of some peers of a run mean.

    Raises:
        UserError: a run starts from weights that neither exist nor come from another run, or were made with other
            settings.
    """
    coming = {path for run in runs for path in run.makes}
    for run in runs:
        specs = peers.peer_specs(run.cfg, run.typed)
        peers.require_origins(specs, coming)
        settle(run, [spec for spec in specs if spec.origin.key not in coming])


class Composer:
    """Configs of runs from their declarations. Options are composed once, single values are set on copies: composing
    takes a fifth of a second, and tables have a hundred runs."""

    def __init__(self, cfg: Settings, overrides: Sequence[str]) -> None:
        self.cfg, self.root = cfg, Path(cfg.paths.output_dir)
        self.seeds = seeds_of(cfg)
        self.several = cfg.declares_runs
        dropped = (*OWN, "name=", "experiment=") if cfg.tables else (*OWN, "name=") if self.several else OWN
        self.kept = [override for override in overrides if not override.startswith(dropped)]
        self.composed = functools.cache(lambda *typed: compose("train", [*typed, "pipeline=none"]))
        self.modalities = options_of("modality")
        self.evaluation = functools.cache(lambda *typed: compose("eval", [*typed, "pipeline=none", "ckpt=x"]))
        if self.several:
            self._keep_for_all()
        self.base = next((o.partition("=")[2] for o in reversed(self.kept) if o.startswith("init.base=")), None)

    def _keep_for_all(self) -> None:
        fixed = next((override for override in self.kept if INIT_OF_MODALITY.match(override)), None)
        if fixed:
            what = f"pipeline={self.cfg.pipeline.name}" if self.cfg.pipeline.runs else "a table"
            raise UserError(
                f"{what} sets where each run starts from, and {fixed} would apply to all of them: "
                "use init=... for the first one, or run the stages one by one"
            )
        # it is declared which run starts from which; what is typed is where the first one starts
        self.kept = [re.sub(r"^init(\.all)?=", "init.base=", override) for override in self.kept]

    def planned(self, declared: RunSpec | None, key: str) -> PlannedRun:
        """The run of the first seed."""
        if declared is None:
            typed, values = list(self.kept), {}
        else:
            where = Source(f"run {key or declared.stage} of the catalogue")  # it may stand in a file
            yielding, options = (admitted(words, where) for words in (declared.yielding(), declared.options()))
            typed = [*yielding, *self.kept, *options]
            typed = holding(typed, self.modalities, modalities_in(typed) or list(self.cfg.modality))
            values = declared.values(self.base or str(self.cfg.init.base))
        run = changed(self.composed(*typed), {**values, **ONE_RUN})
        typed += [init_file(f"{name}={value}") for name, value in values.items()]
        if declared is not None and declared.tag:
            run = changed(run, {"name": f"{run.name}_{declared.tag}"})
            typed.append(f"name={run.name}")
        return self._first(key, run, typed)

    def _first(self, key: str, run: Settings, typed: list[str], added: str = "") -> PlannedRun:
        return self.of_seed(PlannedRun(key or str(run.name), self.seeds[0], run, typed, added=added), self.seeds[0])

    def refuse_unused(self, runs: Sequence[PlannedRun]) -> None:
        """Raises:
        UserError: a network is chosen for a modality that no run looks at.
        """
        seen = {str(name) for run in runs for name in run.cfg.modality}
        for word in self.kept:
            if (of := backbones.WORD.match(word)) and of["modality"] in set(self.modalities) - seen:
                raise UserError(f"{word}: no run uses {of['modality']}: remove it")

    def undeclared(self, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
        """Where the networks of a run differ: the runs that make what its peers start from and that nobody has
        declared, such as the cross-entropy rgb network that is shaped as the network of flow."""
        found: list[PlannedRun] = []
        waiting = list(runs)
        while waiting:
            run = waiting.pop(0)
            if len(set(backbones.names(run.cfg).values())) < 2 and not run.added:
                continue
            specs = sorted(peers.peer_specs(run.cfg, run.typed), key=lambda spec: spec.name, reverse=True)
            for origin in (spec.origin for spec in specs if spec.origin.path is None):
                if origin.place is None or any(origin.place in one.makes for one in (*runs, *found)):
                    continue
                made = self._made_by(origin)
                found = [one for one in found if not set(one.makes) <= set(made.makes)]
                known = {path for one in (*runs, *found) for path in one.makes}
                made = replace(made, makes=tuple(path for path in made.makes if path not in known))
                found.append(made)
                waiting.append(made)
        return found

    def _made_by(self, origin: Origin) -> PlannedRun:
        typed = [init_file(word) for word in origin.making]
        admitted([word for word in typed if word not in self.kept], Source(f"the alias {origin.init}"))
        cfg = changed(self.composed(*typed), ONE_RUN)
        return self._first(f"{cfg.name} ({backbones.label(cfg)})", cfg, typed, backbones.label(cfg))

    def of_seed(self, run: PlannedRun, seed: int, **place: str) -> PlannedRun:
        cfg = changed(run.cfg, {"seed": seed, **place}) if place or seed != run.seed else run.cfg
        typed = [o for o in run.typed if not o.startswith("seed=")]
        typed += [f"seed={seed}"] if len(typed) < len(run.typed) or self.cfg.seeds is not None else []
        config_values.check_values(cfg)
        specs = peers.peer_specs(cfg, typed)
        needs = frozenset(spec.origin.key for spec in specs if spec.origin.key is not None)
        makes = exported(cfg, specs)
        if run.makes:  # some of what an undeclared one leaves may be nobody's
            kept = {(path.parent.parent, path.stem) for path in run.makes}
            makes = [path for path in makes if (path.parent.parent, path.stem) in kept]
        return replace(run, seed=seed, cfg=cfg, typed=typed, needs=needs, makes=tuple(makes))

    def numbered(self, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
        """The runs for all seeds, a directory each; those that were cut off continue."""
        found = []
        for seed in self.seeds:
            below = self.root / f"seed{seed}" if self.cfg.seeds is not None else self.root
            for number, run in enumerate(runs, start=1):
                folder = below / f"{number}_{run.name}"
                place = {"paths.output_dir": str(folder)}
                if self.cfg.resume and _has_checkpoint(folder):
                    place["resume"] = str(folder)
                found.append(self.of_seed(run, seed, **place))
        return found

    def measurements(
        self, runs: Sequence[PlannedRun], wanted: Sequence[tuple[Network, Mapping[str, Any]]]
    ) -> list[PlannedRun]:
        """What measures networks of the runs with other views; in the zoo, beside their weights."""
        found = {}
        for run in runs:
            for network, views in wanted:
                if network.run == run.key:
                    found[network, views_name(views), run.seed] = self._measurement(run, network, views)
        return list(found.values())

    def _measurement(self, run: PlannedRun, network: Network, views: Mapping[str, Any]) -> PlannedRun:
        weights = next((path for path in run.makes if path.stem == network.peer), None)
        if weights is None:
            have = ", ".join(path.stem for path in run.makes)
            raise UserError(f"{network} in a table: {run.name} trains no {network.peer}, only {have}")
        name, modality = views_name(views), COPY.sub("", network.peer)
        values = {**{f"views.{key}": value for key, value in views.items()}, "views.name": name, "seed": run.seed}
        values |= {"split": "test" if run.cfg.test else "val"}
        typed = [*holding(self.kept, self.modalities, [modality]), "stage=ce", f"modality=[{modality}]"]
        output = str(weights.parent / "views" / f"{network.peer}_{name}")
        own = {"ckpt": str(weights), "paths.output_dir": output, "name": f"{run.name}_{network.peer}@{name}"}
        cfg = changed(self.evaluation(*typed), {**values, **ONE_RUN, **own})
        typed += [*(f"{key}={value}" for key, value in values.items()), f"ckpt='{weights}'"]
        return PlannedRun(str(network), run.seed, cfg, typed, frozenset([weights]), (), name)


def _has_checkpoint(folder: Path) -> bool:
    from mml_lightning.training import checkpoints  # it imports Lightning, which a plan of new runs does not need

    return checkpoints.exist(folder)


def exported(cfg: Settings, specs: Sequence[peers.PeerSpec]) -> list[Path]:
    """The networks that a stage leaves in the zoo, as `Origin.key` names them: those of the peers that learn.

    Raises:
        UserError: the lesson graph does not fit the peers.
    """
    frozen = objective.never_trained(cfg, [spec.name for spec in specs])
    return [zoo_folder(cfg, spec.modality.name) / f"{spec.name}.pt" for spec in specs if spec.name not in frozen]


def dependencies(runs: Sequence[PlannedRun]) -> dict[int, set[int]]:
    """For the position of each run those of the runs that make what it starts from."""
    makers = {path: number for number, run in enumerate(runs) for path in run.makes}
    return {number: {makers[path] for path in run.needs if path in makers} for number, run in enumerate(runs)}


def _pipeline(cfg: Settings) -> Mapping[str, RunSpec]:
    return declare({f"{n}": run for n, run in enumerate(cfg.plain("pipeline.runs"), start=1)})


def _with_origins(composer: Composer, catalogue: Mapping[str, RunSpec], wanted: Sequence[str]) -> list[PlannedRun]:
    """The wanted runs and, of the catalogue, all that they start from."""
    unknown = [key for key in wanted if key not in catalogue]
    if unknown:
        raise UserError(f"the catalogue has no run {unknown[0]!r}; it has {', '.join(catalogue) or 'none'}")
    plan: dict[str, PlannedRun] = {}
    at_hand: dict[str, PlannedRun] = {}

    def get(key: str) -> PlannedRun:
        if key not in at_hand:
            at_hand[key] = composer.planned(catalogue[key], key)
        return at_hand[key]

    open_keys = list(dict.fromkeys(wanted))
    while open_keys:
        key = open_keys.pop(0)
        plan[key] = get(key)
        for path in plan[key].needs:
            maker = next((other for other in catalogue if path in get(other).makes), None)
            if maker is not None and maker not in plan and maker not in open_keys:
                open_keys.append(maker)
    return [plan[key] for key in catalogue if key in plan]


def _ordered(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs, each behind those it needs, else as declared."""
    needs = dependencies(runs)
    done: list[int] = []
    while len(done) < len(runs):
        ready = [number for number in range(len(runs)) if number not in done and needs[number] <= set(done)]
        if not ready:
            names = ", ".join(run.name for number, run in enumerate(runs) if number not in done)
            raise UserError(f"circular dependency, these runs start from each other: {names}")
        done.append(ready[0])
    return [runs[number] for number in done]


def _refuse_namesakes(runs: Sequence[PlannedRun]) -> None:
    seen: dict[Path, str] = {}
    for run in runs:
        for path in run.makes:
            if path in seen:
                raise UserError(
                    f"two runs of the pipeline have the same name, {run.name}: what starts from it would be ambiguous"
                )
            seen[path] = run.name
