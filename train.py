"""Train one stage, a pipeline of stages, or a sweep: python train.py --help"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from mml_lightning.cli import hydra_app
from mml_lightning.config import resolvers
from mml_lightning.utils.exit_codes import JobOutcome

OUTCOME = JobOutcome()


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    resolvers.register()  # named here, so that a job on another machine brings them along
    from mml_lightning.engine import (
        job,
        train,  # torch is imported here, so that --help is instant
    )
    from mml_lightning.pipelines import run_pipeline

    job.job(cfg, run_pipeline.pipeline if run_pipeline.is_pipeline(cfg) else train.stage, OUTCOME)


if __name__ == "__main__":
    hydra_app.launch(main, Path(__file__).parent / "conf", OUTCOME)
