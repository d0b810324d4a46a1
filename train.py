"""Train one stage, a pipeline of stages, or a sweep: python train.py --help"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from mml_lightning import arguments


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    arguments.resolvers.register()  # named here, so that a job on another machine brings them along
    from mml_lightning import run  # torch is imported here, so that --help is instant
    from mml_lightning.pipelines import pipeline

    run.job(cfg, pipeline.pipeline if pipeline.is_pipeline(cfg) else run.stage)


if __name__ == "__main__":
    arguments.launch(main, Path(__file__).parent / "conf")
