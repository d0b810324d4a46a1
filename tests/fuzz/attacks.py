"""Attacks composed from the pieces of Hydra's grammar, of YAML and of manifests: one file that came from elsewhere, and
one command that reads it. A finding is code that ran, a file written in another place, or a traceback."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import yaml

from mml_lightning.utils.errors import UserError
from tests.attacks import forged
from tests.attacks.payloads import PAYLOADS, filled
from tests.attacks.world import CRASHED, World

if TYPE_CHECKING:
    from tests.fuzz.cases import Ground

BEFORE = ("", "", "", "+", "++", "~", "-", "--", " ", "/", "+~", "\t", "+/")
ROOTS = (
    *("hydra", "hydra.callbacks", "hydra/callbacks", "hydra.job_logging.handlers.x", "hydra.run", "hydra.job.env_set"),
    *("hydra.launcher", "hydra.sweeper.params", "HYDRA", "hydra.", ".hydra", "_global_.hydra", "data", "data.reader"),
    *("optimizer.optimizer", "schedule.factor", "backbone.net", "paths", "name", "trusted", "experiment", "evil"),
    *("data.name", "stage.name", "logger", "tags", "init", "modality", "aliases.ce", "catalogue", "pipeline.runs"),
    *("tables", "callbacks", "seed", "seeds", "trainer", "views", "resume", "ckpt", "config_dir", "defaults", "", "$a"),
)
TAILS = (
    *("", "", "", "", "._target_", "._args_", "._partial_", "._convert_", "._recursive_", ".evil", ".evil._target_"),
    *(".root", ".zoo", ".cache", ".output_dir", ".dir", ".filename", ".name", ".class", ".0", "@hydra", "@_global_"),
    *("@hydra.callbacks.evil", ".searchpath", ".entity", ".PYTHONPATH", ".make", ".set", "/x", ".$", ".__class__"),
)
CALLED = ("os.system", "torch.load", "pathlib.Path.touch", "subprocess.run", "builtins.exec", "logging.FileHandler")
CALLED += (
    "mml_lightning.utils.result_file.write_json",
    "mml_lightning.runs.result.subprocess.run",
    "hydra.utils.get_object",
)
KEYS = ("_target_", "_args_", "_partial_", "command", "a", "()", "class", "filename", "self", "f", "path", "x.y", "$")
NAMED = ("sgd", "csv", "demo", "rgb", "flow", "evil", "true", "null", "1", "-1", "1e9", "''", "x", "os", "[os]", "???")


def leaf(rng: random.Random, world: World) -> str:
    up, outside = "../" * rng.randrange(1, 9), world.outside
    looked_up = rng.choice(
        ("oc.env:HOME", "evil", "hydra:runtime.cwd", "oc.decode:'[1]'", ".x", "now:%H", "file_stem:a")
    )
    dollar = rng.choice(("${", "$\\{", "\\${", "$$ {", "${${", "$'{", "$ {"))
    paths = (
        f"{outside}/new",
        f"{up}outside/new",
        f"{outside}/notes.txt",
        f"~/{up}x",
        f"{outside}/conf",
        f"..\\{outside}",
    )
    calls = (f"'touch {world.canary}'", str(world.canary), f"{outside}/evil.pkl", "pkg://evilmod", "ext://evilmod.x")
    return rng.choice(
        (rng.choice(CALLED), rng.choice(paths), rng.choice(calls), f"{dollar}{looked_up}}}", rng.choice(NAMED))
    )


def value(rng: random.Random, world: World, depth: int = 0) -> str:
    kind = rng.randrange(10 if depth < 4 else 3)
    if kind < 4:
        return leaf(rng, world)
    inner = value(rng, world, depth + 1)
    if kind < 7:
        more = f", {rng.choice(KEYS)}: {leaf(rng, world)}" if rng.random() < 0.6 else ""
        return f"{{{rng.choice(KEYS)}: {inner}{more}}}"
    quote = rng.choice("'\"")
    other = leaf(rng, world)
    return rng.choice(
        (
            f"[{inner}]",
            f"[{inner},{other}]",
            f"{quote}{inner}{quote}",
            f"{inner},{other}",
            f"range({inner})",
            f"str({inner})",
        )
    )


def override(rng: random.Random, world: World) -> str:
    made = f"{rng.choice(BEFORE)}{rng.choice(ROOTS)}{rng.choice(TAILS)}={value(rng, world)}"
    if rng.random() < 0.15:
        at = rng.randrange(len(made) + 1)
        made = made[:at] + rng.choice(("\\", "$", "{", "}", "'", '"', " ", "=", ".", "@", "\n", "\0", "ä")) + made[at:]
    return made


def overrides(rng: random.Random, world: World) -> list[str]:
    """Of pieces, or those of known attacks, mixed and bent."""
    words: list[str] = []
    while not words or rng.random() < 0.4:
        if rng.random() < 0.35:
            name = rng.choice([name for name in PAYLOADS if name not in ("deep lists", "long")])
            words += filled(name, world.outside, world.canary)
        else:
            words.append(override(rng, world))
    rng.shuffle(words)
    if rng.random() < 0.2:
        at = rng.randrange(len(words))
        words[at] = rng.choice(("+", "++", "~", " ", "-")) + words[at].lstrip("+~")
    return words


def saved(rng: random.Random, world: World) -> forged.Command:
    """In the files of a run, or beside weights."""
    world.forge()
    words = overrides(rng, world)
    if rng.random() < 0.5:
        good = json.loads((world.good / forged.OVERRIDES).read_text())
        words = [*good, *words] if rng.random() < 0.7 else [*words, *good]
    forged.say(world, words)
    if rng.random() < 0.2:
        (world.forged / forged.OVERRIDES).write_text("".join(f"- {word}\n" for word in words))
    return rng.choice(forged.commands(world)[: forged.OF_OVERRIDES])


def manifest(rng: random.Random, world: World) -> forged.Command:
    """Fields of a manifest, its environment first of all."""
    world.forge()
    names = ("PYTHONPATH", "LD_PRELOAD", "PATH", "HOME", "BASH_ENV", "OMP_NUM_THREADS", "MML_STAMP", "PYTORCH_CUDA_X")
    names += ("TORCH_LOGS", "NVIDIA_TF32=1\nLD_PRELOAD", "", "PYTHONSTARTUP", "CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA\0")

    def change(told: dict[str, Any]) -> None:
        start = told["starts"][0]
        for _ in range(rng.randrange(1, 4)):
            start["environment"][rng.choice(names)] = rng.choice((leaf(rng, world), 1, None, [leaf(rng, world)]))
        for field in ("folder", "threads", "python", "git_sha", "versions", "machine"):
            if rng.random() < 0.15:
                start[field] = rng.choice((leaf(rng, world), str(world.outside), -1, 10**30, {}, [leaf(rng, world)]))
        for field in ("name", "overrides", "command", "seed", "starts"):
            if rng.random() < 0.15:
                told[field] = rng.choice((leaf(rng, world), overrides(rng, world), {"a": leaf(rng, world)}))

    forged.change_json(world.forged / "manifest.json", change)
    return ("mml", "rerun", str(world.forged), "--out", "report/again")


def node(rng: random.Random, world: World, depth: int = 0) -> Any:
    """A part of a file of configs."""
    kind = rng.randrange(8 if depth < 4 else 4)
    if kind < 4:
        return leaf(rng, world).strip("'")
    if kind == 4:
        return [node(rng, world, depth + 1)]
    keys = rng.sample(KEYS, rng.randrange(1, 4))
    if kind == 5:
        return {"_target_": rng.choice(CALLED), **{key: node(rng, world, depth + 1) for key in keys[:1]}}
    return {key: node(rng, world, depth + 1) for key in keys}


def configs(rng: random.Random, world: World) -> forged.Command:
    """A folder of configs."""
    if rng.random() < 0.3:
        forged.CONFIGS[rng.choice(list(forged.CONFIGS))](world)
        return rng.choice(forged.config_commands(world))
    content: dict[str, Any] = {}
    for _ in range(rng.randrange(1, 4)):
        keys = [key for key in rng.choice(ROOTS).replace("/", ".").split(".") if key] or ["x"]
        place = content
        for key in keys[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                break
        else:
            place[keys[-1]] = node(rng, world)
    if rng.random() < 0.3:
        content["trusted"] = rng.choice((["os", "pathlib", "subprocess"], "os", "${x}", {"a": "os"}))
    forged.config(yaml.safe_dump(content))(world)
    return rng.choice(forged.config_commands(world))


def attack(ground: Ground, rng: random.Random) -> None:
    """One attack in a process of its own.

    Raises:
        AssertionError: it was one.
    """
    if ground.world is None:
        ground.world = World(ground.folder / "world", ground)
    world: World = ground.world
    world.clean()
    command = rng.choices((saved, manifest, configs), (6, 1, 3))[0](rng, world)
    outcome = world.tries(*command)
    told = f"{' '.join(command)}: {outcome.hits}\n{outcome.said}"
    assert not outcome.hits and "HIT" not in outcome.said, told
    assert outcome.code not in (CRASHED, -9) and "Traceback" not in outcome.said, told
    lines = [line for line in outcome.said.splitlines() if "error:" in line]
    if outcome.code and lines:
        raise UserError(lines[-1])
