"""What `import mml_lightning` offers beside the command line: docs/python.md.

Each call works in any script or notebook, again and again, also inside another Hydra application: mistakes are
exceptions, and what a run changes of its process is put back.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from mml_lightning.cli import config_errors, hydra_app
from mml_lightning.config import compose as config_compose
from mml_lightning.config import resolvers
from mml_lightning.config.apart import apart, run_job
from mml_lightning.config.settings import Settings
from mml_lightning.config.values import check_values
from mml_lightning.engine.job import job
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.exit_codes import JobOutcome
from mml_lightning.utils.process_state import kept_process, kept_random, logs_to
from mml_lightning.utils.program import CONF
from mml_lightning.utils.result_file import FILE, read_result

if TYPE_CHECKING:
    from mml_lightning.engine.predict import Predictor


@dataclass(frozen=True)
class Config:
    """The settings of a job, as :func:`compose` makes them of words.

    What stands in conf/ is an attribute (`cfg.schedule.epochs`), and :meth:`plain` is all of it in dicts and lists. It
    is read only: compose again for other values.

    Args:
        program: `train`, or `eval` where the words name a `ckpt`.
        words: overrides as on the command line.
    """

    program: str
    words: tuple[str, ...]
    settings: Settings = field(repr=False)

    @functools.cached_property
    def _view(self) -> DictConfig:
        return OmegaConf.create(self.plain(), flags={"readonly": True, "struct": True})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "settings":  # asked for before there are any, by copy and pickle
            raise AttributeError(name)
        return getattr(self._view, name)

    def plain(self) -> dict[str, Any]:
        """All settings, which the caller may change."""
        return copy.deepcopy(dict(self.settings.resolved))


@dataclass(frozen=True)
class Result:
    """What a job has left.

    Args:
        folder: its directory.
        content: that of its result.json.
    """

    folder: Path
    content: dict[str, Any] = field(repr=False)

    @property
    def file(self) -> Path:
        """result.json"""
        return self.folder / FILE

    @property
    def metrics(self) -> dict[str, dict[str, dict[str, float]]]:
        """{split: {peer: {metric: percent}}}"""
        return dict(self.content.get("metrics") or {})

    @property
    def weights(self) -> dict[str, Path]:
        """{peer: its weight file}, which :func:`load` takes."""
        return {path.stem: path for path in sorted((self.folder / "peers").glob("*.pt"))}


def compose(overrides: Sequence[str] = ()) -> Config:
    """The settings of `mml train` with these words, or of `mml eval` where one of them is `ckpt=...`; values checked.

    Args:
        overrides: such as `["stage=mml", "modality=[rgb,flow]", "schedule.epochs=5"]`.

    Raises:
        UserError: a word or a value is wrong, or asks for a sweep.
    """
    words = [str(word) for word in overrides]
    if flags := [word for word in words if word.startswith("-") or word.startswith("hydra.mode=")]:
        raise UserError(f"{flags[0]}: a call is one job; for several call it in a loop, or use the command line")
    program = "eval" if any(word.startswith("ckpt=") for word in words) else "train"
    with apart():
        prepared = _prepared(words, JobOutcome())
        settings = _composed(program, [word for word in prepared if not word.startswith("hydra.mode=")])
    check_values(settings)
    return Config(program, tuple(words), settings)


def train(config: Config | Sequence[str] = ()) -> Result:
    """Train a stage or a pipeline, as `mml train` does with the same words: the same directory, files and numbers,
    `resume=...` included. One process on one device.

    Args:
        config: of :func:`compose`, or its words.

    Raises:
        UserError: something is wrong that the user can mend; nothing is left behind.
        Exception: whatever else has ended the run, which is in its result.json and log.
    """
    config = config if isinstance(config, Config) else compose(config)
    if config.program != "train":
        raise UserError("ckpt=... is for evaluation: call evaluate")
    return _run(config)


def evaluate(config: Config | Sequence[str]) -> Result:
    """Measure what was trained, as `mml eval` does: `["ckpt=<run directory | zoo file | alias>", "views=uniform2"]`.

    Raises:
        UserError, Exception: as of :func:`train`.
    """
    config = config if isinstance(config, Config) else compose(config)
    if config.program != "eval":
        raise UserError("evaluate needs ckpt=<run directory | zoo file | alias> among its arguments")
    return _run(config)


def load(
    path: str | Path,
    peers: Sequence[str] | None = None,
    views: str | None = None,
    overrides: Sequence[str] = (),
    trusted: Sequence[str] = (),
) -> Predictor:
    """The networks of a run directory, a checkpoint, a weight file or an alias, ready to score videos:
    `load("peers/rgb.pt").predict("clip.mp4").top(5)`.

    Args:
        peers: which of the networks; all by default.
        views: clips and crops, an option of conf/views in place of the run's own.
        overrides: settings as typed for `mml eval`, such as `trainer.accelerator=cpu`.
        trusted: packages of your own that the weights may call (docs/plugins.md).

    Raises:
        UserError: nothing to load there, no such network, or a setting is wrong.
    """
    from mml_lightning.engine.predict import load_predictor

    own = [f"trusted=[{','.join(trusted)}]"] if trusted else []
    with apart(), kept_random():
        return load_predictor(path, peers, views, [*overrides, *own])


def _run(config: Config) -> Result:
    _check_devices(config.settings)
    outcome = JobOutcome(tracebacks=True)
    done: list[Path] = []

    def task(cfg: DictConfig) -> None:
        folder = Path(cfg.paths.output_dir)
        done.append(folder)
        with logs_to(str(folder / f"{config.program}.log")):
            job(cfg, _work, outcome)

    with apart(), kept_process():
        os.environ.pop("MML_STAMP", None)
        os.environ["MML_PROGRAM"] = config.program
        resolvers.stamp_run()
        words = _prepared(config.words, outcome)
        try:
            run_job(config.program, words, task)
        except UserError:
            raise
        except Exception as error:
            if done or not config_errors.of_command_line(error):
                raise
            raise UserError(config_errors.one_line(error, CONF)) from None
    if outcome.error is not None:
        raise outcome.error
    (folder,) = done
    return Result(folder, read_result(folder) or {})


def _work(cfg: Settings, overrides: Sequence[str]) -> object:
    """What train.py and eval.py do."""
    if cfg.measures_only:
        from mml_lightning.engine import evaluate as engine_evaluate

        return engine_evaluate.evaluate(cfg, overrides)
    if cfg.is_pipeline:
        from mml_lightning.pipelines import run_pipeline

        return run_pipeline.pipeline(cfg, overrides)
    from mml_lightning.engine import train as engine_train

    return engine_train.stage(cfg, overrides)


def _prepared(words: Sequence[str], outcome: JobOutcome) -> list[str]:
    return hydra_app.prepare(words, CONF, outcome)


def _composed(program: str, words: Sequence[str]) -> Settings:
    with config_errors.as_user_errors(CONF):
        return config_compose.compose(program, words)


def _check_devices(cfg: Settings) -> None:
    """Lightning starts ranks by starting the script again, which would do all that stands before the call again too."""
    devices, nodes = cfg.trainer.devices, cfg.trainer.num_nodes
    one = devices in (1, "1") or (isinstance(devices, Sequence) and not isinstance(devices, str) and len(devices) == 1)
    if not one or nodes != 1:
        raise UserError(
            f"trainer.devices={devices}, trainer.num_nodes={nodes}: a call trains in this process, on one device; use "
            "the command line for several (mml train ...)"
        )
