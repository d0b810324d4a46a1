"""A sweep whose trials Optuna chooses: `hydra/sweeper=optuna`. It can be killed, and started again where it stands.

The study lies in `<sweep directory>/optuna.db`. Every trial is a job of the sweep with its own directory, by the number
of the trial; what `main` returns, the monitored metric, is its value. A trial that was running when the sweep was
killed is run again with the same values, and goes on from its last checkpoint; one that has ended is not repeated.
"""

from __future__ import annotations

import csv
import logging
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction

from mml_lightning.config.compose import Search, search_of
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import write_atomically

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

MODULE = "hydra_plugins.mml_optuna"  # Hydra calls no plugin outside of this package
DATABASE, TABLE, BEST = "optuna.db", "trials.csv", "best_parameters.yaml"
STUDY, SPACE, ASKED = "sweep", "space", "asked"
HOPELESS = 3  # trials that fail before any has ended well, after which the sweep ends


def register() -> None:
    """Make the sweeper known to Hydra, which finds plugins of the package `hydra_plugins` only."""
    plugins = Plugins.instance()
    parent = sys.modules.setdefault("hydra_plugins", types.ModuleType("hydra_plugins"))
    module = types.ModuleType(MODULE)
    OptunaSweeper.__module__ = MODULE
    module.OptunaSweeper = OptunaSweeper  # type: ignore[attr-defined]
    parent.mml_optuna = module  # type: ignore[attr-defined]
    sys.modules[MODULE] = module
    plugins.register(OptunaSweeper)


class OptunaSweeper(Sweeper):
    """Asks Optuna for the values of every trial, and tells it what came out.

    Args:
        trials: in all, those of earlier starts in the same directory included.
        jobs: trials that are handed to the launcher at a time.
        seed, startup: of the sampler (TPE): its seed, and how many trials it draws at random first.
        params: what is searched, as on the command line.
    """

    def __init__(
        self, trials: int = 20, jobs: int = 1, seed: int = 0, startup: int = 10, params: Mapping[str, str] | None = None
    ) -> None:
        for name, value, least in (
            ("trials", trials, 1),
            ("jobs", jobs, 1),
            ("seed", seed, 0),
            ("startup", startup, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f"hydra.sweeper.{name}={value} must be a whole number from {least}")
        self.trials, self.jobs, self.seed, self.startup = trials, jobs, seed, startup
        self.params = dict(params or {})
        self.config: Any = None
        self.launcher: Launcher | None = None
        self.context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: Any) -> None:
        self.config, self.context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        assert self.config is not None and self.launcher is not None and self.context is not None
        try:
            import optuna
        except ImportError:
            raise UserError("hydra/sweeper=optuna needs optuna: pip install 'mml_lightning[sweep]'") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        words = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        overrides = OverridesParser.create(config_loader=self.context.config_loader).parse_overrides(words)
        space = {one.get_key_element(): _distribution(one) for one in overrides if one.is_sweep_override()}
        fixed = [one.input_line or "" for one in overrides if not one.is_sweep_override()]
        if not space:
            raise UserError("nothing is searched: give a range, such as 'optimizer.lr=interval(0.01,0.1)'")
        search = search_of(self.config)
        folder = search.folder
        study = self._study(folder, space, _direction(search), [f"checkpoint.monitor={search.monitor}", *sorted(fixed)])
        try:
            self._run(study, space, fixed, folder)
        except BaseException:
            log.warning("continue the sweep with the same command and hydra.sweep.dir=%s", folder)
            raise
        return _told(study, folder, fixed)

    def _study(
        self,
        folder: Path,
        space: Mapping[str, Any],
        direction: Literal["maximize", "minimize"],
        asked: list[str],
    ) -> optuna.Study:
        """Raises:
        UserError: the study of the directory searches something else.
        """
        import optuna

        storage = f"sqlite:///{folder / DATABASE}"
        begun = _trials_of(storage)  # a sweep that goes on does not draw its first values again
        sampler = optuna.samplers.TPESampler(
            seed=self.seed + begun, n_startup_trials=self.startup, constant_liar=self.jobs > 1
        )
        try:
            study = optuna.create_study(
                storage=storage, sampler=sampler, study_name=STUDY, direction=direction, load_if_exists=True
            )
        except Exception as error:  # a damaged file, a study of another kind
            reason = " ".join(str(error).split())[:150]
            raise UserError(f"{folder / DATABASE} can't be used ({reason}): choose another hydra.sweep.dir") from None
        wanted = {key: optuna.distributions.distribution_to_json(one) for key, one in sorted(space.items())}
        known = study.user_attrs.get(SPACE)
        if known is None:
            study.set_user_attr(SPACE, wanted)
            study.set_user_attr(ASKED, asked)
        elif known != wanted or study.direction.name.lower() != direction:
            raise UserError(f"{folder} searches {', '.join(known)} in other ranges: choose another hydra.sweep.dir")
        elif (before := study.user_attrs.get(ASKED)) != asked:
            differs = ", ".join(sorted(set(before or ()).symmetric_difference(asked)))
            raise UserError(f"{folder} has trials with other settings ({differs}): choose another hydra.sweep.dir")
        return study

    def _run(self, study: optuna.Study, space: dict[str, Any], fixed: list[str], folder: Path) -> None:
        from optuna.trial import TrialState

        for trial in study.get_trials(states=(TrialState.RUNNING,)):  # of a sweep that was killed
            if set(trial.params) == set(space):
                log.info("trial %d was running: resuming it", trial.number)
                self._launch(study, [(trial.number, trial.params)], fixed)
            else:
                study.tell(trial.number, state=TrialState.FAIL)
        done = len(study.trials)
        while done < self.trials:
            asked = [study.ask(space) for _ in range(min(self.jobs, self.trials - done))]
            self._launch(study, [(trial.number, trial.params) for trial in asked], fixed)
            done = len(study.trials)
            ended = study.get_trials(states=(TrialState.COMPLETE,), deepcopy=False)
            if not ended and done >= min(HOPELESS, self.trials):
                raise UserError(f"the first {done} trials failed: see their logs in {folder}")

    def _launch(self, study: optuna.Study, trials: Sequence[tuple[int, Mapping[str, Any]]], fixed: list[str]) -> None:
        """Run trials of numbers that follow each other, and tell their values."""
        from optuna.trial import TrialState

        assert self.launcher is not None
        batch = [[*fixed, *_words(values), "resume=auto"] for _, values in trials]
        results: Sequence[JobReturn] = self.launcher.launch(batch, initial_job_idx=trials[0][0])
        for (number, values), result in zip(trials, results, strict=True):
            value = result.return_value  # raises what ended the job
            good = isinstance(value, float) and value == value
            study.tell(number, value if good else None, state=None if good else TrialState.FAIL)
            log.info("trial %d: %s -> %s", number, " ".join(_words(values)), f"{value:.4g}" if good else "failed")


def _trials_of(storage: str) -> int:
    import optuna

    if not Path(storage.removeprefix("sqlite:///")).is_file():
        return 0
    try:
        return len(optuna.load_study(study_name=STUDY, storage=storage).trials)
    except Exception:  # what is wrong is told where the study is opened
        return 0


def _words(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value!r}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items()]


def _distribution(override: Override) -> Any:
    """What Optuna draws from: of interval(a,b) a number (tag(log,...): by its logarithm; int(...): a whole one), of
    choice() and range() one of the values.

    Raises:
        UserError: it is no range.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value, key = override.value(), override.get_key_element()
    if isinstance(value, IntervalSweep):
        assert value.start is not None and value.end is not None
        by_log = "log" in value.tags
        try:
            if isinstance(value.start, int) and isinstance(value.end, int):
                return IntDistribution(value.start, value.end, log=by_log)
            return FloatDistribution(float(value.start), float(value.end), log=by_log)
        except ValueError as error:
            raise UserError(f"{key}: {error}") from None
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def _direction(search: Search) -> Literal["maximize", "minimize"]:
    """Which way the value of a trial is better; where no metric is named it is the first of val, an accuracy.

    Raises:
        UserError: nothing is named, and val is not measured.
    """
    from mml_lightning.training.monitored import mode_of

    if search.monitor is None and not search.val:
        raise UserError("val is not measured (trainer.limit_val_batches=0): name the objective, checkpoint.monitor=...")
    best = search.mode or ("max" if search.monitor is None else mode_of(search.monitor))
    return "maximize" if best == "max" else "minimize"


def _told(study: optuna.Study, folder: Path, fixed: Sequence[str]) -> float | None:
    """The table of the trials, best first, and the best values as overrides; returns the best value."""
    from optuna.trial import TrialState

    ended = study.get_trials(states=(TrialState.COMPLETE,))
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    ended.sort(key=lambda trial: sign * float(trial.value or 0.0))
    keys = sorted({key for trial in study.trials for key in trial.params})
    others = [trial for trial in study.trials if trial.state != TrialState.COMPLETE]
    lines = [
        [
            trial.number,
            "" if trial.value is None else f"{trial.value:.6g}",
            *(_short(trial.params.get(k)) for k in keys),
        ]
        for trial in (*ended, *others)
    ]
    with write_atomically(folder / TABLE, newline="") as handle:
        csv.writer(handle).writerows([["trial", "value", *keys], *lines])
    head: list[Any] = ["trial", "value", *keys]
    for line in [head, *lines[:10]]:
        print("  ".join(f"{cell!s:>12}" for cell in line))
    if not ended:
        return None
    best = ended[0]
    content = {"value": best.value, "trial": best.number, "overrides": [*fixed, *_words(best.params)]}
    with write_atomically(folder / BEST) as handle:
        yaml.safe_dump(content, handle, sort_keys=False)
    print(f"best: trial {best.number} with {best.value:.4g}: {' '.join(_words(best.params))}\n{folder / BEST}")
    return best.value


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
