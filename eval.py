"""Measure what was trained: python eval.py (or mml eval) ckpt=<run directory | zoo file | alias> views=<views>"""

from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from mml_lightning.cli import hydra_app
from mml_lightning.config import resolvers
from mml_lightning.config.settings import Settings
from mml_lightning.utils.exit_codes import JobOutcome
from mml_lightning.utils.program import CONF

OUTCOME = JobOutcome()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="eval")
def main(cfg: DictConfig) -> None:
    resolvers.register()  # named here, so that a job on another machine brings them along
    from mml_lightning.engine import job

    job.job(cfg, work, OUTCOME)


def work(cfg: Settings, overrides: Sequence[str]) -> object:
    """Lightning is imported here, behind the checks of the settings, so that a mistake is told at once."""
    from mml_lightning.engine import evaluate

    return evaluate.evaluate(cfg, overrides)


if __name__ == "__main__":
    hydra_app.launch(main, CONF, OUTCOME)
