"""Measure what was trained: python eval.py ckpt=<run directory | zoo file | alias> views=<views>"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from mml_lightning import arguments


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
def main(cfg: DictConfig) -> None:
    arguments.resolvers.register()  # named here, so that a job on another machine brings them along
    from mml_lightning import evaluate, run

    run.job(cfg, evaluate.evaluate)


if __name__ == "__main__":
    arguments.launch(main, Path(__file__).parent / "conf")
