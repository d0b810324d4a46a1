"""A Slurm of one node on this machine, from the distribution's packages (`apt-get install slurm-wlm`), run as root.

    with slurm.cluster(folder) as environment: subprocess.run(["sbatch", …], env=environment)

No accounts and no keys: messages are not signed, so it listens on the loopback interface only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.patience import LONGEST, wait_for

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"}
CONFIG = """\
ClusterName=alone
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmctldPort={controller}
SlurmdPort={daemon}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=30
RequeueExit=75
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no cluster can be had here; None where it can."""
    if os.geteuid() != 0:
        return "the daemons of Slurm need root"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"{', '.join(absent)} not installed (apt-get install slurm-wlm)" if absent else None


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start the daemons; gives the environment in which Slurm's commands find them."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    cores = subprocess.run(["slurmd", "-C"], capture_output=True, text=True, check=True).stdout.partition("CPUs=")[2]
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(folder=folder, controller=_port(), daemon=_port(), cores=cores.split()[0]))
    environment = {"SLURM_CONF": str(config)}
    daemons = [
        subprocess.Popen([name, "-D", "-f", str(config), *more], env={**os.environ, **environment})
        for name, more in (("slurmctld", ["-c"]), ("slurmd", ["-N", "localhost"]))
    ]
    try:
        _wait_for_node({**os.environ, **environment}, folder)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(LONGEST)


def state(job: str, environment: dict[str, str]) -> dict[str, str]:
    """What Slurm knows of a job."""
    told = subprocess.run(
        ["scontrol", "-o", "show", "job", job], capture_output=True, text=True, env=environment, check=True
    ).stdout
    return dict(item.split("=", 1) for item in told.split() if "=" in item)


def _wait_for_node(environment: dict[str, str], folder: Path) -> None:
    def up() -> bool:
        told = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, env=environment)
        return told.stdout.strip() in ("idle", "mixed")

    try:
        wait_for(up, "the node")
    except AssertionError as error:
        logs = "\n".join(path.read_text()[-3000:] for path in folder.glob("*.log"))
        raise RuntimeError(f"the node never came up:\n{logs}") from error


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
