"""Hydra used by a library: whoever calls it may be a Hydra application too, and finds everything as it was. Imports no
torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import hydra
from hydra._internal import hydra as hydra_internal
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase
from omegaconf import DictConfig

from mml_lightning.config import guard, resolvers
from mml_lightning.utils.program import CONF

OF_AN_APPLICATION = (GlobalHydra, HydraConfig, JobRuntime, VersionBase)
"""What Hydra keeps of the one application of a process."""


@contextmanager
def apart() -> Iterator[None]:
    """Inside, Hydra has no application, and composes nothing that :mod:`config.guard` has not seen; afterwards all is
    as before."""
    kept = Singleton._instances
    before = {kind: kept.pop(kind) for kind in OF_AN_APPLICATION if kind in kept}
    loader = hydra_internal.ConfigLoaderImpl
    resolvers.register()
    guard.install()
    try:
        yield
    finally:
        hydra_internal.ConfigLoaderImpl = loader  # type: ignore[misc]
        for kind in OF_AN_APPLICATION:
            kept.pop(kind, None)
        kept.update(before)  # type: ignore[arg-type]  # of their own kinds


def run_job(program: str, words: Sequence[str], task: Callable[[DictConfig], None]) -> None:
    """A job as Hydra's command line runs it, but for its logs, within :func:`apart`: the directory of the run, its
    .hydra/ and what hangs on them.

    Args:
        program: `train` or `eval`.

    Raises:
        Exception: of a word that is wrong, or of the task.
    """
    with hydra.initialize_config_dir(str(CONF), version_base="1.3", job_name=program):
        application = GlobalHydra.instance().hydra
        assert application is not None
        application.run(program, task, list(words), with_log_configuration=False)
