"""A job of `train.py` or `eval.py`: whatever happens in it becomes a line, an exit code and a result.

Imports no torch, so that a wrong setting is told at once.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mml_lightning.config import ignored, values
from mml_lightning.config.made_by import overrides_beside
from mml_lightning.config.resolve import explain
from mml_lightning.config.settings import Settings, settings_of
from mml_lightning.engine.run_lock import InUse, alone
from mml_lightning.runs import result, tracking
from mml_lightning.utils.distributed import is_first_rank
from mml_lightning.utils.errors import Preempted, RankDied, RunsFailed, UserError, check_address_space, exhausted
from mml_lightning.utils.exit_codes import FAILURE, INTERRUPTED, MISTAKE, PREEMPTED, JobOutcome
from mml_lightning.utils.preemption import LISTENER
from mml_lightning.utils.process import quieten_libraries
from mml_lightning.utils.program import command
from mml_lightning.utils.result_file import read_result

log = logging.getLogger(__name__)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def job(config: DictConfig, do: Callable[[Settings, Sequence[str]], object], outcome: JobOutcome) -> float | None:
    """Do one job; a failure is logged, noted in `outcome`, and leaves the other jobs of a sweep alone.

    Returns the monitored metric of a training run; None of anything else, and of a job that failed.
    """
    quieten_libraries()
    overrides = _typed()
    folder = Path(config.paths.output_dir)
    cfg: Settings | None = None
    failed: BaseException | None = None
    hint = f"continue with: {command()} resume={folder}" if "ckpt" not in config else "start it again"
    try:
        check_address_space()
        cfg = settings_of(config)
        values.check_job(cfg)
        if is_first_rank():
            _refuse_ignored(cfg, overrides, outcome)
        with LISTENER.listen(), alone(folder):
            return _objective(do(cfg, overrides))
    except Preempted as error:
        failed = error
        log.warning("%s; %s", error, hint)
        if cfg is not None:
            tracking.preempted(cfg)
        LISTENER.hand_on()
        outcome.failures.append(PREEMPTED)
        raise
    except KeyboardInterrupt as error:
        failed = error
        log.error("interrupted; %s", hint)
        outcome.failures.append(INTERRUPTED)
        raise
    except (UserError, OmegaConfBaseException) as error:
        failed = error if isinstance(error, UserError) else UserError(explain(error))
        log.error("error: %s", failed)
        outcome.failures.append(MISTAKE)
        if is_first_rank():
            outcome.restore_stashed(folder)
    except (RunsFailed, RankDied) as error:
        failed = error
        log.error("error: %s", error)
        outcome.failures.append(FAILURE)
    except Exception as error:  # logged with its traceback; the sweep goes on
        failed = _told(error, folder, overrides, hint, outcome.tracebacks)
        outcome.failures.append(FAILURE)
    finally:
        outcome.error = failed or outcome.error
        if cfg is not None:
            tracking.close(cfg, failed is not None)
        if failed is not None and HydraConfig.get().mode == RunMode.MULTIRUN:
            result.record_failure(cfg or folder, overrides, failed)
        elif isinstance(failed, UserError) and not isinstance(failed, InUse):
            result.discard_unstarted(folder)
    return None


def _refuse_ignored(cfg: Settings, overrides: Sequence[str], outcome: JobOutcome) -> None:
    """Of what was typed, not of what `resume=` and `ckpt=` have brought along.

    Raises:
        UserError: a setting does nothing here.
    """
    earlier = outcome.brought
    if cfg.measures_only:  # maybe a job of a sweep, in another process than that of the command line
        earlier = overrides_beside(Path(str(cfg.ckpt)).expanduser(), overrides) or []
    typed = [word for word in overrides if word not in earlier]
    ignored.check(cfg, typed, HydraConfig.get().mode == RunMode.MULTIRUN)


def _objective(result: object) -> float | None:
    told = result.get("monitored") if isinstance(result, dict) else None
    return float(told["value"]) if told and told["value"] is not None else None


def _typed() -> list[str]:
    """The overrides of the job."""
    words = HydraConfig.get().overrides.task
    try:
        return list(words)
    except OmegaConfBaseException:  # one looks up what is not there, which the settings tell
        raw = OmegaConf.to_container(words)
        assert isinstance(raw, list)
        return list(map(str, raw))


def _told(error: Exception, folder: Path, overrides: Sequence[str], hint: str, tracebacks: bool) -> Exception:
    """Log an error that nobody foresaw; what the result of the job is to say."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        log.error("error: %s: %s; free some space, then %s", error.filename, error.strerror, hint)
        return error
    if not tracebacks and (spent := exhausted(error)):
        log.error("error: %s; then %s", spent, hint)
        return UserError(spent)
    if not tracebacks and read_result(folder) is None:
        failed = not_begun(error, overrides)
        log.error("error: %s", failed)
        return failed
    log.exception("the run failed")
    return error


def not_begun(error: Exception, overrides: Sequence[str]) -> UserError:
    """What is said of an error of a library that kept a run from beginning: mostly a setting of a kind that no check
    knows to be wrong, so the settings that were typed are named."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    if type(error).__module__.startswith("torch._inductor"):
        why = reason.partition(" Set TORCH")[0]
        off = "leave out step.compile=true (of --ways: compiled)"
        return UserError(f"torch.compile fails here ({why}); is a C++ compiler installed? {off}")
    typed = " ".join(overrides)[:300] or "none"
    return UserError(f"{reason}; is a setting of the wrong type? typed: {typed} (HYDRA_FULL_ERROR=1 shows where)")
