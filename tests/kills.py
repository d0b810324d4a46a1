"""Kill training runs at random moments with SIGKILL, continue them, and compare the end with runs left alone.

    python tests/kills.py --kills 100

Every run is a real one (`train.stage`) in a process of its own, forked from one that has imported torch, so
that a start costs a fraction of a second. Half of the kills come at a random time, half while a checkpoint is being
written; half reach the process alone, half its loader's workers too. A run that survives to its end must equal, to the
last bit, the same run that nobody touched: weights, logits, metrics, every row of the log.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

SIZES = {"train": 24, "val": 11, "test": 11}
SMALL = (
    *(f"data.videos.{split}={count}" for split, count in SIZES.items()),
    *("data.batch_size=4", "data.eval_batch_size=8", "data.workers=0", "schedule.epochs=2", "trainer.num_threads=1"),
    *("trainer.accelerator=cpu", "sampling=random", "sampling.num_segments=4", "backbone.net.width=8"),
    *("transforms.output=32", "transforms.short_side=36", "callbacks.checkpoint_every_steps=1"),
)
MML = ("stage=mml", "modality=[rgb,flow]", "optimizer.clip_norm=0.5")
RUNS = {
    "ce": (),
    "mml": (*MML, "trainer.accumulate_grad_batches=2"),
    "ce, 2 workers": ("data.workers=2", "schedule=cosine"),
    "mml, 2 workers": (*MML, "data.workers=2"),
}


def started(folder: Path, overrides: list[str]) -> int:
    """Begin or continue a run in a process of its own, the leader of a group; its pid."""
    sys.stdout.flush()
    folder.parent.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _train(folder, overrides)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _train(folder: Path, overrides: list[str]) -> None:
    from hydra import initialize_config_dir

    from mml_lightning.config import resolvers
    from mml_lightning.config.compose import compose
    from mml_lightning.engine import train
    from mml_lightning.utils.process import quieten_libraries

    os.environ["MML_STAMP"] = "stamp"
    resolvers.register()
    quieten_libraries()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=[*overrides, f"paths.output_dir={folder}", "resume=auto"])
    train.stage(cfg, overrides)


def finished(pid: int) -> bool:
    """Wait for the end of a process; True if it ended well."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def differences(one: Path, two: Path) -> list[str]:
    """What two finished runs differ in."""
    found = []
    for file in sorted((one / "peers").glob("*.pt")):
        first, second = (
            torch.load(folder / "peers" / file.name, weights_only=True)["state_dict"] for folder in (one, two)
        )
        found += [f"{file.stem} {key}" for key in first if not torch.equal(first[key], second[key])]
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, two)]
    found += [key for key in ("status", "metrics", "steps", "epochs") if results[0][key] != results[1][key]]
    for split in ("val", "test"):
        with np.load(one / f"predictions/{split}.npz") as scores, np.load(two / f"predictions/{split}.npz") as others:
            found += [f"{split} {k}" for k in scores.files if k != "meta" and not np.array_equal(scores[k], others[k])]
    if (one / "logs/metrics.csv").read_bytes() != (two / "logs/metrics.csv").read_bytes():
        found.append("logs/metrics.csv")
    return found


class Killer:
    """Kills runs, and counts at what moments."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()

    def kill(self, pid: int, folder: Path, seconds: float) -> bool:
        """Wait for the moment and kill; False if the run, which takes so many seconds alone, ended before."""
        saving, group = self.random.random() < 0.5, self.random.random() < 0.5
        until = time.monotonic() + self.random.uniform(0.0, 0.6 * seconds)
        skipped = self.random.randrange(4)  # not always the first checkpoint
        earlier = self._written(folder)
        while time.monotonic() < until or saving:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                assert os.waitstatus_to_exitcode(status) == 0, f"{folder} failed by itself"
                return False
            if saving and (files := self._written(folder) - earlier):
                if skipped == 0:
                    break
                skipped, earlier = skipped - 1, earlier | files
            time.sleep(0.0005 if saving else 0.005)
        (os.killpg if group and os.getpgid(pid) == pid else os.kill)(pid, signal.SIGKILL)
        finished(pid)
        self.counts["kills"] += 1
        self.counts["while a checkpoint was written"] += bool(self._written(folder) - earlier)
        self.counts["before the first checkpoint"] += not list((folder / "checkpoints").glob("*.ckpt"))
        return True

    @staticmethod
    def _written(folder: Path) -> set[str]:
        """Files that have no name yet; those of an earlier kill stay until the next start trains."""
        return {path.name for path in (folder / "checkpoints").glob(".*.tmp")}


def torment(kills: int, root: Path, data: Path, seed: int, say: Callable[[str], None]) -> list[str]:
    """Run and kill until there were so many kills; returns what any run differed in from one that was left alone."""
    torch.set_num_threads(1)
    base = [*SMALL, f"data.root={data / 'data'}", f"paths.cache={data / 'cache'}", f"paths.root={root}"]
    killer, wrong, done = Killer(seed), [], Counter[str]()
    alone: dict[str, float] = {}
    for name, own in RUNS.items():
        began = time.monotonic()
        assert finished(started(root / "alone" / name.replace(", ", "_"), [*base, *own])), name
        alone[name] = time.monotonic() - began
        say(f"alone: {name} takes {alone[name]:.1f} s")
    number = 0
    while killer.counts["kills"] < kills:
        name = list(RUNS)[number % len(RUNS)]
        folder, number = root / f"killed_{number}", number + 1
        while True:
            pid = started(folder, [*base, *RUNS[name]])
            if killer.counts["kills"] >= kills:
                assert finished(pid), folder
                break
            if not killer.kill(pid, folder, alone[name]):
                break
        found = differences(root / "alone" / name.replace(", ", "_"), folder)
        wrong += [f"{name}: {what}" for what in found]
        done[name] += 1
        say(f"{killer.counts['kills']:>4} kills  {name}: {', '.join(found) or 'equal'}")
    told = ", ".join(f"{count} {what}" for what, count in [*killer.counts.items(), *done.items()])
    say(f"{told} runs, {len(wrong)} differences")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from mml_lightning.data.demo import prepare_demo

    with tempfile.TemporaryDirectory() as folder:
        prepare_demo(Path(folder) / "demo" / "data", **SIZES, workers=1, progress=False)
        began = time.monotonic()
        wrong = torment(args.kills, Path(folder) / "runs", Path(folder) / "demo", args.seed, print)
        print(f"{time.monotonic() - began:.0f} s")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
