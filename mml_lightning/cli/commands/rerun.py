"""`mml rerun`: a run once more from its own directory, and whether its numbers are the same."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import FOLDER_NAME
from mml_lightning.utils.program import PROGRAMS, command

NOTED = ("git_sha", "git_changes", "python", "threads")
SHOWN = 6  # differences of a kind that are printed
MOST_THREADS = 4096


def declare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Repeats a run from its directory into a new one, with the settings, the seed and the number of threads of its "
        "first start, and compares weights, scores and metrics bit for bit. Reports what else differs: code, "
        "libraries, machine, data. Exit code 0 if the numbers are equal, 1 if not. The new networks go to the zoo "
        "under <name>_rerun. Relative paths are taken from the current folder, as everywhere."
    )
    parser.add_argument("dir", type=Path, metavar="DIR", help="directory of a finished run")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="overrides: paths.root=elsewhere data.workers=4"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the new directory (default: <DIR>_rerun)")


def run(args: argparse.Namespace) -> None:
    from mml_lightning.runs import manifest
    from mml_lightning.utils.result_file import read_result, write_json

    folder: Path = args.dir.resolve()
    told, result = manifest.read(folder), read_result(folder)
    if told is None:
        steps = sorted(path.parent.name for path in folder.glob(f"*/{manifest.FILE}"))
        raise UserError(
            f"{args.dir} has no {manifest.FILE}; give the directory of one run"
            + (f", such as {args.dir / steps[0]}" if steps else "")
        )
    if (result or {}).get("status") != "completed":
        raise UserError(f"{args.dir} did not finish; continue it with: {command()} resume={args.dir}")
    out: Path = (args.out or folder.with_name(f"{folder.name}_rerun")).resolve()
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; choose another directory with --out DIR")
    start(told, args.overrides, folder, out)
    lines, equal = compare(folder, out)
    lines += conditions(told["starts"][0], manifest.read(out)["starts"][0])  # type: ignore[index]  # it has finished
    print("\n".join(lines))
    write_json(out / "rerun.json", {"of": str(folder), "equal": equal, "lines": lines})
    print(f"{'equal' if equal else 'NOT EQUAL'}: {folder.name} and its rerun in {out}")
    if not equal:
        sys.exit(1)


def start(told: Mapping[str, Any], overrides: Sequence[str], folder: Path, out: Path) -> None:
    """Run train.py as the manifest says; what is typed beside it wins.

    Of a manifest only settings that files are trusted with are taken, see :mod:`config.saved_overrides`, and
    only the variables that manifests have: neither its folder nor its program.

    Args:
        told: a manifest as :func:`mml_lightning.runs.manifest.read` gives it.

    Raises:
        UserError: the manifest holds something else, or the run failed.
    """
    from mml_lightning.config.saved_overrides import Source, admitted, key_of, quoted
    from mml_lightning.runs import manifest

    first, file = told["starts"][0], folder / manifest.FILE
    kept = [item for item in admitted(told["overrides"], Source(file, folder), overrides) if key_of(item) != "name"]
    if not FOLDER_NAME.fullmatch(told["name"]) or not 0 < first["threads"] <= MOST_THREADS:
        raise UserError(f"{file} is damaged: its name or its number of threads is wrong; give another run")
    own = [quoted("name", f"{told['name']}_rerun"), quoted("hydra.run.dir", out), "hydra.mode=RUN"]
    if not any(key_of(item) == "trainer.num_threads" for item in kept):
        own.append(f"trainer.num_threads={first['threads']}")
    if first["folder"] != str(Path.cwd()):
        print(f"the run was started in {first['folder']}; relative paths are taken from here, {Path.cwd()}", flush=True)
    dropped = ("MML_", "SLURM_")  # of another run that this one may be started from
    variables = {**os.environ, **manifest.environment(first["environment"])}
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "train.py"), *kept, *own, *overrides],
        env={key: value for key, value in variables.items() if not key.startswith(dropped)},
    )
    if done.returncode:
        raise UserError(f"the rerun failed (exit code {done.returncode}); see its output above and {out}")


def compare(one: Path, two: Path) -> tuple[list[str], bool]:
    """Lines on weights, scores and metrics of two finished runs, and whether all of them are equal."""
    found = [*_weights(one, two), *_scores(one, two), *_metrics(one, two)]
    return [f"{what:<8} {name}: {difference or 'equal'}" for what, name, difference in found], not any(
        difference for _, _, difference in found
    )


def conditions(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What else differs between two starts."""
    lines = [f"{key:<8} was {before.get(key)}, is {now[key]}" for key in NOTED if before.get(key) != now[key]]
    for group in ("machine", "versions"):
        then, here = before[group], now[group]
        changed = [key for key in sorted({*then, *here}) if then.get(key) != here.get(key)]
        lines += [f"{group:<8} {key} was {then.get(key)}, is {here.get(key)}" for key in changed[:SHOWN]]
        lines += [f"{group:<8} and {len(changed) - SHOWN} more"] if len(changed) > SHOWN else []
    return lines


def _weights(one: Path, two: Path) -> list[tuple[str, str, str]]:
    import torch

    from mml_lightning.zoo.files import load_peer

    found = []
    for file in sorted((one / "peers").glob("*.pt")):
        first, second = (load_peer(folder / "peers" / file.name)["state_dict"] for folder in (one, two))
        other = [key for key in first if key not in second or not torch.equal(first[key], second[key])]
        alike = [key for key in other if key in second and first[key].shape == second[key].shape]
        largest = max((float((first[key].double() - second[key].double()).abs().max()) for key in alike), default=0.0)
        said = f"{len(other)} of {len(first)} tensors differ, by up to {largest:.3g}" if other else ""
        found.append(("weights", file.stem, said))
    return found


def _scores(one: Path, two: Path) -> list[tuple[str, str, str]]:
    import numpy as np

    found = []
    for file in sorted((one / "predictions").glob("*.npz")):
        (first, ids), (second, others) = (_logits(folder / "predictions" / file.name) for folder in (one, two))
        if ids != others:
            found.append(("scores", file.stem, "of other videos"))
            continue
        for peer in sorted(first):
            alike = peer in second and first[peer].shape == second[peer].shape
            worst = float(np.abs(first[peer] - second[peer]).max()) if alike else float("nan")
            same = alike and np.array_equal(first[peer], second[peer], equal_nan=True)
            found.append(("scores", f"{file.stem} {peer}", "" if same else f"logits differ by up to {worst:.3g}"))
    return found


def _logits(file: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    from mml_lightning.evaluation import predictions

    dump = predictions.load(file)
    return {peer: value.numpy() for peer, value in dump.logits.items()}, dump.ids


def _metrics(one: Path, two: Path) -> list[tuple[str, str, str]]:
    from mml_lightning.utils.result_file import read_result

    first, second = (read_result(folder) or {} for folder in (one, two))
    flat, other = (_flat(result.get("metrics") or {}) for result in (first, second))
    changed = [key for key in sorted({*flat, *other}) if flat.get(key) != other.get(key)]
    said = ", ".join(f"{key} was {flat.get(key)}, is {other.get(key)}" for key in changed[:SHOWN])
    more = f", and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    data = "" if first.get("data_fingerprint") == second.get("data_fingerprint") else "other videos or labels"
    return [("metrics", f"{len(flat)} numbers", said + more), ("data", "fingerprint", data)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
