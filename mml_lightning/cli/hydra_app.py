"""The command line before Hydra sees it: mistakes Hydra can't name well, and `resume=` and `ckpt=` of an earlier run.

Imports no torch, so that `--help` stays instant.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from mml_lightning.cli import help
from mml_lightning.config import guard, resolvers
from mml_lightning.config.made_by import OVERRIDES, overrides_beside, saved_overrides
from mml_lightning.config.overrides import holding, init_file, modalities_in, swept_keys
from mml_lightning.config.saved_overrides import quoted
from mml_lightning.utils import console
from mml_lightning.utils.errors import Preempted, UserError, exhausted
from mml_lightning.utils.exit_codes import FAILURE, INTERRUPTED, MISTAKE, PREEMPTED, JobOutcome
from mml_lightning.utils.plain_text import visible
from mml_lightning.utils.terminal import say_error
from mml_lightning.utils.threads import wait_briefly

OF_FILE = re.compile(r"\+*(ckpt|resume|init(\.\w+)?)")  # settings that name a file
MULTIRUN = ("-m", "--multirun")


def launch(main: Callable[[], None], conf: Path, outcome: JobOutcome) -> NoReturn:
    """Run a Hydra application, whose jobs note in `outcome` how they ended: a mistake of the user is one line and exit
    code 2, a failed job exit code 1."""
    with console.guarded():
        try:
            _launch(main, conf, outcome)
        except MemoryError as error:  # there was too little to say what went wrong
            console.release_reserve()
            sys.exit(f"error: {exhausted(error)}")


def _launch(main: Callable[[], None], conf: Path, outcome: JobOutcome) -> NoReturn:
    wait_briefly()
    resolvers.register()
    resolvers.stamp_run()
    guard.install()
    if any("sweeper=optuna" in word for word in sys.argv[1:]):
        from mml_lightning.pipelines import optuna_sweeper

        optuna_sweeper.register()
    os.environ.setdefault("MML_PROGRAM", Path(sys.argv[0]).stem)
    outcome.tracebacks = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors to us instead of printing them itself
    try:
        if {"--help", "-h"} & set(sys.argv[1:]):
            print(help.text(conf))
            sys.exit()
        sys.argv[1:] = prepare(sys.argv[1:], conf, outcome)
        os.environ.setdefault("MML_SWEEP", swept_keys(sys.argv[1:]) or "sweep")
        main()
    except UserError as error:
        say_error(f"error: {error}")
        outcome.failures.append(MISTAKE)
    except Preempted:
        outcome.failures.append(PREEMPTED)
    except KeyboardInterrupt:
        outcome.failures.append(INTERRUPTED)
    except SystemExit as stop:  # Hydra has named the mistake itself, unless it stopped for --help and the like
        if stop.code:
            outcome.failures.append(MISTAKE)
    except Exception as error:  # a job logs its own: this is the command line's
        if not outcome.tracebacks and (spent := exhausted(error)):
            say_error(f"error: {spent}")
            sys.exit(FAILURE)
        from mml_lightning.cli import config_errors

        if outcome.tracebacks or not config_errors.of_command_line(error):
            raise
        say_error(f"error: {visible(config_errors.one_line(error, conf))}")
        outcome.failures.append(MISTAKE)
    sys.exit(outcome.code)


def prepare(arguments: Sequence[str], conf: Path, outcome: JobOutcome | None = None) -> list[str]:
    """Arguments for Hydra.

    `resume=<run directory>` brings back the overrides of that run and its directory; `ckpt=` brings back the overrides
    of the run that made the weights, as far as files are trusted with them: :mod:`config.saved_overrides`. What
    is typed beside them wins. `init=<file>` is short for `init.all=<file>`. `outcome` keeps the settings of a directory
    that Hydra will write over.

    Raises:
        UserError: unknown or repeated modality, a resume or ckpt that is not a run directory, or overrides in it that
            count only where they are typed.
    """
    outcome = outcome or JobOutcome()
    flags_first = sorted(arguments, key=lambda argument: argument not in MULTIRUN)
    given = [init_file(_home(argument)) for argument in flags_first]
    _check_modalities(given, conf)
    resume, checkpoint = _value(given, "resume"), _value(given, "ckpt")
    if resume == "" or checkpoint == "":
        raise UserError("resume= and ckpt= need a run directory (an empty shell variable?)")
    if own := _value(given, "hydra.run.dir"):
        if resume == "auto":
            check_links(Path(own))
        outcome.stash(Path(own))
    elif several := _value(given, "hydra.sweep.dir"):
        outcome.stash(Path(several), "*/.hydra/*.yaml")
    if resume and resume not in ("null", "auto"):  # auto: whatever the directory of this run holds
        return _resumed(given, Path(resume).expanduser(), outcome)
    if checkpoint:
        return _together(_made_by(Path(checkpoint).expanduser(), given, conf), given)
    return given


def _together(saved: Sequence[str], given: Sequence[str]) -> list[str]:
    """Saved words before typed ones, which win, and options before both: options between words are not understood."""
    first = next((n for n, word in enumerate(given) if "=" in word and not word.startswith("-")), len(given))
    return [*given[:first], *saved, *given[first:]]


def _resumed(given: Sequence[str], folder: Path, outcome: JobOutcome) -> list[str]:
    if _is_sweep(given):
        raise UserError("resume= continues one run; leave out -m, or resume the jobs of a sweep one by one")
    saved = saved_overrides(folder, given)
    if saved is None:
        raise UserError(
            f"resume={folder} is not a run directory (it has no {OVERRIDES}); "
            "pick one below multirun/single or a job of a sweep"
        )
    check_links(folder)
    outcome.stash(folder)
    outcome.brought = saved
    rest = [a for a in given if not a.startswith(("resume=", "hydra.run.dir="))]
    # an experiment may carry a sweep of its own; this continues one of its jobs
    return [*_together(saved, rest), quoted("resume", folder), quoted("hydra.run.dir", folder), "hydra.mode=RUN"]


def check_links(folder: Path) -> None:
    """A run that goes on writes into its directory, and a link in it would lead what is written to another place.

    Raises:
        UserError: a link leads out of the directory.
    """
    home = folder.resolve()
    for place, folders, files in os.walk(home):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                raise UserError(
                    f"{path} is a symlink to outside the run directory, and the run would write through it: "
                    "replace it by its target, or delete it"
                )


def _made_by(path: Path, given: Sequence[str], conf: Path) -> list[str]:
    """Overrides of the run that made what `ckpt` names, so that it is measured on the same data in the same way."""
    saved = overrides_beside(path, given)
    if saved is not None:
        if looked_at := modalities_in(given):
            saved = holding(saved, [path.stem for path in (conf / "modality").glob("*.yaml")], looked_at)
        return saved if _is_sweep(given) else [*saved, "hydra.mode=RUN"]
    if path.is_dir() and not any(path.glob("*.pt")):
        raise UserError(
            f"ckpt={path} is not a run directory (it has no {OVERRIDES}); "
            "give a directory below multirun/single, a checkpoint or a zoo file"
        )
    return []


def _is_sweep(given: Sequence[str]) -> bool:
    return any(argument in MULTIRUN for argument in given)


def _home(argument: str) -> str:
    """The shell leaves the ~ of key=~/file alone, and Hydra reads it as a deletion. Nor does it read a second equals
    sign, which names of Lightning's checkpoints have (epoch=1-step=6.ckpt)."""
    key, equals, value = argument.partition("=")
    if equals and value.startswith("~/"):
        return f"{key}='{os.path.expanduser(value)}'"
    if OF_FILE.fullmatch(key) and "=" in value and value[0] not in "'\"" and Path(value).exists():
        return quoted(key, value)
    return argument


def _check_modalities(given: Sequence[str], conf: Path) -> None:
    folders = [conf, *_own_configs(given)]
    known = sorted({path.stem for folder in folders for path in (folder / "modality").glob("*.yaml")})
    value = _value(given, "modality")
    for choice in re.findall(r"\[([^\]]*)\]", value or "") or ([] if not value or "[" in value else value.split(",")):
        names = [name.strip().strip("'\"") for name in choice.split(",") if name.strip()]
        if not names:
            raise UserError("modality=[] leaves nothing to train; use modality=[rgb]")
        for name in names:
            if name not in known and "pkg://" not in (_value(given, "hydra.searchpath") or ""):  # Hydra looks there
                raise UserError(
                    f"modality {name!r} is unknown; use one of {known} (a new one is modality/{name}.yaml in conf/, or "
                    "in a folder that hydra.searchpath=[...] names)"
                )
            if names.count(name) > 1:
                raise UserError(
                    f"modality=[{choice}] names {name} twice; "
                    f"two networks of one modality are stage=ml modality=[{name}]"
                )


def _own_configs(given: Sequence[str]) -> list[Path]:
    """Folders of configs of the user's that are typed: hydra.searchpath=[...], --config-dir."""
    words = re.split(r"[\s,]+", (_value(given, "hydra.searchpath") or "").strip("[]"))
    for number, word in enumerate(given):
        option, _, value = word.partition("=")
        if option in ("--config-dir", "-cd"):
            words.append(value or "".join(given[number + 1 : number + 2]))
    return [Path(word.strip("'\"").removeprefix("file://")).expanduser() for word in words if word]


def _value(given: Sequence[str], key: str) -> str | None:
    values = [
        argument.split("=", 1)[1].strip("'\"") for argument in given if argument.lstrip("+").startswith(f"{key}=")
    ]
    return values[-1] if values else None
