"""Forged runs, zoo files, packs and folders of configs. Each function changes the copy of a good run, or makes
something in the world's `foreign` folder."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from mml_lightning.data.records.pack_index import read_manifest, write_manifest
from tests.attacks.payloads import PAYLOADS, filled
from tests.attacks.world import Touch, World

Command = tuple[str, ...]
OVERRIDES = ".hydra/overrides.yaml"
OWN = ("checksum", "format", "version")  # fields of the manifest of a pack that are written with it
SCRIPT = "<script>alert(1)</script>\"><img src=x onerror=alert(2)>'"
ESCAPE = "\x1b]0;pwned\x07\x1b[2J\u202egpj"


def change_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def commands(world: World) -> list[Command]:
    """Everything that reads a run directory, or weights with a result beside them; first what reads its overrides."""
    run, zoo, words = str(world.forged), str(world.foreign / "zoo" / "rgb.pt"), world.ground.words()
    return [
        ("train", f"resume={run}"),
        ("eval", f"ckpt={run}"),
        ("eval", f"ckpt={run}/checkpoints/last.ckpt", "split=val"),
        ("eval", f"ckpt={zoo}"),
        ("mml", "rerun", run, "--out", "report/again"),
        ("mml", "report", str(world.forged.parent), "--out", "report"),
        ("train", *world.ground.saved("trainer=smoke"), "resume=auto", f"hydra.run.dir={run}"),
        ("train", *words[:-2], words[-1], f"init.all={zoo}"),
        ("mml", "score", run),
        ("mml", "ensemble", f"a={run}", f"b={run}", "--out", "report"),
        ("mml", "doctor", f"a={run}", f"b={run}", "--html", "report/doctor.html"),
        ("mml", "errors", run, "--out", "report/errors"),
    ]


OF_OVERRIDES = 6
"""So many of the commands read what was typed for a run."""


def say(world: World, overrides: object) -> None:
    """Overrides in every file that a run or a network can bring them in."""
    run = world.forged
    (run / OVERRIDES).write_text(json.dumps(overrides))
    for name in ("result.json", "manifest.json"):
        change_json(run / name, lambda told: told.update(overrides=overrides))
    make_zoo(world, overrides)


def make_zoo(world: World, overrides: object = None) -> Path:
    """Weights with a result beside them; by default with the overrides of the good run."""
    overrides = rootless(world) if overrides is None else overrides
    zoo = world.foreign / "zoo"
    shutil.rmtree(zoo, ignore_errors=True)
    zoo.mkdir()
    shutil.copyfile(world.good / "peers" / "rgb.pt", zoo / "rgb.pt")
    result = json.loads((world.good / "result.json").read_text())
    (zoo / "result.json").write_text(json.dumps({**result, "overrides": overrides}))
    return zoo


def rootless(world: World) -> list[str]:
    """What was typed for the good run, but for its places: weights lie anywhere."""
    return [word for word in json.loads((world.good / OVERRIDES).read_text()) if not word.startswith("paths.")]


def payload(name: str) -> Callable[[World], None]:
    def forge(world: World) -> None:
        words = filled(name, world.outside, world.canary)
        good = [word for word in json.loads((world.good / OVERRIDES).read_text()) if not _same(word, words)]
        say(world, [*good, *words])
        make_zoo(world, [*(word for word in rootless(world) if word in good), *words])

    return forge


def _same(word: str, words: Sequence[str]) -> bool:
    return any(word.partition("=")[0] == other.partition("=")[0] for other in words)


# ------------------------------------------------------------ runs


def tagged(world: World) -> None:
    """A tag of YAML that calls."""
    text = f"- !!python/object/apply:os.system ['touch {world.canary}']\n- seed=1\n"
    (world.forged / OVERRIDES).write_text(text)
    (world.forged / ".hydra/config.yaml").write_text(
        f"objective: !!python/object/apply:os.system ['touch {world.canary}']\n"
    )


def aliases(world: World) -> None:
    """A kilobyte of YAML that unfolds to gigabytes."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    for name in ("config.yaml", "overrides.yaml"):
        (world.forged / ".hydra" / name).write_text("\n".join([*lines, "objective: {edges: *a11}"]) + "\n")


def nested(depth: int) -> Callable[[World], None]:
    def forge(world: World) -> None:
        deep = "[" * depth + "]" * depth
        for name in ("result.json", "manifest.json"):
            text = (world.forged / name).read_text().rstrip()
            (world.forged / name).write_text(text[:-1].rstrip() + f', "overrides": {deep}}}')
        (world.forged / OVERRIDES).write_text(deep)
        (world.forged / "runs.json").write_text(deep)
        make_zoo(world)
        (world.foreign / "zoo" / "result.json").write_text(f'{{"overrides": {deep}}}')

    return forge


def huge_numbers(world: World) -> None:
    for name in ("result.json", "manifest.json"):
        text = (world.forged / name).read_text().rstrip()
        (world.forged / name).write_text(text[:-1].rstrip() + f', "seed": {"9" * 4000}, "wall_s": 1e999}}')


def twice(world: World) -> None:
    """A key that stands twice: which of them is meant?"""
    for name in ("result.json", "manifest.json"):
        text = (world.forged / name).read_text().rstrip()
        (world.forged / name).write_text(text[:-1].rstrip() + ', "overrides": ["hydra.run.dir=x"]}')


def other_kinds(world: World) -> None:
    def change(told: dict[str, Any]) -> None:
        told.update({key: [{"a": 1}] for key in list(told)} | {"schema": told.get("schema"), "status": "completed"})

    for name in ("result.json", "manifest.json"):
        change_json(world.forged / name, change)


def link(name: str, to: str) -> Callable[[World], None]:
    """A link in the run directory that leads to something of the victim."""

    def forge(world: World) -> None:
        path, target = world.forged / name, world.place / to
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, world.foreign / "copied", dirs_exist_ok=True)
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.symlink_to(target, target_is_directory=target.is_dir())

    return forge


def settings_of_wandb(world: World) -> None:
    (world.forged / "wandb").mkdir()
    (world.forged / "wandb/settings").write_text("[default]\nbase_url = http://127.0.0.1:9\n")
    say(world, [*json.loads((world.good / OVERRIDES).read_text()), "logger=wandb"])


def environment(world: World) -> None:
    """What runs code in every program that is started with it."""
    bad = {
        **{"PYTHONPATH": str(world.outside), "LD_PRELOAD": str(world.outside / "x.so"), "PATH": str(world.outside)},
        **{"PYTHONSTARTUP": str(world.outside / "evilmod.py"), "BASH_ENV": str(world.outside / "x"), "HOME": "/x"},
        **{"OMP_NUM_THREADS": "1\nLD_PRELOAD=x", "PYTORCH_CUDA\nLD_PRELOAD": "x", "MML_X=1": "y"},
        "TORCH_LOGS": "evilmod.x",
    }
    change_json(world.forged / "manifest.json", lambda told: told["starts"][0]["environment"].update(bad))


def start_elsewhere(world: World) -> None:
    """A folder of a start with modules that stand before Python's own."""
    folder = world.foreign / "start"
    (folder / "mml_lightning").mkdir(parents=True)
    for name in ("json.py", "mml_lightning/__init__.py", "sitecustomize.py", "usercustomize.py"):
        (folder / name).write_text((world.outside / "evilmod.py").read_text())
    change_json(world.forged / "manifest.json", lambda told: told["starts"][0].update(folder=str(folder)))


def start_with(**fields: Any) -> Callable[[World], None]:
    def forge(world: World) -> None:
        change_json(world.forged / "manifest.json", lambda told: told["starts"][0].update(fields))

    return forge


def manifest_with(**fields: Any) -> Callable[[World], None]:
    return lambda world: change_json(world.forged / "manifest.json", lambda told: told.update(fields))


def result_with(**fields: Any) -> Callable[[World], None]:
    def forge(world: World) -> None:
        change_json(world.forged / "result.json", lambda told: told.update(fields))
        make_zoo(world)
        change_json(world.foreign / "zoo/result.json", lambda told: told.update(fields))

    return forge


def pages(world: World) -> None:
    """Words for pages and terminals, everywhere."""

    def change(told: dict[str, Any]) -> None:
        said = f"{SCRIPT}{ESCAPE}"
        told.update(name=said, stage=said, setup=said, data=said, backbone=said, views=said, command=said, git_sha=said)
        told.update(overrides=[f"{said}={said}"], data_fingerprint=said, decoder={"name": said, "version": said})
        told["peers"] = {said: {"modality": said, "init": said}, "rgb": {"modality": "rgb", "init": said}}
        told["metrics"] = {"test": {said: {"top1": 1.0}, "rgb": {"top1": 2.0, "../../x": 1.0}}, said: {"a": {"b": 1}}}
        told["modality"] = [said]

    change_json(world.forged / "result.json", change)
    failed = world.forged.with_name("failed")
    failed.mkdir()
    (failed / "result.json").write_text(json.dumps({"schema": 1, "status": "failed", "error": f"{SCRIPT}{ESCAPE}"}))
    edges = [{"teacher": SCRIPT, "student": "rgb", "kind": SCRIPT}]
    (world.forged / ".hydra/config.yaml").write_text(yaml.safe_dump({"objective": {"edges": edges}, "name": SCRIPT}))
    folder = world.forged / "predictions"
    (folder / "test_per_class.csv").write_text(f"class,rgb,videos\n{SCRIPT},1,1\n")
    (world.forged / "logs").mkdir(exist_ok=True)
    (world.forged / "logs/metrics.csv").write_text(f"epoch,step,val/{SCRIPT}/top1\n0,1,1\n1,2,2\n")


def other_folders(world: World) -> None:
    """Names in a result that make paths."""
    (world.outside / "x_per_class.csv").write_text("class,rgb\nsecret,1\n")
    key = "../../../../../../outside/x/rgb"
    change_json(world.forged / "result.json", lambda told: told["metrics"].update(test={key: {"top1": 1.0}}))
    change_json(world.forged / "result.json", lambda told: told.update(zoo=str(world.outside), reused=True))
    shutil.rmtree(world.forged / "peers")


def state(world: World) -> None:
    """runs.json of a pipeline whose rows lead elsewhere and whose tables are of a wrong form."""
    rows = [{"key": "x", "seed": 0, "state": "done", "folder": "../../../../outside", "run": SCRIPT, "note": ESCAPE}]
    tables = {"t": {"title": SCRIPT, "columns": [SCRIPT], "rows": {SCRIPT: ["x/rgb"]}}, "u": 5, "../x": {"rows": 3}}
    told = {"schema": 1, "setup": SCRIPT, "base": "${oc.env:HOME}", "tables": tables, "runs": rows}
    (world.forged / "runs.json").write_text(json.dumps(told))


def pickled(name: str, legacy: bool = False) -> Callable[[World], None]:
    """Code in place of weights."""

    def forge(world: World) -> None:
        content = {"state_dict": Touch(world.canary), "loops": {}, "hyper_parameters": {}, "global_step": 1}
        file = world.forged / name
        if file.suffix == ".npz":
            np.savez(file, ids=np.array([Touch(world.canary)], dtype=object), target=np.zeros(1))
        else:
            torch.save(content, file, _use_new_zipfile_serialization=not legacy)
        make_zoo(world)
        torch.save(content, world.foreign / "zoo/rgb.pt", _use_new_zipfile_serialization=not legacy)

    return forge


def plain_pickle(world: World) -> None:
    for name in ("peers/rgb.pt", "checkpoints/last.ckpt", "predictions/test.npz"):
        (world.forged / name).write_bytes(pickle.dumps(Touch(world.canary)))
    make_zoo(world)
    (world.foreign / "zoo/rgb.pt").write_bytes(pickle.dumps(Touch(world.canary)))


def bomb(world: World) -> None:
    """Weights of a few kilobytes that would take gigabytes."""
    good = io.BytesIO()
    torch.save({"state_dict": {"x": torch.zeros(300_000_000 // 4)}}, good)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(world.forged / "peers/rgb.pt", "w", 8) as packed:
        for name in source.namelist():
            packed.writestr(name, source.read(name))


EVIL = {"_target_": "evilmod.run"}


def weights_with(change: Callable[[dict[str, Any]], object]) -> Callable[[World], None]:
    """A good file of weights, a field of it changed."""

    def forge(world: World) -> None:
        entry = torch.load(world.good / "peers/rgb.pt", weights_only=True)
        change(entry)
        torch.save(entry, world.forged / "peers/rgb.pt")
        make_zoo(world)
        torch.save(entry, world.foreign / "zoo/rgb.pt")

    return forge


def checkpoint_with(change: Callable[[dict[str, Any]], object]) -> Callable[[World], None]:
    def forge(world: World) -> None:
        content = torch.load(world.good / "checkpoints/last.ckpt", weights_only=True)
        change(content["hyper_parameters"])
        torch.save(content, world.forged / "checkpoints/last.ckpt")
        make_zoo(world)

    return forge


def _rename_peer(told: dict[str, Any]) -> None:
    told["peers"]["../../../../../../outside/x"] = told["peers"].pop("rgb")


RUNS: dict[str, Callable[[World], None]] = {
    **{f"overrides: {name}": payload(name) for name in PAYLOADS},
    "yaml tags": tagged,
    "yaml aliases": aliases,
    "nested to the end of the stack": nested(200_000),
    "nested deeply": nested(900),
    "nested too deeply for us": nested(70),
    "numbers of thousands of digits": huge_numbers,
    "a key twice": twice,
    "fields of other kinds": other_kinds,
    "overrides that are no list": lambda world: say(world, {"a": 1}),
    "overrides that are no words": lambda world: say(world, [1, None, ["a=b"], {"a": 1}]),
    "overrides by the million": lambda world: say(world, ["seed=1"] * 100_000),
    "link: log": link("train.log", "home/.bashrc"),
    "link: log of a measurement": link("eval.log", "outside/notes.txt"),
    "link: settings": link(".hydra/hydra.yaml", "home/.bashrc"),
    "link: folder of settings": link(".hydra", "outside"),
    "link: checkpoints": link("checkpoints", "outside"),
    "link: logs": link("logs", "outside"),
    "link: to nothing": link("quarantine.csv", "outside/new.csv"),
    "settings of W&B": settings_of_wandb,
    "manifest: environment": environment,
    "manifest: folder": start_elsewhere,
    "manifest: threads": start_with(threads="1,${oc.env:HOME}"),
    "manifest: threads without end": start_with(threads=10**12),
    "manifest: program": manifest_with(command="rm -rf x", python="/bin/false"),
    "manifest: commit": start_with(git_sha="--upload-pack=touch x", git_changes="-x"),
    "manifest: name": manifest_with(name="x' hydra.run.dir='/x"),
    "manifest: name that looks up": manifest_with(name="${oc.env:HOME}"),
    "manifest: name that leads out": manifest_with(name="x/../../../../outside/x"),
    "manifest: no start": manifest_with(starts=[]),
    "manifest: starts of another kind": manifest_with(starts=[5]),
    "result: zoo": result_with(zoo="/dev", reused=True),
    "result: numbers that are none": result_with(wall_s="x", seed=[1], speed={"conditions": 1}, resumed=[5]),
    "result: words for pages and terminals": pages,
    "result: names that are paths": other_folders,
    "state of a pipeline": state,
    "pickle: zoo file": pickled("peers/rgb.pt"),
    "pickle: zoo file, old": pickled("peers/rgb.pt", legacy=True),
    "pickle: checkpoint": pickled("checkpoints/last.ckpt"),
    "pickle: checkpoint, old": pickled("checkpoints/last.ckpt", legacy=True),
    "pickle: scores": pickled("predictions/test.npz"),
    "pickle: plain": plain_pickle,
    "archive that unfolds": bomb,
    "weights: builder": weights_with(lambda entry: entry["arch"].update(builder="os.system")),
    "weights: target": weights_with(lambda entry: entry["arch"].update(_target_="os.system")),
    "weights: builder that can be imported": weights_with(lambda entry: entry["arch"].update(builder="evilmod.run")),
    "weights: preparation": weights_with(lambda entry: entry["modality"].update(prepare=dict(EVIL))),
    "weights: preparation, partial": weights_with(
        lambda entry: entry["modality"].update(prepare={**EVIL, "_partial_": True})
    ),
    "weights: modality": weights_with(lambda entry: entry["modality"].update(name="../../../../outside/x")),
    "weights: peer": weights_with(lambda entry: entry["provenance"].update(peer="../../../../outside/x")),
    "weights: head": weights_with(lambda entry: entry.update(classes={"../../../../outside/x": ["a", "b"]})),
    "weights: words": weights_with(lambda entry: entry.update(classes={"label": [ESCAPE, SCRIPT]})),
    "checkpoint: peer": checkpoint_with(_rename_peer),
    "checkpoint: config": checkpoint_with(lambda told: told["config"].update(name="../../x", sampling=[1])),
}
"""What is forged in a run directory; `commands` are tried with each."""


# ------------------------------------------------------------ packs


def pack_with(change: Callable[[dict[str, Any]], object]) -> Callable[[World], None]:
    """A good pack whose manifest says something else, with the right sum."""

    def forge(world: World) -> None:
        folder = make_pack(world)
        told = read_manifest(folder) or {}
        change(told)
        write_manifest(folder, {key: value for key, value in told.items() if key not in OWN})

    return forge


def make_pack(world: World) -> Path:
    shutil.copyfile(world.good / "peers/rgb.pt", world.foreign / "rgb.pt")
    shutil.copytree(world.ground.folder / "pack", world.foreign / "pack")
    return world.foreign / "pack"


def pack_lines(change: Callable[[str], str]) -> Callable[[World], None]:
    """A good pack whose list of a shard or of records says something else, with the right sums."""

    def forge(world: World) -> None:
        import hashlib

        folder = make_pack(world)
        told = read_manifest(folder) or {}
        for file in folder.glob("*.jsonl"):
            file.write_text(change(file.read_text()))
            told["sha256"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
        write_manifest(folder, {key: value for key, value in told.items() if key not in OWN})

    return forge


def pack_text(text: str) -> Callable[[World], None]:
    return lambda world: (make_pack(world) / "manifest.json").write_text(text) and None


PACKS: dict[str, Callable[[World], None]] = {
    "nested": pack_text("[" * 200_000 + "]" * 200_000),
    "digits": pack_text('{"shards": ' + "9" * 100_000 + "}"),
    "head that is a path": pack_with(
        lambda told: told.update(heads={"../../../../outside/x": next(iter(told["heads"].values()))})
    ),
    "reader": pack_with(lambda told: told.update(_target_="os.system", reader={"_target_": "os.system"})),
    "words": pack_with(lambda told: told.update(left_out={SCRIPT: ESCAPE})),
    "folders that lead out": pack_lines(lambda text: text.replace('"folder":"', '"folder":"../../../../outside/')),
    "ids that lead out": pack_lines(lambda text: text.replace('"id":"', '"id":"../../../../../../outside/')),
    "ids for pages": pack_lines(lambda text: text.replace('"id":"', '"id":"<script>alert(1)</script>\\u001b[2J')),
    "deep lines": pack_lines(lambda text: "[" * 100_000 + "]" * 100_000 + "\n" + text),
}


def pack_commands(world: World) -> list[Command]:
    place, small = f"data.root={world.foreign / 'pack'}", world.ground.words()[1:-3]
    return [
        ("train", "data=pack", place, *small),
        ("eval", "data=pack", place, *_measuring(small), f"ckpt={world.foreign / 'rgb.pt'}"),
        ("mml", "check", "data=pack", place, *small, "--no-timing"),
        ("mml", "pack", "data=pack", place, *small, "--out", "report/pack"),
        ("mml", "flow", "data=pack", place, *small, "--export", "report/flow"),
    ]


# ------------------------------------------------------------ folders of configs


def config(text: str, **more: str) -> Callable[[World], None]:
    """A folder of configs with experiment=evil; {o} and {c} as in payloads."""

    def forge(world: World) -> None:
        for name, content in {"experiment/evil": text, **more}.items():
            file = world.foreign / "conf" / f"{name}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            said = content.replace("{o}", str(world.outside)).replace("{c}", str(world.canary))
            file.write_text(f"# @package _global_\n{said}\n" if name == "experiment/evil" else said)

    return forge


def alias(*making: str) -> Callable[[World], None]:
    """An alias that means an entry of the zoo, and says how such an entry is made."""

    def forge(world: World) -> None:
        words = json.dumps(["stage=ce", "modality=[rgb]", *making])
        config(
            f"aliases: {{ce: {{run: mine, peer: rgb, make: {words}}}}}\ninit: {{all: ce, rgb: ce}}\nstage: {{name: x}}"
        )(world)
        for path in ("csv_videos/tiny/mine/seed0",):
            shutil.copytree(world.good / "peers", world.ground.root / "zoo" / path, dirs_exist_ok=True)

    return forge


CALL = "{_target_: shutil.copyfile, src: '{o}/notes.txt', dst: '{c}'}"
CONFIGS: dict[str, Callable[[World], None]] = {
    "trust": config(f"trusted: [shutil]\ndata: {{reader: {CALL}}}"),
    "trust of a word": config(f"trusted: shutil\ndata: {{reader: {CALL}}}"),
    "trust by a look-up": config(f"own: [shutil]\ntrusted: ${{own}}\ndata: {{reader: {CALL}}}"),
    "trust of another group": config(
        f"defaults: [{{override /data: evil}}]\ndata: {{reader: {CALL}}}",
        **{"data/evil": "name: evil\ntrusted: [shutil]"},
    ),
    "callback": config(f"hydra: {{callbacks: {{evil: {CALL}}}}}"),
    "callback by a look-up": config(f"evil: {CALL}\nhydra: {{callbacks: {{evil: '${{evil}}'}}}}"),
    "callback by a decoded text": config(
        'hydra: {callbacks: {evil: \'${oc.decode:"{_target_: os.system, command: \\"touch {c}\\"}"}\'}}'
    ),
    "callback by a made table": config("hydra: {callbacks: {evil: '${oc.create:{_target_: os.getcwd}}'}}"),
    "callback by a default": config("hydra: {callbacks: {evil: '${oc.select:none,{_target_: os.getcwd}}'}}"),
    "callbacks by a look-up": config(f"evil: {{x: {CALL}}}\nhydra: {{callbacks: '${{evil}}'}}"),
    "callback of a group": config(
        "defaults: [{override /hydra/callbacks: evil}]", **{"hydra/callbacks/evil": f"evil: {CALL}"}
    ),
    "callback of what ours imports": config(
        "hydra: {callbacks: {evil: {_target_: mml_lightning.zoo.files.torch.load, "
        "f: '{o}/evil.pkl', weights_only: false}}}"
    ),
    "launcher": config(f"hydra: {{launcher: {CALL}}}"),
    "sweeper": config("hydra: {sweeper: {_target_: os.system}}"),
    "swept trust": config(
        "hydra: {mode: MULTIRUN, sweeper: {params: {trusted: '[shutil]', data.reader._target_: os.system}}}"
    ),
    "log factory": config("hydra: {job_logging: {handlers: {x: {(): os.system, command: 'touch {c}'}}}}"),
    "log class": config("hydra: {job_logging: {handlers: {x: {class: evilmod.X}}}}"),
    "log class by a look-up": config("a: os.system\nhydra: {job_logging: {handlers: {x: {class: '${a}'}}}}"),
    "log handler by a look-up": config("a: {(): os.system}\nhydra: {job_logging: {handlers: {x: '${a}'}}}"),
    "log by a name": config("hydra: {job_logging: {handlers: {console: {stream: 'ext://evilmod.x'}}}}"),
    "log of Hydra": config("hydra: {hydra_logging: {handlers: {x: {(): os.system, command: 'touch {c}'}}}}"),
    "log to a host": config(
        "hydra: {job_logging: {handlers: {x: {class: logging.handlers.SocketHandler, host: localhost, port: 9}}}}"
    ),
    "environment": config("hydra: {job: {env_set: {PYTHONPATH: '{o}', LD_PRELOAD: x.so}}}"),
    "folder of settings": config("hydra: {output_subdir: ../../../../outside/x}"),
    "name": config("name: x/../../../../../outside/x"),
    "name by a look-up": config("a: x/../../../../../outside/x\nname: ${a}"),
    "names of dots": config("name: '..'\ndata: {name: '..'}\nbackbone: {name: '..'}"),
    "writer of ours": config(
        "data: {reader: {_target_: mml_lightning.utils.result_file.write_json, path: '{c}', value: 1}}"
    ),
    "writer of tensors": config(
        "data: {reader: {_target_: mml_lightning.utils.files.write_tensors, path: '{c}', content: {a: 1}}}"
    ),
    "reader by a look-up": config(f"evil: {CALL}\ndata: {{reader: '${{evil}}'}}"),
    "reader by a decoded text": config(
        'data: {reader: \'${oc.decode:"{_target_: os.system, command: \\"touch {c}\\"}"}\'}'
    ),
    "reader whose target is looked up": config("a: os\ndata: {reader: {_target_: '${a}.system'}}"),
    "partial optimiser": config("optimizer: {optimizer: {_target_: os.system, _partial_: true, command: 'touch {c}'}}"),
    "schedule": config("schedule: {factor: {_target_: subprocess.run, _args_: [[touch, '{c}']]}}"),
    "network": config('backbone: {net: {_target_: builtins.exec, _args_: [\'open("{c}", "w")\']}}'),
    "tag": config("data: {reader: !!python/object/apply:os.system ['touch {c}']}"),
    "catalogue": config(
        "catalogue: {x: {stage: ce, modality: [rgb], set: ['trusted=[shutil]', 'data.reader._target_=os.system']}}\n"
        "tables: {t: {title: t, columns: [a], rows: {r: [x/rgb]}}}"
    ),
    "pipeline": config(f"pipeline: {{runs: [{{stage: ce, set: ['++hydra.callbacks.x={CALL}']}}]}}"),
    "alias whose command trusts": alias(
        "trusted=[pathlib]", "~data.reader", "+data.reader={{_target_: pathlib.Path.touch, self: '{c}'}}"
    ),
    "log to a file": config(
        "hydra: {job_logging: {formatters: {simple: {format: 'touch {c} # %(message)s'}}, "
        "handlers: {file: {filename: '{o}/notes.txt'}}}}"
    ),
    "log to a file below that of the run": config(
        "hydra: {job_logging: {handlers: {file: {filename: "
        "'${hydra.runtime.output_dir}/../../../../outside/notes.txt'}}}}"
    ),
    "log to a file by a look-up": config(
        "a: ../../../../outside/notes.txt\n"
        "hydra: {job_logging: {handlers: {file: {filename: '${hydra.runtime.output_dir}/${a}'}}}}"
    ),
    "log to a file by the name of the job": config(
        "hydra: {job: {name: ../../../../outside/notes}, job_logging: {handlers: {file: {filename: "
        "'${hydra.runtime.output_dir}/${hydra.job.name}.txt'}}}}"
    ),
    "log of Hydra to a file": config(
        "hydra: {hydra_logging: {handlers: {file: {class: logging.FileHandler, filename: '{o}/notes.txt'}}, "
        "root: {handlers: [file]}}}"
    ),
    "job by a look-up": config("a: {env_set: {PYTHONPATH: '{o}'}}\nhydra: {job: '${a}'}"),
    "environment by a look-up": config("a: {PYTHONPATH: '{o}'}\nhydra: {job: {env_set: '${a}'}}"),
    "shell of a launcher": config(
        "defaults: [{override /hydra/launcher: submitit_slurm}]\nhydra: {launcher: {setup: ['touch {c}']}}"
    ),
    "parameters of a launcher": config(
        "defaults: [{override /hydra/launcher: submitit_slurm}]\n"
        "hydra: {launcher: {additional_parameters: {wrap: 'touch {c}'}}}"
    ),
    "lines of a launcher": config(
        'a: "x\\ntouch {c}"\ndefaults: [{override /hydra/launcher: submitit_slurm}]\n'
        "hydra: {launcher: {comment: '${a}'}}"
    ),
    "launcher by a look-up": config("a: {_target_: os.system}\nhydra: {launcher: '${a}'}"),
    "search path of the first config": config("{}", evil="defaults: [train]\nhydra: {searchpath: ['pkg://evilmod']}"),
}


def config_commands(world: World) -> list[Command]:
    words, place = world.ground.words()[:-2], str(world.foreign / "conf")
    words = [*words, f"data.index={world.ground.csv}"]
    index = [word for word in words if not word.startswith("data=")]
    return [
        ("train", f"--config-dir={place}", *words, "experiment=evil"),
        ("train", f"hydra.searchpath=[{place}]", *words, "experiment=evil"),
        ("train", "-m", f"--config-dir={place}", *words, "experiment=evil", "seed=0,1"),
        ("eval", f"--config-dir={place}", *_measuring(index), "experiment=evil", f"ckpt={world.good / 'peers/rgb.pt'}"),
    ]


def _measuring(words: list[str]) -> list[str]:
    """Those that an evaluation takes."""
    return [word for word in words if not word.startswith(("schedule.", "data.batch_size"))]


def tables(world: World) -> None:
    """Cells that a spreadsheet takes for formulas, in a list of videos."""
    text = world.ground.csv.read_text()
    folder = world.foreign / "table"
    folder.mkdir()
    shutil.copytree(world.ground.csv.parent / "videos", folder / "videos")
    (folder / "videos.csv").write_text(text.replace("class1", "=cmd|' /C calc'!A0").replace("v1,", "@SUM(1),"))


def here(world: World) -> list[str]:
    """What the world's folder of work holds."""
    return sorted(os.listdir(world.work))
