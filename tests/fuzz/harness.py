"""Thousands of damaged inputs, each through the functions that train.py, eval.py and the tools call, in one process.

    python -m tests.fuzz.harness --cases 10000 --seed 0      all; --only weights --first 17 --cases 1 repeats one
    python -m tests.fuzz.harness --cases 10000 --part 2/5    the second of five runs that are the whole together

A case is good input with a random damage. It may succeed, or say one line that is meant for the user; a library's
traceback, a line too many, a pause of minutes or a run directory are findings. `(seed, family, number)` decides a
case.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from mml_lightning.cli import config_errors
from mml_lightning.config import resolve, resolvers
from mml_lightning.engine import evaluate, train
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.process import quieten_libraries
from tests.fuzz.cases import CONF, FAMILIES, Ground, Started, Vague, prepare

PATIENCE = 900  # seconds for one case; where a damaged config asks for the whole demo it takes 20 of them to make
MEMORY = 8 * 2**30  # bytes of addresses: a config may ask for a network of any size


class Slow(BaseException):
    """A case took too long."""


@dataclass
class Finding:
    family: str
    number: int
    what: str


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    def ring(number: int, frame: Any) -> None:
        raise Slow(f"not done after {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(ground: Ground, family: str, number: int, seed: int) -> tuple[str, str]:
    """("ok" or "line", what was said) or ("finding", what is wrong)."""
    rng = random.Random(f"{seed}|{family}|{number}")
    line, verdict = "", "line"
    try:
        with in_time():
            FAMILIES[family][1](ground, rng)
        verdict = "ok"
    except Started:
        verdict = "ok"
    except UserError as error:
        line = str(error)
    except Vague as error:
        verdict, line = "vague line", str(error)
    except OmegaConfBaseException as error:  # what run.job makes of it
        line = resolve.explain(error)
    except (Exception, Slow) as error:
        expected = isinstance(error, HydraException | ValueError | TypeError) or config_errors.too_long(error)
        if not config_errors.of_command_line(error) or not expected:
            return "finding", traceback.format_exc(limit=-6)
        line = config_errors.one_line(error, CONF)  # what arguments.launch makes of it
    if verdict != "ok" and (not line.strip() or len(line.splitlines()) > 1):
        return "finding", f"not one line: {line!r}"
    if ground.out.exists():
        shutil.rmtree(ground.out)
        return "finding", f"left a run directory behind; said {line!r}"
    return verdict, line


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """Runs stop where they would begin; nobody is told; memory has an end."""

    def begin(*args: Any, **more: Any) -> None:
        raise Started

    class Begins:
        def __init__(self, *args: Any, **more: Any) -> None:
            raise Started

    originals = train.open_result, evaluate.RunResult
    limit = resource.getrlimit(resource.RLIMIT_AS)
    logging.disable(logging.CRITICAL)
    try:
        train.open_result, evaluate.RunResult = begin, Begins  # type: ignore[assignment, misc]
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, limit[1]))
        with warnings.catch_warnings(), contextlib.redirect_stderr(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        train.open_result, evaluate.RunResult = originals  # type: ignore[misc]
        resource.setrlimit(resource.RLIMIT_AS, limit)
        logging.disable(logging.NOTSET)


def fuzz(
    folder: Path,
    cases: int,
    seed: int = 0,
    only: Sequence[str] = (),
    first: int = 0,
    part: tuple[int, int] = (1, 1),
    tell: Callable[[Finding], object] = lambda finding: None,
) -> tuple[Counter[str], list[Finding]]:
    """How often each family succeeded and said a line, and what was found.

    Args:
        part: (i, n): every n-th case, from the i-th.
        tell: hears of a finding at once.
    """
    outcomes: Counter[str] = Counter()
    findings: list[Finding] = []
    ground = prepare(folder)
    chosen = {name: share for name, (share, _) in FAMILIES.items() if not only or name in only}
    with calm():
        for name, share in chosen.items():
            count = max(1, round(cases * share / sum(chosen.values())))
            for number in range(first + part[0] - 1, first + count, part[1]):
                verdict, told = attempt(ground, name, number, seed)
                outcomes[f"{name}: {verdict}"] += 1
                if verdict == "finding":
                    findings.append(Finding(name, number, told))
                    tell(findings[-1])
    return outcomes, findings


def say(finding: Finding) -> None:
    print(f"--- {finding.family} {finding.number}\n{finding.what}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.harness")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=(), choices=list(FAMILIES))
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each family")
    parser.add_argument("--part", default="1/1", help="i/n: every n-th case, from the i-th")
    args = parser.parse_args(argv)
    part, parts = map(int, args.part.split("/"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ |= {"MML_STAMP": "stamp", "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    torch.set_num_threads(1)
    resolvers.register()
    quieten_libraries()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            outcomes, findings = fuzz(
                Path(folder), args.cases, args.seed, args.only, args.first, part=(part, parts), tell=say
            )
    print(f"{sum(outcomes.values())} cases, {len(findings)} findings, {time.monotonic() - began:.0f} s")
    for name, count in sorted(outcomes.items()):
        print(f"  {name} {count}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
