"""Train one stage, a pipeline of stages, or a sweep: python train.py --help, or mml train --help"""

from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from mml_lightning.cli import hydra_app
from mml_lightning.config import resolvers
from mml_lightning.config.settings import Settings
from mml_lightning.utils.exit_codes import JobOutcome
from mml_lightning.utils.program import CONF

OUTCOME = JobOutcome()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Returns the monitored metric, for sweepers that search (docs/callbacks.md)."""
    resolvers.register()  # named here, so that a job on another machine brings them along
    from mml_lightning.engine import job

    return job.job(cfg, work, OUTCOME)


def work(cfg: Settings, overrides: Sequence[str]) -> object:
    """Lightning is imported here, behind the checks of the settings, so that a mistake is told at once."""
    if cfg.is_pipeline:
        from mml_lightning.pipelines import run_pipeline

        return run_pipeline.pipeline(cfg, overrides)
    from mml_lightning.engine import train

    return train.stage(cfg, overrides)


if __name__ == "__main__":
    hydra_app.launch(main, CONF, OUTCOME)
