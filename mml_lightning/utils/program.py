"""Where the programs and configs of this package lie, and how a command of it is typed here.

In a checkout they stand beside the package: `train.py`, `eval.py`, `conf/`. A wheel has them inside the package
(`setup.py` puts them there), and `mml train` and `mml eval` start the same files.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = (PACKAGE / "conf").is_dir()
CONF = (PACKAGE if INSTALLED else PACKAGE.parent) / "conf"
PROGRAMS = PACKAGE / "programs" if INSTALLED else PACKAGE.parent
"""The folder of train.py and eval.py."""
NAMES = ("train", "eval")
STARTED = "MML_COMMAND"
"""Variable with the words that `mml` was started by, for the processes of a run."""


def command(name: str = "train") -> str:
    """What is typed to train or measure: `python train.py` in a checkout, `mml train` where the package is installed or
    the process was started by `mml`."""
    started = os.environ.get(STARTED)
    return f"{started or 'mml'} {name}" if started or INSTALLED else f"python {name}.py"


def typed() -> str:
    """The command line of this process as it was typed."""
    file = Path(sys.argv[0])
    if os.environ.get(STARTED) and file.parent == PROGRAMS and file.stem in NAMES:
        return f"{command(file.stem)} {shlex.join(sys.argv[1:])}".rstrip()
    return shlex.join([Path(sys.executable).name, *sys.argv])
