"""The command line before Hydra sees it: mistakes Hydra can't name well, and `resume=` and `ckpt=` of a run directory.

Imports no torch, so that `--help` stays instant.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import yaml

from mml_lightning import resolvers
from mml_lightning.errors import UserError

OVERRIDES = Path(".hydra") / "overrides.yaml"
FAILURE, MISTAKE = 1, 2  # exit codes
failures: list[int] = []
"""Exit codes of the jobs of this process that failed; a failed job does not end a sweep, so the process fails at its end."""


def launch(main: Callable[[], None], conf: Path) -> NoReturn:
    """Run a Hydra application: a mistake of the user is one line and exit code 2, a failed job exit code 1."""
    resolvers.register()
    resolvers.stamp_run()
    try:
        sys.argv[1:] = prepare(sys.argv[1:], conf)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(MISTAKE)
    main()
    sys.exit(max(failures, default=0))


def prepare(arguments: Sequence[str], conf: Path) -> list[str]:
    """Arguments for Hydra.

    A `resume=<run directory>` brings back the overrides of that run and its directory; `ckpt=<run directory>` brings back
    the overrides alone. What is typed beside them wins.

    Raises:
        UserError: unknown or repeated modality, or a resume that is not a run directory.
    """
    given = list(arguments)
    _check_modalities(given, conf)
    resume = _value(given, "resume")
    if resume and resume != "null":
        folder = Path(resume)
        saved = _saved_overrides(folder, "resume")
        rest = [a for a in given if not a.startswith(("resume=", "hydra.run.dir="))]
        kept = [a for a in saved if not a.startswith("resume=")]
        return [*kept, *rest, f"resume='{folder}'", f"hydra.run.dir='{folder}'"]
    checkpoint = _value(given, "ckpt")
    if checkpoint and Path(checkpoint).is_dir():
        return [*_saved_overrides(Path(checkpoint), "ckpt"), *given]
    return given


def _check_modalities(given: Sequence[str], conf: Path) -> None:
    known = sorted(path.stem for path in (conf / "modality").glob("*.yaml"))
    value = _value(given, "modality")
    for choice in re.findall(r"\[([^\]]*)\]", value or "") or ([] if not value or "[" in value else value.split(",")):
        names = [name.strip().strip("'\"") for name in choice.split(",") if name.strip()]
        for name in names:
            if name not in known:
                raise UserError(
                    f"modality {name!r} is unknown; use one of {known} (add one as conf/modality/{name}.yaml)"
                )
            if names.count(name) > 1:
                raise UserError(
                    f"modality=[{choice}] names {name} twice; two networks of one modality are stage=ml modality=[{name}]"
                )


def _value(given: Sequence[str], key: str) -> str | None:
    values = [
        argument.split("=", 1)[1].strip("'\"") for argument in given if argument.lstrip("+").startswith(f"{key}=")
    ]
    return values[-1] if values else None


def _saved_overrides(folder: Path, key: str) -> list[str]:
    file = folder / OVERRIDES
    if not file.is_file():
        raise UserError(
            f"{key}={folder} is not a run directory (it has no {OVERRIDES}); pick one below multirun/single or a job of a sweep"
        )
    return [str(line) for line in yaml.safe_load(file.read_text()) or []]
